"""Predictions made from the truth by spoiling it, and what scores and losses say of them."""

import keras
import numpy as np
import pandas as pd
from scipy import ndimage

from covseg_lib import scores
from covseg_lib.objectives import OBJECTIVES

SURE = 0.999  # the probability that a network gives where it is sure
LOSSES = {objective.loss_title: objective.loss for objective in OBJECTIVES.values()}


def of_dice(mask, wanted):
    """Spoil a mask until its Dice with itself unspoiled is as near as can be to the one wanted.

    It is moved to the right, and shrunk by none, half or all of as many pixels.

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
    >>> scores.dice(mask, of_dice(mask, 0.7))
    0.7
    """
    mask = np.asarray(mask) > 0
    depth = ndimage.distance_transform_edt(mask)  # in pixels, below the rim
    steps = range(mask.shape[1] // 2)
    spoiled = (_moved(depth > shrink, shift) for shift in steps for shrink in (0, shift / 2, shift))
    return min(spoiled, key=lambda guess: abs(scores.dice(mask, guess) - wanted))


def toy_losses(size=128, radius=12, steps=21):
    """Return what losses and scores say of a disc that is found worse and worse, in three ways.

    What is found shrinks to nothing, is shifted by its diameter, or stays in place while the probability given to it
    falls from `SURE` to nearly 0.

    Returns
    -------
    DataFrame, index (way, amount): amount runs from 0, all right, to 1, all wrong; a column a loss, called as its
    objective's `loss_title`, and columns "1 - Accuracy", "1 - IoU", "1 - Dice", of the masks from `LESION_FROM` on
    """
    truth = _disc(size, radius)
    ways = {
        "what is found shrinks": lambda amount: _sure(_disc(size, radius * (1 - amount))),
        "what is found is shifted": lambda amount: _sure(_disc(size, radius, 2 * radius * amount)),
        "the network gets unsure": lambda amount: _sure(truth, SURE * (1 - amount) + (1 - SURE) * amount),
    }
    amounts = np.linspace(0, 1, steps)
    metrics = {f"1 - {objective.title}": objective.make_metric() for objective in OBJECTIVES.values()}
    rows = {(way, amount): _judge(truth, spoil(amount), metrics) for way, spoil in ways.items() for amount in amounts}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["way", "amount"])


def _judge(truth, guess, metrics):
    """Return {name: value} of every loss and of 1 - every metric, {name: metric}, for a truth (H, W) and its guess."""
    truth, guess = (np.asarray(array, "float32")[None, ..., None] for array in (truth, guess))
    found = {name: float(keras.ops.mean(keras.losses.get(loss)(truth, guess))) for name, loss in LOSSES.items()}
    for name, metric in metrics.items():
        metric.reset_state()
        metric.update_state(truth, guess)
        found[name] = 1 - float(metric.result())
    return found


def _moved(mask, shift):
    """Return a mask (H, W) some pixels further to the right."""
    return np.pad(mask, ((0, 0), (shift, 0)))[:, : mask.shape[1]]


def _disc(size, radius, shift=0):
    row, column = np.ogrid[:size, :size]
    centre = (size - 1) / 2
    return (row - centre) ** 2 + (column - centre - shift) ** 2 < radius**2


def _sure(mask, inside=SURE):
    return np.where(mask, inside, 1 - SURE)
