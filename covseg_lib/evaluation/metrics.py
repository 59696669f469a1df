"""Scores of predicted masks.

All scores are computed from four counts of pixels: lesion predicted as lesion (TP), healthy
predicted as lesion (FP), lesion predicted as healthy (FN), healthy predicted as healthy (TN). If
both masks are empty they agree, and every score is 1.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

COUNTS = ["tp", "fp", "fn", "tn"]
Count = int | np.ndarray


def count_pixels(true: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Return TP, FP, FN, TN of two masks of the same shape: (4,) int; ValueError for others."""
    true, pred = np.asarray(true) > 0, np.asarray(pred) > 0
    if true.shape != pred.shape:
        raise ValueError(
            f"the true mask is {true.shape} and the predicted one {pred.shape}: expected one shape"
        )
    return counts_by_slice(true.reshape(1, -1), pred.reshape(1, -1))[0]


def counts_by_slice(true: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Return TP, FP, FN, TN of each of n masks (n, ...), in the order of `COUNTS`: (n, 4) int."""
    true, pred = (np.asarray(masks).reshape(len(masks), -1) > 0 for masks in (true, pred))
    both = (true & pred).sum(axis=1)
    fp, fn = pred.sum(axis=1) - both, true.sum(axis=1) - both
    return np.stack([both, fp, fn, true.shape[1] - both - fp - fn], axis=1)


def add_counts(table: pd.DataFrame, true: np.ndarray, pred: np.ndarray) -> pd.DataFrame:
    """Add the counts of n masks (n, ...) to a table of n slices; `pred` may be (1, ...) for all."""
    found = counts_by_slice(true, np.broadcast_to(pred, np.shape(true)))
    return table.assign(**dict(zip(COUNTS, found.T, strict=True)))


def accuracy(true: np.ndarray, pred: np.ndarray) -> float:
    """Pixel accuracy, (TP + TN) / all.

    >>> accuracy([1, 1, 0, 0], [1, 0, 0, 0])
    0.75
    """
    return _score("accuracy", true, pred)


def iou(true: np.ndarray, pred: np.ndarray) -> float:
    """Intersection over union of the lesion, TP / (TP + FP + FN).

    >>> iou([1, 1, 0, 0], [1, 0, 0, 0])
    0.5
    """
    return _score("iou", true, pred)


def mean_iou(true: np.ndarray, pred: np.ndarray) -> float:
    """Mean of the lesion's IoU and the background's, probably what the report calls IoU.

    >>> mean_iou([1, 1, 0, 0], [1, 0, 0, 0])
    0.5833333333333333
    """
    return _score("mean_iou", true, pred)


def dice(true: np.ndarray, pred: np.ndarray) -> float:
    """Dice coefficient of the lesion, 2 TP / (2 TP + FP + FN).

    >>> dice([1, 1, 0, 0], [1, 0, 0, 0])
    0.6666666666666666
    """
    return _score("dice", true, pred)


def precision(true: np.ndarray, pred: np.ndarray) -> float:
    """Share of the predicted pixels that are lesion, TP / (TP + FP).

    Without predicted pixels: 1 if there is no lesion, else 0.

    >>> precision([1, 1, 0, 0], [1, 0, 0, 0])
    1.0
    """
    return _score("precision", true, pred)


def recall(true: np.ndarray, pred: np.ndarray) -> float:
    """Share of the lesion's pixels that are predicted, TP / (TP + FN).

    Without a lesion: 1 if no pixel is predicted, else 0.

    >>> recall([1, 1, 0, 0], [1, 0, 0, 0])
    0.5
    """
    return _score("recall", true, pred)


def specificity(true: np.ndarray, pred: np.ndarray) -> float:
    """Share of the healthy pixels that are not predicted, TN / (TN + FP); 1 if all is lesion.

    >>> specificity([1, 1, 0, 0], [1, 0, 1, 0])
    0.5
    """
    return _score("specificity", true, pred)


METRICS = {
    function.__name__: function
    for function in (accuracy, iou, mean_iou, dice, precision, recall, specificity)
}


def score_from_counts(name: str, tp: Count, fp: Count, fn: Count, tn: Count) -> np.ndarray:
    """Return the score `name` from counts of pixels: numbers, or arrays of the same shape."""
    formulas = {  # numerator, denominator, and the score if the denominator is 0
        "accuracy": lambda: (tp + tn, tp + fp + fn + tn, 1.0),
        "iou": lambda: (tp, tp + fp + fn, 1.0),
        "dice": lambda: (2 * tp, 2 * tp + fp + fn, 1.0),
        "precision": lambda: (tp, tp + fp, np.equal(fn, 0)),
        "recall": lambda: (tp, tp + fn, np.equal(fp, 0)),
        "specificity": lambda: (tn, tn + fp, 1.0),
    }
    if name == "mean_iou":
        return (
            score_from_counts("iou", tp, fp, fn, tn) + score_from_counts("iou", tn, fn, fp, tp)
        ) / 2
    part, whole, empty = formulas[name]()
    return np.where(whole > 0, part / np.maximum(whole, 1), empty)


def score_columns(counted: pd.DataFrame, names: Iterable[str] = tuple(METRICS)) -> pd.DataFrame:
    """Return the scores of each row of a table with the columns `COUNTS`; the same index."""
    columns = [counted[name] for name in COUNTS]
    return pd.DataFrame(
        {name: score_from_counts(name, *columns) for name in names}, index=counted.index
    )


def _score(name, true, pred):
    return float(score_from_counts(name, *count_pixels(true, pred)))
