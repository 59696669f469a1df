"""What it is worth to a test slice that a neighbour of it was trained on: the leak of a split by slices."""

import numpy as np
import pandas as pd

from covseg_lib import scores, sliced, slices


def by_distance(study):
    """Return the Dice of every test slice with a lesion and how far it is from the nearest slice trained on.

    Returns
    -------
    DataFrame, one row a model and slice: split, model, fold, case, slice, mm (see `mm_to_training`), dice
    """
    found = scores.counted(study)
    found = found[~found["model"].isin(scores.BASELINES) & (found["tp"] + found["fn"] > 0)]
    listed = slices.table(study)[["case", "slice"]]
    columns = ["split", "model", "fold", "case", "slice", "mm", "dice"]
    if found.empty:  # no test slice has a lesion
        return found.reindex(columns=columns)
    keys = found[["split", "fold"]].drop_duplicates().itertuples(index=False)
    apart = [listed.assign(split=s, fold=f, mm=mm_to_training(study, s, f)) for s, f in keys]
    found = found.assign(dice=scores.of_table(found, ["dice"])["dice"]).merge(pd.concat(apart))
    return found[columns]


def mm_to_training(study, split=None, fold=0):
    """Return how far each slice of processed_data is from the nearest slice of its case that is trained on, in mm.

    (N,) float, 0 for a training slice, infinite where no slice of the case is. Distances are those of the headers.
    """
    listed = slices.table(study)
    trained = np.isin(np.arange(len(listed)), slices.rows_of(study, "train", split=split, fold=fold))
    apart = np.full(len(listed), np.inf)
    for case, of_case in listed.groupby("case"):
        near = of_case["slice"].to_numpy()[trained[of_case.index]]
        if len(near):
            mm = sliced.about(study.need("sliced_case", case=case))["mm"][0]
            apart[of_case.index] = mm * np.abs(of_case["slice"].to_numpy()[:, None] - near).min(axis=1)
    return apart


def twins(study, split=None, fold=0, most=200):
    """Find for test slices with lesions the training slice that looks most alike: what copying its mask would mark.

    Where no test slice has a lesion, for all. Alike is by the squared differences of a grid of pixels, 64 x 64 at
    most. Of more than `most` slices, some evenly spread are taken.

    Returns
    -------
    DataFrame, one row a test slice, index its row in processed_data: case, patient, slice, and twin, the row of the
    training slice
    """
    images, listed = slices.arrays(study, ["images"])[0], slices.table(study)
    train, test = (slices.rows_of(study, side, split=split, fold=fold) for side in ("train", "test"))
    ill = listed["lesion_pixels"].to_numpy()[test] > 0
    test = test[ill] if ill.any() else test
    test = test[:: -(-len(test) // most) or 1]
    step = -(-images.shape[1] // 64)
    seen, asked = (images[:, ::step, ::step, 0][rows].reshape(len(rows), -1) for rows in (train, test))
    apart = (seen**2).sum(axis=1) - 2 * asked @ seen.T  # and the square of `asked`, the same for all that are compared
    return listed.loc[test, ["case", "patient", "slice"]].assign(twin=train[apart.argmin(axis=1)])
