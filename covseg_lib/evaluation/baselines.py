"""Baselines without a network: an intensity range, the mean lesion map, the empty mask."""

import numpy as np
import pandas as pd

from covseg_lib import files
from covseg_lib.data.slices import Slices
from covseg_lib.evaluation import metrics, tables


def predict_baselines(slices: Slices) -> None:
    """Predict the test slices of every compared split and fold with the three baselines.

    Each is fitted to the training slices of the same split and fold: the best intensity range
    (within the lungs, if there are lung masks), the mean lesion map, and the empty mask. Writes
    predictions/(baselines).csv, with the columns of `tables.pixel_counts`, and the checksum of the
    slices that it was made from.
    """
    recipes = tables.compared_runs(slices.study).values()
    pairs = dict.fromkeys((recipe.split, recipe.fold) for recipe in recipes)
    counts = pd.concat([_predict(slices, split, fold) for split, fold in pairs])
    counts = counts.assign(slices_sha256=slices.about["slices_sha256"])
    files.write_csv(slices.study.path("counts", run=tables.BASELINES_FILE), counts)


def mean_lesion_map(masks: np.ndarray) -> np.ndarray:
    """Return the pixels (size, size, 1) bool that are most often lesion in n masks.

    The mean of the masks, at the threshold with the highest Dice on these masks. The prediction is
    the same for every slice.
    """
    share = masks.mean(axis=0)
    levels = np.sort(share, axis=None)[::-1]
    found = levels.cumsum()  # lesion pixels a slice, if all pixels down to a level are predicted
    dice = 2 * found / (np.arange(1, len(found) + 1) + found[-1])
    return (share >= levels[dice.argmax()]) & (share > 0)


def best_intensity_range(
    images: np.ndarray, masks: np.ndarray, lungs: np.ndarray | bool = True, bins: int = 100
) -> tuple[float, float]:
    """Return the range (low, high) with the highest Dice, if all pixels in it are predicted.

    Parameters
    ----------
    images, masks : (n, size, size, 1) arrays
    lungs : array of the same shape, or True
        Only pixels of the lungs are predicted.
    bins : int
        All ranges between two of `bins` + 1 levels are tried.
    """
    levels = np.linspace(images.min(), images.max(), bins + 1)
    inside = np.broadcast_to(lungs, images.shape) > 0
    lesion = np.concatenate([[0], np.histogram(images[inside & (masks > 0)], levels)[0].cumsum()])
    total = np.concatenate([[0], np.histogram(images[inside], levels)[0].cumsum()])
    tp, predicted = lesion[None] - lesion[:, None], total[None] - total[:, None]  # (low, high)
    dice = np.where(predicted > 0, 2 * tp / np.maximum(predicted + np.count_nonzero(masks), 1), 0)
    low, high = np.unravel_index(dice.argmax(), dice.shape)
    return float(levels[low]), float(levels[high])


def _predict(slices, split, fold):
    """Return the counts of the three baselines on the test slices of a split and fold."""
    train = slices.rows("train", split=split, fold=fold)
    test = slices.rows("test", split=split, fold=fold)
    images = slices.images
    masks = slices.masks
    lungs = slices.lungs
    if lungs is None:
        lungs = np.ones((len(images), 1, 1, 1), bool)
    low, high = best_intensity_range(images[train], masks[train], lungs[train])
    predicted = (
        (images[test] >= low) & (images[test] <= high) & (lungs[test] > 0),
        mean_lesion_map(masks[train])[None],
        np.zeros((1, 1, 1, 1), bool),
    )
    table = slices.table.loc[test, ["case", "patient", "slice"]]
    return pd.concat(
        metrics.add_counts(
            table.assign(model=name, split=split, fold=fold, subset="test"), masks[test], mask
        )
        for name, mask in zip(tables.BASELINES, predicted, strict=True)
    )
