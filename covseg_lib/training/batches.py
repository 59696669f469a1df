"""What the network sees: normalised slices with their neighbours, in batches for `fit`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import keras
import numpy as np
import pandas as pd

from covseg_lib.data.slices import Slices
from covseg_lib.images import resizing
from covseg_lib.training import devices
from covseg_lib.training.augmentation import Augmentation
from covseg_lib.training.recipes import Recipe, run_name
from covseg_lib.training.run_folder import RunFolder, need_made


@dataclass(frozen=True)
class Inputs:
    """The inputs of the network for all slices of one or several volumes.

    `inputs[rows]` returns the inputs of some slices, (n, size, size, channels) float32. The
    channels are the slices below, the slice itself, the slices above, and the lung mask. At the
    ends of a volume, its first or last slice stands for a missing neighbour.

    Parameters
    ----------
    images : (N, size, size, 1) float32 array or memory map, standardised
    cases : (N,) array, the case of each slice; the slices of a case follow one another
    scales : (N, 2) float32 array, optional
        Factor and offset that normalise each slice, see `resizing.normalising_scales`.
    neighbours : int
        Number of slices below, and above, that become channels.
    lungs : (N, size, size, 1) uint8 array or memory map, optional

    Examples
    --------
    >>> images = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)
    >>> inputs = Inputs(images, np.array(["a", "a", "b"]), neighbours=1)
    >>> inputs[np.array([0, 1, 2])].reshape(3, 3).tolist()
    [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    """

    images: np.ndarray
    cases: np.ndarray
    scales: np.ndarray | None = None
    neighbours: int = 0
    lungs: np.ndarray | None = None

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last row of each slice's case."""
        codes = pd.factorize(self.cases)[0]
        return np.searchsorted(codes, codes), np.searchsorted(codes, codes, side="right") - 1

    def __getitem__(self, rows):
        rows = np.arange(len(self.images))[rows]
        steps = np.arange(-self.neighbours, self.neighbours + 1)
        first, last = (bound[rows, None] for bound in self.bounds)
        taken = np.clip(rows[:, None] + steps, first, last)
        channels = [self.images[column] for column in taken.T]
        if self.scales is not None:
            factor, offset = self.scales[rows].T[..., None, None, None]
            channels = [image * factor + offset for image in channels]
        if self.lungs is not None:
            channels.append(self.lungs[rows].astype(np.float32))
        return channels[0] if len(channels) == 1 else np.concatenate(channels, axis=-1)


class Batches(keras.utils.PyDataset):
    """Slices and masks in batches, in the order of the first epoch until `shuffle` is called.

    The order follows from the seed and the epoch alone, so a resumed run sees the same batches as
    one that was not interrupted. (`fit(shuffle=True)` starts again after a resume.)

    Parameters
    ----------
    images : `Inputs`, or (N, size, size, 1) float32 array or memory map
    masks : (N, size, size, 1) uint8 array or memory map
    rows : (n,) int array, the rows to use
    batch_size : int
    seed : int
    full : bool
        Whether the last batch is filled up by slices of its own. XLA compiles the network again for
        each size of a batch.
    draw : function of a numpy.random.Generator, optional
        Returns the rows of an epoch. Default: all rows, shuffled.
    augmentation : Augmentation, optional

    Examples
    --------
    >>> images = np.zeros((9, 4, 4, 1), np.float32)
    >>> batches = Batches(images, images, np.array([8, 1, 5]), 2, seed=0, full=True)
    >>> [len(batches[number][0]) for number in range(len(batches))]
    [2, 2]
    """

    def __init__(
        self,
        images: np.ndarray | Inputs,
        masks: np.ndarray,
        rows: np.ndarray,
        batch_size: int,
        seed: int,
        full: bool = False,
        draw: Callable[[np.random.Generator], np.ndarray] | None = None,
        augmentation: Augmentation | None = None,
    ):
        # Keras' second worker makes epochs wait 0.1 s at their end; on JAX it also reads ahead,
        # and a training would begin with batches of another epoch
        two = augmentation and keras.backend.backend() == "tensorflow"
        super().__init__(workers=2 if two else 1)
        self.images = images
        self.masks = masks
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.full = full
        self.draw = draw or (lambda rng: rng.permutation(rows))
        self.augmentation = augmentation
        self.shuffle(0)

    def shuffle(self, epoch: int) -> None:
        """Shuffle the slices for an epoch, counted from 0."""
        self.epoch = epoch
        rows = self.draw(np.random.default_rng((self.seed, epoch)))
        starts = range(0, len(rows), self.batch_size)
        self.batches = [rows[start : start + self.batch_size] for start in starts]
        if self.full:
            self.batches[-1] = np.resize(self.batches[-1], self.batch_size)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        devices.reuse_freed_memory()
        rows = self.batches[number]
        images, masks = self.images[rows], self.masks[rows]
        if self.augmentation:
            seed = (self.seed, self.epoch, number)
            images, masks = self.augmentation(images, masks, seed)
        return images, masks

    def for_fit(self) -> Any:
        """Return what `fit` reads: for TensorFlow a tf.data.Dataset, otherwise these batches.

        Keras would make a dataset, too, but one that tunes itself, and epochs wait for that at
        their end (docs/training.md). Augmented batches, which take time, stay with Keras' threads.
        """
        if keras.backend.backend() != "tensorflow" or self.augmentation:
            return self
        return devices.tensorflow_dataset(self)


def make_inputs(
    recipe: Recipe, images: np.ndarray, cases: np.ndarray, lungs: np.ndarray | None = None
) -> Inputs:
    """Return the inputs that a recipe asks for; parameters as for `Inputs`."""
    made_with = recipe.preprocessing
    low, high = made_with["window_hu"]
    grey = (np.array(resizing.TISSUE_HU) - low) / (high - low) * 255
    tissue = (grey - made_with["mean"]) / made_with["std"]
    scales = resizing.normalising_scales(images, cases, recipe.normalisation, lungs, tuple(tissue))
    if lungs is not None:
        of_cases = (lungs[cases == case, ..., 0] for case in pd.unique(cases))
        lungs = np.concatenate([resizing.fill_lungs(volume) for volume in of_cases])[..., None]
    return Inputs(images, cases, scales, recipe.neighbours, lungs)


def lung_checksum(recipe: Recipe, slices: Slices) -> str:
    """Return the checksum of the lung model whose masks a recipe uses; "" if it uses none.

    Raises FileNotFoundError if there are no masks by the model's present weights.
    """
    if recipe.lungs in ("none", "given"):
        return ""
    run = run_name(recipe.lungs, recipe.fold)
    need_made(slices.study, "predicted_lungs", run)
    return RunFolder.of(slices.study, run).read().checksum


def open_inputs(recipe: Recipe, slices: Slices) -> Inputs:
    """Return the inputs that a recipe asks for, of all slices.

    They are kept for the next call with the same slices: filled lungs take seconds to compute.

    Raises FileNotFoundError if the recipe needs lung masks that the study does not have.
    """
    asked = (recipe.normalisation, recipe.neighbours, recipe.lungs, lung_checksum(recipe, slices))
    if asked not in slices.inputs:
        slices.inputs.clear()  # of another recipe
        cases = slices.table["case"].to_numpy()
        lungs = _open_lungs(recipe, slices)
        slices.inputs[asked] = make_inputs(recipe, slices.images, cases, lungs)
    return slices.inputs[asked]


def _open_lungs(recipe, slices):
    """Return the lung masks that a recipe uses, (N, size, size, 1) uint8; None if it uses none."""
    if recipe.lungs == "none":
        return None
    if recipe.lungs == "given":
        slices.study.need("lungs")
        return slices.lungs
    run = run_name(recipe.lungs, recipe.fold)
    return np.load(need_made(slices.study, "predicted_lungs", run), mmap_mode="r")


def true_masks(recipe: Recipe, slices: Slices) -> np.ndarray:
    """Return the masks that a recipe learns, (N, size, size, 1) uint8: of lesions, or of lungs."""
    if recipe.target == "lesions":
        return slices.masks
    if slices.lungs is None:
        slices.study.need("lungs")  # raises
    return slices.lungs  # type: ignore[return-value]


def training_batches(recipe: Recipe, slices: Slices) -> Batches:
    """Return the training batches of a recipe."""
    subsets = ("train",) if recipe.selection == "validation" else ("train", "validation")
    rows = slices.rows(*subsets, split=recipe.split, fold=recipe.fold)
    inputs, masks = _for_training(recipe, slices)
    draw = None
    if recipe.sampling == "balanced":
        table = slices.table.loc[rows]
        has_lesion = table["lesion_pixels"] > 0
        draw = partial(balanced_rows, len(masks), rows, table["patient"], has_lesion)
    augmentation = None
    if recipe.augmentation:
        landmarks = recipe.normalisation == "landmarks"
        augmentation = Augmentation(inputs.lungs is not None, landmarks)
    full = devices.compiles_each_size()
    return Batches(inputs, masks, rows, recipe.batch_size, recipe.seed, full, draw, augmentation)


def validation_batches(recipe: Recipe, slices: Slices) -> Batches:
    """Return the validation batches of a recipe, in which each slice is once.

    Where XLA compiles the network again for each size of a batch, they are all of one size, if
    possible.
    """
    rows = slices.rows("validation", split=recipe.split, fold=recipe.fold)
    inputs, masks = _for_training(recipe, slices)
    size = recipe.batch_size
    if devices.compiles_each_size():
        sizes = range(max(1, size // 2), size + 1)
        size = max((n for n in sizes if len(rows) % n == 0), default=size)
    return Batches(inputs, masks, rows, size, recipe.seed)


def _for_training(recipe, slices):
    """Return inputs and masks; where that is faster, in the memory of the GPU."""
    inputs = open_inputs(recipe, slices)
    masks = true_masks(recipe, slices)
    if recipe.channels == 1 and not recipe.augmentation:
        inputs = replace(inputs, images=devices.on_device(inputs.images))
        masks = devices.on_device(masks)
    return inputs, masks


def balanced_rows(
    count: int,
    rows: np.ndarray,
    patients: pd.Series,
    has_lesion: pd.Series,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw `count` of some rows, with replacement: every second one has a lesion.

    The patient is drawn first, then one of the patient's slices. So patients with many slices, and
    slices without lesions, do not outnumber the others. An epoch draws as many slices as the study
    has, so all folds train for the same number of steps.

    Parameters
    ----------
    count : int
    rows, patients, has_lesion : (n,)
        Row, patient and lesion of each slice.
    rng : numpy.random.Generator
    """
    table = pd.DataFrame({"row": rows, "patient": np.asarray(patients)})
    lesions = table[np.asarray(has_lesion)]
    pools = [
        [group.to_numpy() for _, group in part.groupby("patient")["row"]]
        for part in (table, lesions)
    ]
    drawn = [pools[turn % 2][rng.integers(len(pools[turn % 2]))] for turn in range(count)]
    return np.array([rng.choice(slices) for slices in drawn])
