"""What scores without a network, to stand beside every score: a band of grey levels, the usual place, nothing."""

import numpy as np
import pandas as pd

from covseg_lib import models, scores, slices, storage


def predict_study(study):
    """Count the baselines' hits and misses on the test slices of every split and fold that models are compared on.

    Each is fitted to the training slices of the same split and fold: the grey band (in the lungs where there are lung
    masks), the usual place, and the empty mask. Writes predictions/(baselines).csv, rows as `scores.counted` has them.
    """
    asked = dict.fromkeys((recipe["split"], recipe["fold"]) for recipe in models.compared(study).values())
    tables = [_predict(study, split, fold) for split, fold in asked]
    storage.write_csv(study.path("counts", run=scores.BASELINES_FILE), pd.concat(tables))


def usual_place(masks):
    """Return which pixels (size, size, 1) bool are most often lesion in masks (n, size, size, 1).

    It is the mean lesion map, cut where the Dice on these masks is highest: the same in every slice, whatever the slice
    shows.
    """
    share = masks.mean(axis=0)
    levels = np.sort(share, axis=None)[::-1]
    found = levels.cumsum()  # in a slice, if the pixels down to each level are marked
    dice_of_level = 2 * found / (np.arange(1, len(found) + 1) + found[-1])
    return (share >= levels[dice_of_level.argmax()]) & (share > 0)


def best_band(images, masks, lungs=True, bins=100):
    """Return the grey levels (low, high) between which lies what is likest the lesions: the plainest baseline.

    Of all bands between two of `bins` + 1 levels it is the one with the highest Dice on these slices, if only pixels
    of the `lungs` (a mask of the same shape, or True for all pixels) are marked.
    """
    levels = np.linspace(images.min(), images.max(), bins + 1)
    inside = np.broadcast_to(lungs, images.shape) > 0
    lesion = np.concatenate([[0], np.histogram(images[inside & (masks > 0)], levels)[0].cumsum()])
    total = np.concatenate([[0], np.histogram(images[inside], levels)[0].cumsum()])
    found, marked = lesion[None] - lesion[:, None], total[None] - total[:, None]  # (low, high)
    dice = np.where(marked > 0, 2 * found / np.maximum(marked + np.count_nonzero(masks), 1), 0)
    low, high = np.unravel_index(dice.argmax(), dice.shape)
    return float(levels[low]), float(levels[high])


def _predict(study, split, fold):
    """Return the counts of the three baselines on the test slices of a split and fold."""
    rows = {side: slices.rows_of(study, side, split=split, fold=fold) for side in ("train", "test")}
    images, masks = slices.arrays(study)
    lungs = np.ones((len(images), 1, 1, 1), bool)
    if study.path("lungs").exists():
        (lungs,) = slices.arrays(study, ["lungs"])
    low, high = best_band(images[rows["train"]], masks[rows["train"]], lungs[rows["train"]])
    test, truth = images[rows["test"]], masks[rows["test"]]
    place = usual_place(masks[rows["train"]])
    masks_of = ((test >= low) & (test <= high) & (lungs[rows["test"]] > 0), place[None], np.zeros((1, 1, 1, 1), bool))
    about = slices.table(study).loc[rows["test"], ["case", "patient", "slice"]]
    return pd.concat(
        scores.with_counts(about.assign(model=name, split=split, fold=fold, side="test"), truth, mask)
        for name, mask in zip(scores.BASELINES, masks_of, strict=True)
    )
