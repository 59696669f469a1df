"""What the network sees: normalised slices with their neighbours, in batches for `fit`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import keras
import numpy as np
import pandas as pd

from covseg_lib.data import preprocessing
from covseg_lib.images import resizing
from covseg_lib.study import Study
from covseg_lib.training import devices
from covseg_lib.training.augmentation import Augmentation
from covseg_lib.training.recipes import Recipe, run_name


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
    shares : (devices, process, processes)
        Several devices share a batch: it is filled up to a multiple of their number, by slices of
        its own. Of several processes that train together, each gets its part.
    draw : function of a numpy.random.Generator, optional
        Returns the rows of an epoch. Default: all rows, shuffled.
    augmentation : Augmentation, optional

    Examples
    --------
    >>> images = np.zeros((9, 4, 4, 1), np.float32)
    >>> batches = Batches(images, images, np.array([8, 1, 5]), 2, seed=0, shares=(2, 0, 1))
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
        shares: tuple[int, int, int] = (1, 0, 1),
        draw: Callable[[np.random.Generator], np.ndarray] | None = None,
        augmentation: Augmentation | None = None,
    ):
        # Keras' second worker makes epochs wait 0.1 s at their end; on JAX it also reads ahead,
        # and a training would begin with batches of another epoch
        two = augmentation and keras.backend.backend() == "tensorflow"
        super().__init__(workers=2 if two else 1)
        self.images, self.masks, self.rows = images, masks, rows
        self.batch_size, self.seed, self.shares = batch_size, seed, shares
        self.draw = draw or (lambda rng: rng.permutation(rows))
        self.augmentation = augmentation
        self.shuffle(0)

    def shuffle(self, epoch: int) -> None:
        """Shuffle the slices for an epoch, counted from 0."""
        devices, process, processes = self.shares
        self.epoch, rows = epoch, self.draw(np.random.default_rng((self.seed, epoch)))
        starts = range(0, len(rows), self.batch_size)
        batches = [rows[start : start + self.batch_size] for start in starts]
        filled = [np.resize(batch, -(-len(batch) // devices) * devices) for batch in batches]
        self.batches = [np.split(batch, processes)[process] for batch in filled]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        devices.reuse_freed_memory()
        rows = self.batches[number]
        images, masks = self.images[rows], self.masks[rows]
        if self.augmentation:
            seed = (self.seed, self.epoch, number, self.shares[1])
            images, masks = self.augmentation(images, masks, seed)
        return images, masks

    def for_fit(self) -> Any:
        """Return what `fit` reads: for TensorFlow a tf.data.Dataset, otherwise these batches.

        Keras would make a dataset, too, but one that tunes itself, and epochs wait for that at
        their end (docs/training.md). Augmented batches, which take time, stay with Keras' threads.
        """
        if keras.backend.backend() != "tensorflow" or self.augmentation:
            return self
        dataset = devices.tensorflow_dataset(self)
        dataset.rows, dataset.images = self.rows, self.images  # the notebooks look at them
        return dataset


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


def open_inputs(study: Study, recipe: Recipe) -> tuple[Inputs, np.ndarray]:
    """Return the inputs of a study's slices, and their masks (N, size, size, 1) uint8.

    Raises FileNotFoundError if the recipe needs lung masks that the study does not have.
    """
    target = "masks" if recipe.target == "lesions" else "lungs"
    images, masks = preprocessing.open_arrays(study, ("images", target))
    lungs = None
    if recipe.lungs == "given":
        lungs = preprocessing.open_arrays(study, ["lungs"])[0]
    elif recipe.lungs != "none":
        run = run_name(recipe.lungs, recipe.fold)
        lungs = np.load(study.need("predicted_lungs", run=run), mmap_mode="r")
    cases = preprocessing.slice_table(study)["case"].to_numpy()
    return make_inputs(recipe, images, cases, lungs), masks


def make_batches(
    study: Study, recipe: Recipe, shares: tuple[int, int, int] = (1, 0, 1)
) -> tuple[Batches, Batches]:
    """Return the training batches and the validation batches of a recipe.

    XLA compiles the network again for each size of a batch. Where it does, the last training batch
    is filled up by slices of its own, and validation batches are all of one size, if possible.
    """
    inputs, masks = open_inputs(study, recipe)
    if recipe.channels == 1 and not recipe.augmentation:
        inputs = replace(inputs, images=devices.on_device(inputs.images))
        masks = devices.on_device(masks)
    split, fold = recipe.split, recipe.fold
    subsets = ("train",) if recipe.selection == "validation" else ("train", "validation")
    train = preprocessing.subset_rows(study, *subsets, split=split, fold=fold)
    validation = preprocessing.subset_rows(study, "validation", split=split, fold=fold)
    size, validation_size, train_shares = recipe.batch_size, recipe.batch_size, shares
    if devices.compiles_each_size():
        train_shares = (-(-size // shares[0]) * shares[0], *shares[1:])
        sizes = range(max(1, size // 2), size + 1)
        validation_size = max((n for n in sizes if len(validation) % n == 0), default=size)
    draw = None
    if recipe.sampling == "balanced":
        table = preprocessing.slice_table(study).loc[train]
        draw = partial(
            balanced_rows, len(masks), train, table["patient"], table["lesion_pixels"] > 0
        )
    has_lungs, landmarks = inputs.lungs is not None, recipe.normalisation == "landmarks"
    augmentation = Augmentation(has_lungs, landmarks) if recipe.augmentation else None
    return (
        Batches(inputs, masks, train, size, recipe.seed, train_shares, draw, augmentation),
        Batches(inputs, masks, validation, validation_size, recipe.seed, shares),
    )


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
