"""What a predicted mask is worth, and the tables of it.

A mask is compared as yes or no, and all that scores need of two masks is four counts of pixels: lesion that is marked
(TP), healthy that is marked (FP), lesion that is not (FN), healthy that is not (TN). predictions/<run>.csv holds them
slice by slice; every table adds them up. Where both masks are empty they agree, and every score is 1.
"""

import numpy as np
import pandas as pd

from covseg_lib import models, slices, storage

COUNTS = ["tp", "fp", "fn", "tn"]
BASELINES = ("(grey band)", "(usual place)", "(empty mask)")
THRESHOLDS = tuple(number / 20 for number in range(1, 20))
BASELINES_FILE = "(baselines)"  # no run can be called so


def counts(true, pred):
    """Return TP, FP, FN, TN of masks of any one shape, (4,) int; of stacks (n, ..., 1) use `counts_by_slice`."""
    true, pred = np.asarray(true) > 0, np.asarray(pred) > 0
    if true.shape != pred.shape:
        raise ValueError(f"the true mask is {true.shape} and the predicted one {pred.shape}: expected one shape")
    return counts_by_slice(true.reshape(1, -1), pred.reshape(1, -1))[0]


def counts_by_slice(true, pred):
    """Return TP, FP, FN, TN of each of n masks (n, ...), in the order of `COUNTS`: (n, 4) int."""
    true, pred = (np.asarray(masks).reshape(len(masks), -1) > 0 for masks in (true, pred))
    both = (true & pred).sum(axis=1)
    false_alarms, missed = pred.sum(axis=1) - both, true.sum(axis=1) - both
    return np.stack([both, false_alarms, missed, true.shape[1] - both - false_alarms - missed], axis=1)


def with_counts(table, true, pred):
    """Return a table of n slices with the counts of their masks (n, ...) added; `pred` may be one for all, (1, ...)."""
    found = counts_by_slice(true, np.broadcast_to(pred, np.shape(true)))
    return table.assign(**dict(zip(COUNTS, found.T, strict=True)))


def accuracy(true, pred):
    """Pixel accuracy, (TP + TN) / all.

    >>> accuracy([1, 1, 0, 0], [1, 0, 0, 0])
    0.75
    """
    return _of("accuracy", true, pred)


def iou(true, pred):
    """Intersection over union of the lesion, TP / (TP + FP + FN).

    >>> iou([1, 1, 0, 0], [1, 0, 0, 0])
    0.5
    """
    return _of("iou", true, pred)


def mean_iou(true, pred):
    """Mean of the lesion's IoU and the background's, TN / (TN + FP + FN): probably what the report calls IoU.

    >>> mean_iou([1, 1, 0, 0], [1, 0, 0, 0])
    0.5833333333333333
    """
    return _of("mean_iou", true, pred)


def dice(true, pred):
    """Dice coefficient of the lesion, 2 TP / (2 TP + FP + FN).

    >>> dice([1, 1, 0, 0], [1, 0, 0, 0])
    0.6666666666666666
    """
    return _of("dice", true, pred)


def precision(true, pred):
    """Share of the marked pixels that are lesion, TP / (TP + FP); where none is marked 0, or 1 if there is no lesion.

    >>> precision([1, 1, 0, 0], [1, 0, 0, 0])
    1.0
    """
    return _of("precision", true, pred)


def recall(true, pred):
    """Share of the lesion's pixels that are marked, TP / (TP + FN); without a lesion 1 if none is marked, else 0.

    >>> recall([1, 1, 0, 0], [1, 0, 0, 0])
    0.5
    """
    return _of("recall", true, pred)


def specificity(true, pred):
    """Share of the healthy pixels that are left unmarked, TN / (TN + FP); 1 where all is lesion.

    >>> specificity([1, 1, 0, 0], [1, 0, 1, 0])
    0.5
    """
    return _of("specificity", true, pred)


SCORES = {function.__name__: function for function in (accuracy, iou, mean_iou, dice, precision, recall, specificity)}


def of_counts(name, tp, fp, fn, tn):
    """Return the score called `name` of counts of pixels: arrays of any one shape, or numbers; floats of that shape."""
    formulas = {  # part, whole, and what the score is where the whole is 0
        "accuracy": lambda: (tp + tn, tp + fp + fn + tn, 1.0),
        "iou": lambda: (tp, tp + fp + fn, 1.0),
        "dice": lambda: (2 * tp, 2 * tp + fp + fn, 1.0),
        "precision": lambda: (tp, tp + fp, np.equal(fn, 0)),
        "recall": lambda: (tp, tp + fn, np.equal(fp, 0)),
        "specificity": lambda: (tn, tn + fp, 1.0),
    }
    if name == "mean_iou":
        return (of_counts("iou", tp, fp, fn, tn) + of_counts("iou", tn, fn, fp, tp)) / 2
    part, whole, empty = formulas[name]()
    return np.where(whole > 0, part / np.maximum(whole, 1), empty)


def of_table(counted, names=tuple(SCORES)):
    """Return the scores of each row of a table with the columns `COUNTS`: DataFrame with the same index."""
    columns = [counted[name] for name in COUNTS]
    return pd.DataFrame({name: of_counts(name, *columns) for name in names}, index=counted.index)


def counted(study, sides=("test",), recipes=None):
    """Return the counts of every compared run and baseline, slice by slice.

    Parameters
    ----------
    study : Study
    sides : sequence of str
        Of "train", "validation" and "test"; baselines have test slices only.
    recipes : dict, optional
        What `models.compared` returned, where it was asked before.

    Returns
    -------
    DataFrame, one row a model and slice, the report's split first: split, model, fold, side, case, patient, slice, and
    `COUNTS`
    """
    recipes = models.compared(study) if recipes is None else recipes
    named = [
        read_counts(study, run).assign(**{name: recipe[name] for name in ("split", "model", "fold")})
        for run, recipe in recipes.items()
    ]
    everything = pd.concat([*named, read_counts(study, BASELINES_FILE)])
    asked = {(recipe["split"], recipe["fold"]) for recipe in recipes.values()}
    kept = [key in asked for key in zip(everything["split"], everything["fold"], strict=True)]
    everything = everything[np.array(kept) & everything["side"].isin(sides)]
    return everything.sort_values("split", ascending=False, kind="stable").reset_index(drop=True)  # the report's first


def table(study):
    """Score every model and, on the same slices, what scores without a network.

    Returns
    -------
    DataFrame, index (split, model), in the order of `Study.runs` and the baselines last: `SCORES`, all pixels of all
    test slices counted together; Dice averaged over cases and over slices as well (a slice without lesion where none
    is marked counts as 1); and how many slices, patients and folds these are
    """
    found = counted(study)
    groups = found.groupby(["split", "model"], sort=False)
    means = {f"dice_by_{unit}": _mean_dice(found, unit) for unit in ("case", "slice")}
    sizes = {"slices": groups.size(), "patients": groups["patient"].nunique(), "folds": groups["fold"].nunique()}
    return of_table(groups[COUNTS].sum()).assign(**means, **sizes)


def by_case(study):
    """Return the scores of every model and case, all its test slices together; index (split, model, case)."""
    return of_table(counted(study).groupby(["split", "model", "case"], sort=False)[COUNTS].sum())


def by_threshold(study, thresholds=THRESHOLDS):
    """Return the Dice of every model's test slices, pooled, where a pixel counts as lesion from some probabilities on.

    DataFrame, a column (split, model) each, a row a threshold.
    """
    masks, found = slices.arrays(study, ["masks"])[0], {}
    for run, recipe in models.compared(study).items():
        truth = masks[slices.rows_of(study, "test", split=recipe["split"], fold=recipe["fold"])]
        probabilities = np.load(study.need("prediction", run=run))
        counted_at = np.array([counts(truth, probabilities >= threshold) for threshold in thresholds])
        key = recipe["split"], recipe["model"]
        found[key] = found.get(key, 0) + counted_at
    return pd.DataFrame({key: of_counts("dice", *table.T) for key, table in found.items()}, index=thresholds)


def _of(name, true, pred):
    return float(of_counts(name, *counts(true, pred)))


def read_counts(study, run):
    """Return predictions/<run>.csv: a row a slice, its `COUNTS`, case, patient, slice and side."""
    return storage.read_csv(study.need("counts", run=run))


def _mean_dice(found, unit):
    by_unit = found.groupby(["split", "model", "case", *(["slice"] if unit == "slice" else [])], sort=False)[COUNTS]
    return of_table(by_unit.sum(), ["dice"])["dice"].groupby(["split", "model"], sort=False).mean()
