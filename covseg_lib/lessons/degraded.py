"""Degraded masks: how metrics and losses change when a prediction gets worse."""

import keras
import numpy as np
import pandas as pd
from scipy import ndimage

from covseg_lib.evaluation import metrics
from covseg_lib.training.objectives import OBJECTIVES

CONFIDENT = 0.999  # the probability that a confident network predicts
LOSSES = {objective.loss_title: objective.loss for objective in OBJECTIVES.values()}


def degrade_to_dice(mask: np.ndarray, wanted: float) -> np.ndarray:
    """Degrade a mask until its Dice with the original is as close as possible to a wanted one.

    The mask is moved to the right by some pixels, and shrunk by none, half or all of that number.

    Parameters
    ----------
    mask : (H, W) array with a lesion in it
    wanted : float

    Returns
    -------
    (H, W) bool

    Examples
    --------
    >>> mask = np.zeros((64, 64), bool)
    >>> mask[20:40, 20:40] = True
    >>> metrics.dice(mask, degrade_to_dice(mask, 0.7))
    0.7
    """
    mask = np.asarray(mask) > 0
    depth = ndimage.distance_transform_edt(mask)  # distance to the outline, in pixels
    degraded = (  # one at a time: all masks of a large slice would need much memory
        _move(depth > shrink, shift)
        for shift in range(mask.shape[1] // 2)
        for shrink in (0, shift / 2, shift)
    )
    return min(degraded, key=lambda other: abs(metrics.dice(mask, other) - wanted))


def loss_examples(size: int = 128, radius: int = 12, steps: int = 21) -> pd.DataFrame:
    """Return losses and metrics of a disc whose prediction gets worse, in three ways.

    The predicted disc shrinks to nothing; or it is shifted by its diameter; or it keeps its place
    while its probability falls from `CONFIDENT` to almost 0.

    Parameters
    ----------
    size : int
        Height and width of the slice in pixels.
    radius : int
        Radius of the disc in pixels.
    steps : int
        Number of predictions in each way.

    Returns
    -------
    DataFrame, index (way, amount), amount from 0 (perfect) to 1 (all wrong); a column for each
    loss, and the columns "1 - Accuracy", "1 - IoU", "1 - Dice" at the threshold 0.5
    """
    truth = _disc(size, radius)
    ways = {
        "the prediction shrinks": lambda amount: _predict(_disc(size, radius * (1 - amount))),
        "the prediction is shifted": lambda amount: _predict(
            _disc(size, radius, 2 * radius * amount)
        ),
        "the network becomes uncertain": lambda amount: _predict(truth, amount),
    }
    scores = {f"1 - {objective.title}": objective.metric() for objective in OBJECTIVES.values()}
    rows = {}
    for way, predict in ways.items():
        for amount in np.linspace(0, 1, steps):
            rows[way, amount] = _evaluate(truth, predict(amount), scores)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["way", "amount"])


def _predict(mask, uncertainty=0.0):
    """Return probabilities (H, W): `CONFIDENT` in the mask, falling to 1 - `CONFIDENT`."""
    inside = CONFIDENT * (1 - uncertainty) + (1 - CONFIDENT) * uncertainty
    return np.where(mask, inside, 1 - CONFIDENT)


def _evaluate(truth, predicted, scores):
    """Return {name: value} of every loss, and of 1 - every metric in `scores`."""
    truth, predicted = (np.asarray(a, "float32")[None, ..., None] for a in (truth, predicted))
    values = {}
    for name, loss in LOSSES.items():
        values[name] = float(keras.ops.mean(keras.losses.get(loss)(truth, predicted)))
    for name, metric in scores.items():
        metric.reset_state()
        metric.update_state(truth, predicted)
        values[name] = 1 - float(metric.result())
    return values


def _move(mask, shift):
    """Move a mask (H, W) to the right by `shift` pixels."""
    return np.pad(mask, ((0, 0), (shift, 0)))[:, : mask.shape[1]]


def _disc(size, radius, shift=0.0):
    """Return a centred disc (size, size) bool, moved to the right by `shift` pixels."""
    row, column = np.ogrid[:size, :size]
    centre = (size - 1) / 2
    return (row - centre) ** 2 + (column - centre - shift) ** 2 < radius**2
