"""Batches of slices for `fit`, in an order that can be repeated."""

import contextlib
import ctypes
from collections.abc import Callable

import keras
import numpy as np

from covseg_lib.data import preprocessing
from covseg_lib.study import Study
from covseg_lib.training.recipes import Recipe

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


class Batches(keras.utils.PyDataset):
    """Slices and masks in batches, in the order of the first epoch until `shuffle` is called.

    The order follows from the seed and the epoch alone, so a resumed run sees the same batches as
    one that was not interrupted. (`fit(shuffle=True)` starts again after a resume.)

    Parameters
    ----------
    images : (N, size, size, 1) float32 array or memory map
    masks : (N, size, size, 1) uint8 array or memory map
    rows : (n,) int array, the rows to use
    batch_size : int
    seed : int
    shares : (devices, process, processes)
        Several devices share a batch: it is filled up to a multiple of their number. Of several
        processes that train together, each gets its part.

    Examples
    --------
    >>> images = np.zeros((9, 4, 4, 1), np.float32)
    >>> batches = Batches(images, images, np.array([8, 1, 5]), 2, seed=0, shares=(2, 0, 1))
    >>> [len(batches[number][0]) for number in range(len(batches))]
    [2, 2]
    """

    def __init__(
        self,
        images: np.ndarray,
        masks: np.ndarray,
        rows: np.ndarray,
        batch_size: int,
        seed: int,
        shares: tuple[int, int, int] = (1, 0, 1),
    ):
        super().__init__(workers=2)  # with one worker, epochs wait for tf.data (docs/training.md)
        self.images, self.masks, self.rows = images, masks, rows
        self.batch_size, self.seed, self.shares = batch_size, seed, shares
        self.shuffle(0)

    def shuffle(self, epoch: int) -> None:
        """Shuffle the slices for an epoch, counted from 0."""
        devices, process, processes = self.shares
        rows = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
        starts = range(0, len(rows), self.batch_size)
        batches = [rows[start : start + self.batch_size] for start in starts]
        filled = [np.resize(batch, -(-len(batch) // devices) * devices) for batch in batches]
        self.batches = [np.split(batch, processes)[process] for batch in filled]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        _reuse_freed_memory()
        rows = self.batches[number]
        return self.images[rows], self.masks[rows]


def _reuse_freed_memory():
    """Let glibc keep freed memory for the next step.

    When TensorFlow is fed by a generator it makes glibc return freed memory to the system at every
    step, which nearly doubles the time of an epoch on a CPU (docs/training.md).
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or not glibc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


class ShuffleBatches(keras.callbacks.Callback):
    """Shuffle the training batches at the start of each epoch.

    A dataset cannot do that itself: Keras also calls its `on_epoch_end` when no epoch has ended.
    """

    def __init__(self, batches: Batches):
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch, logs=None):
        """Shuffle, before Keras asks for the first batch."""
        self.batches.shuffle(epoch)


def make_batches(
    study: Study, recipe: Recipe, shares: tuple[int, int, int] = (1, 0, 1)
) -> tuple[Batches, Batches]:
    """Return the training batches and the validation batches of a recipe."""
    images, masks = preprocessing.open_arrays(study)
    split, fold = recipe.split, recipe.fold
    train = preprocessing.subset_rows(study, "train", split=split, fold=fold)
    validation = preprocessing.subset_rows(study, "validation", split=split, fold=fold)
    options = (recipe.batch_size, recipe.seed, shares)
    return Batches(images, masks, train, *options), Batches(images, masks, validation, *options)


def check_lesions(study: Study, recipe: Recipe, log: Callable[[str], None] = print) -> None:
    """Raise ValueError if no training slice has a lesion; warn if no validation slice has one."""
    lesions = preprocessing.slice_table(study)["lesion_pixels"].to_numpy()
    for subset in ("train", "validation"):
        rows = preprocessing.subset_rows(study, subset, split=recipe.split, fold=recipe.fold)
        if lesions[rows].any():
            continue
        if subset == "train":
            raise ValueError(
                f"no training slice of the {recipe.split} split, fold {recipe.fold}, has a lesion: "
                "there is nothing to learn. Choose another SPLIT or FOLD, or another SEED in "
                "notebook 02"
            )
        log(
            "WARNING: no validation slice has a lesion, so the best epoch means little: choose "
            "another SEED in notebook 02"
        )
