"""The three ways the report compiles its U-Net (section 2.3.3): a loss, and a metric.

With A the true mask and B the predicted one, summed over all pixels of all given slices together
(pooled, not averaged slice by slice):

    accuracy = (TP + TN) / (TP + TN + FP + FN)
    IoU      = |A and B| / |A or B|
    Dice     = 2 |A and B| / (|A| + |B|)

Two empty masks agree perfectly: then IoU and Dice are 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import ops

from covseg_lib.settings import LESION_THRESHOLD

SMOOTH = 1e-7  # pixels, added to both parts of the fraction: two empty masks give 1


def dice(y_true, y_pred):
    """Dice coefficient of all given pixels together; for probabilities, the soft Dice.

    Parameters
    ----------
    y_true, y_pred : (B, H, W, 1) tensors
        Masks in {0, 1}; masks or probabilities in 0..1.

    Returns
    -------
    scalar float32 tensor, (2 sum(A B) + e) / (sum(A) + sum(B) + e) with e = `SMOOTH`

    Notes
    -----
    Report, section 2.3.3; the product as intersection: Milletari et al., V-Net, 3DV 2016.
    """
    return _dice_from_sums(*_sums(y_true, y_pred))


def iou(y_true, y_pred):
    """Intersection over union (Jaccard index) of all given pixels together; see `dice`.

    Returns
    -------
    scalar float32 tensor, (sum(A B) + e) / (sum(A) + sum(B) - sum(A B) + e)
    """
    return _iou_from_sums(*_sums(y_true, y_pred))


def soft_dice_loss(y_true, y_pred):
    """Return 1 - soft Dice of the batch (report, section 2.3.3): 0 is perfect.

    It is computed for the batch as a whole, so a slice without lesions counts only by its false
    positives. A batch without any lesion has a loss of 1 and a gradient of almost 0. With the usual
    value of one pixel for `SMOOTH`, such a batch pushes all outputs to 0 so strongly that the
    network may never recover: this happened on the report's slices (128 px, batch 8, learning rate
    1e-4, seed 0) in the third epoch.
    """
    return 1.0 - dice(y_true, y_pred)


def bce_dice_loss(y_true, y_pred):
    """Return binary cross-entropy plus the soft Dice loss of the batch.

    Cross-entropy gives every pixel a gradient, soft Dice gives small lesions their weight.
    """
    entropy = ops.mean(keras.losses.binary_crossentropy(y_true, y_pred))
    return soft_dice_loss(y_true, y_pred) + entropy


class PooledMask(keras.metrics.Metric):
    """A metric of masks over all pixels of an epoch, at the threshold `LESION_THRESHOLD`.

    The mean of the batches' scores would depend on how slices fall into batches. Here sums are
    added up over all batches, and the score is computed from them.

    Parameters
    ----------
    from_sums : function of (sum(A B), sum(A), sum(B)) that returns the score
    name : str
    """

    def __init__(self, from_sums: Callable, name: str):
        super().__init__(name=name, dtype="float32")
        self.from_sums = from_sums
        self.sums = self.add_weight(name="sums", shape=(3,), initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch."""
        lesion = ops.cast(y_pred >= LESION_THRESHOLD, "float32")
        self.sums.assign_add(ops.stack(_sums(y_true, lesion)))

    def result(self):
        """Return the score of all batches since the last reset."""
        return self.from_sums(self.sums[0], self.sums[1], self.sums[2])


class PositiveRate(keras.metrics.Mean):
    """The share of pixels that are predicted as lesion: 0 if the model has collapsed."""

    def __init__(self, name: str = "positive_rate"):
        super().__init__(name=name)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch."""
        super().update_state(ops.cast(y_pred >= LESION_THRESHOLD, "float32"))


@dataclass(frozen=True)
class Objective:
    """What a model is compiled with.

    title, loss_title : names of metric and loss in figures
    loss : a Keras loss, by name or as a function
    metric : function that returns a new Keras metric, named as the objective
    """

    title: str
    loss_title: str
    loss: str | Callable
    metric: Callable[[], keras.metrics.Metric]


BCE = ("binary cross-entropy", "binary_crossentropy")
OBJECTIVES = {
    "accuracy": Objective("Accuracy", *BCE, lambda: keras.metrics.BinaryAccuracy(name="accuracy")),
    "iou": Objective("IoU", *BCE, lambda: PooledMask(_iou_from_sums, "iou")),
    "dice": Objective(
        "Dice", "soft Dice loss", soft_dice_loss, lambda: PooledMask(_dice_from_sums, "dice")
    ),
}


def _sums(y_true, y_pred):
    y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
    return ops.sum(y_true * y_pred), ops.sum(y_true), ops.sum(y_pred)


def _dice_from_sums(both, true, pred):
    return (2.0 * both + SMOOTH) / (true + pred + SMOOTH)


def _iou_from_sums(both, true, pred):
    return (both + SMOOTH) / (true + pred - both + SMOOTH)
