"""Leakage of a split by slices: how much a test slice gains from a neighbour in training."""

import numpy as np
import pandas as pd

from covseg_lib.data import slicing
from covseg_lib.data.slices import Slices
from covseg_lib.evaluation import metrics, tables


def dice_by_distance(slices: Slices) -> pd.DataFrame:
    """Return the Dice of every test slice with a lesion, and its distance to training.

    Returns
    -------
    DataFrame, one row a model and slice: split, model, fold, case, slice, mm (see
    `distance_to_training_mm`), dice
    """
    counts = tables.pixel_counts(slices.study)
    counts = counts[~counts["model"].isin(tables.BASELINES) & (counts["tp"] + counts["fn"] > 0)]
    columns = ["split", "model", "fold", "case", "slice", "mm", "dice"]
    if counts.empty:  # no test slice has a lesion
        return counts.reindex(columns=columns)
    listed = slices.table[["case", "slice"]]
    distances = [
        listed.assign(split=split, fold=fold, mm=distance_to_training_mm(slices, split, fold))
        for split, fold in counts[["split", "fold"]].drop_duplicates().itertuples(index=False)
    ]
    dice = metrics.score_columns(counts, ["dice"])["dice"]
    return counts.assign(dice=dice).merge(pd.concat(distances))[columns]


def distance_to_training_mm(slices: Slices, split: str | None = None, fold: int = 0) -> np.ndarray:
    """Return the distance of each slice to the nearest training slice of its case, in mm.

    (N,) float: 0 for a training slice, infinite if no slice of the case is a training slice. The
    distance between slices is read from the scan's header.
    """
    table = slices.table
    train = slices.rows("train", split=split, fold=fold)
    is_trained = np.isin(np.arange(len(table)), train)
    distances = np.full(len(table), np.inf)
    for case, of_case in table.groupby("case"):
        numbers = of_case["slice"].to_numpy()
        trained = numbers[is_trained[of_case.index]]
        if len(trained):
            mm = slicing.read_about(slices.study.need("sliced_case", case=case))["mm"][0]
            distances[of_case.index] = mm * np.abs(numbers[:, None] - trained).min(axis=1)
    return distances


def nearest_training_slices(
    slices: Slices, split: str | None = None, fold: int = 0, most: int = 200
) -> pd.DataFrame:
    """Find the most similar training slice of each test slice with a lesion.

    If no test slice has a lesion, all test slices are used. The most similar slice has the smallest
    squared difference on a grid of at most 64 x 64 pixels.

    Parameters
    ----------
    slices : Slices
    split, fold : as for `Slices.rows`
    most : int
        If there are more test slices, at most this many are taken, at regular intervals.

    Returns
    -------
    DataFrame, one row a test slice, index its row in processed_data: case, patient, slice, and
    nearest, the row of the training slice
    """
    table = slices.table
    images = slices.images
    train = slices.rows("train", split=split, fold=fold)
    test = slices.rows("test", split=split, fold=fold)
    has_lesion = table["lesion_pixels"].to_numpy()[test] > 0
    test = test[has_lesion] if has_lesion.any() else test
    test = test[:: -(-len(test) // most) or 1]
    step = -(-images.shape[1] // 64)
    coarse = images[:, ::step, ::step, 0]
    known, asked = (coarse[rows].reshape(len(rows), -1) for rows in (train, test))
    # squared distance, without the term |asked|^2, which is the same for all training slices
    distances = (known**2).sum(axis=1) - 2 * asked @ known.T
    nearest = train[distances.argmin(axis=1)]
    return table.loc[test, ["case", "patient", "slice"]].assign(nearest=nearest)
