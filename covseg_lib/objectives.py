"""The three ways the report compiles its U-Net (section 2.3.3): a loss, and a metric that picks the best epoch.

With A the true mask and B the predicted one, summed over all pixels of all slices given (pooled, not averaged
slice by slice):

    accuracy = (TP + TN) / (TP + TN + FP + FN)
    IoU      = |A and B| / |A or B|
    Dice     = 2 |A and B| / (|A| + |B|)

Two empty masks agree perfectly: IoU and Dice are 1 where A and B are both empty.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import ops

from covseg_lib.study import LESION_FROM

SMOOTH = 1e-7  # pixels, added above and below: two empty masks give 1, and no division is by zero


def dice(y_true, y_pred):
    """Dice coefficient, pooled over all pixels given; of probabilities it is the soft Dice.

    Parameters
    ----------
    y_true, y_pred : (B, H, W, 1) tensors
        Masks in {0, 1}; masks or probabilities in 0..1.

    Returns
    -------
    scalar float32 tensor, (2 sum(A B) + e) / (sum(A) + sum(B) + e) with e = `SMOOTH`

    Notes
    -----
    Report, section 2.3.3; the product for the intersection as in Milletari et al., V-Net, 3DV 2016.
    """
    return _dice_of_sums(*_sums(y_true, y_pred))


def iou(y_true, y_pred):
    """Intersection over union (Jaccard index), pooled over all pixels given; arguments as for `dice`.

    Returns
    -------
    scalar float32 tensor, (sum(A B) + e) / (sum(A) + sum(B) - sum(A B) + e)
    """
    return _iou_of_sums(*_sums(y_true, y_pred))


def soft_dice_loss(y_true, y_pred):
    """Return 1 - soft Dice of the batch (report, section 2.3.3): 0 is perfect.

    Pooled over the batch, so that a slice without a lesion counts by its false alarms only, not as a whole slice.
    A batch without any lesion teaches nothing (its loss is 1, its gradient nearly 0). With the often seen SMOOTH of
    one pixel such a batch pushes every output to 0 so hard that the network may never come back: seen on the
    report's slices (128 px, batch 8, learning rate 1e-4, seed 0), in the third epoch.
    """
    return 1.0 - dice(y_true, y_pred)


def _soft_dice_of_batch(y_true, y_pred):
    """Return the same with shape (1,): on several devices Keras shares out a loss only if it has a shape."""
    return ops.reshape(soft_dice_loss(y_true, y_pred), (1,))


class PooledMask(keras.metrics.Metric):
    """A score of masks, pooled over an epoch: sums run over all batches, probabilities from `LESION_FROM` on count.

    Parameters
    ----------
    of_sums : function of (sum(A B), sum(A), sum(B))
        The score. Averaging it batch by batch instead would make it depend on how slices fell into batches.
    name : str
    """

    def __init__(self, of_sums, name):
        super().__init__(name=name, dtype="float32")
        self.of_sums = of_sums
        self.sums = self.add_weight(name="sums", shape=(3,), initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch."""
        lesion = ops.cast(y_pred >= LESION_FROM, "float32")
        self.sums.assign_add(ops.stack(_sums(y_true, lesion)))

    def result(self):
        """Return the score of all batches since the last reset."""
        return self.of_sums(self.sums[0], self.sums[1], self.sums[2])


class Marked(keras.metrics.Mean):
    """The share of pixels that a model takes for lesion: 0 for one that has collapsed to the empty mask."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch."""
        super().update_state(ops.cast(y_pred >= LESION_FROM, "float32"))


@dataclass(frozen=True)
class Objective:
    """What a model is compiled with.

    title, loss_title : metric and loss as figures print them; in the training history the metric is called as the
        objective, and the loss "loss"
    loss : a Keras loss, by name or as a function
    make_metric : makes a fresh Keras metric of that name
    """

    title: str
    loss_title: str
    loss: str | Callable
    make_metric: Callable


BCE = ("binary cross-entropy", "binary_crossentropy")
OBJECTIVES = {
    "accuracy": Objective("Accuracy", *BCE, lambda: keras.metrics.BinaryAccuracy(name="accuracy")),
    "iou": Objective("IoU", *BCE, lambda: PooledMask(_iou_of_sums, "iou")),
    "dice": Objective("Dice", "soft Dice loss", _soft_dice_of_batch, lambda: PooledMask(_dice_of_sums, "dice")),
}


def _sums(y_true, y_pred):
    y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
    return ops.sum(y_true * y_pred), ops.sum(y_true), ops.sum(y_pred)


def _dice_of_sums(both, true, pred):
    return (2.0 * both + SMOOTH) / (true + pred + SMOOTH)


def _iou_of_sums(both, true, pred):
    return (both + SMOOTH) / (true + pred - both + SMOOTH)
