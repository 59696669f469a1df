"""What a predicted mask is worth, in NumPy alone, and the tables of it.

Scores are pooled: pixels of all slices are counted together. A mask is compared as yes or no. Where both masks
are empty they agree, and every score is 1; precise formulas stand at each function.
"""

import numpy as np
import pandas as pd

from covseg_lib import slices, storage
from covseg_lib.study import LESION_FROM

REPORT = {  # the report's Table 2.1 and section 2.5: epochs, seconds, scores
    metric: dict(zip(("epochs", "first_epoch_s", "other_epochs_s", "total_s", "seen", "test"), numbers, strict=True))
    for metric, numbers in {
        "accuracy": (100, 101, 18, 1883, 0.9971, 0.9948),
        "iou": (100, 97, 17, 1780, 0.9233, 0.8742),
        "dice": (250, 100, 17, 4333, 0.9198, 0.8603),
    }.items()
}


def counts(true, pred):
    """Return TP, FP, FN, TN: how many pixels of two masks of any one shape agree and differ."""
    true, pred = np.asarray(true) > 0, np.asarray(pred) > 0
    if true.shape != pred.shape:
        raise ValueError(f"the true mask is {true.shape} and the predicted one {pred.shape}: expected one shape")
    both = np.count_nonzero(true & pred)
    false_alarms, missed = np.count_nonzero(pred) - both, np.count_nonzero(true) - both
    return both, false_alarms, missed, true.size - both - false_alarms - missed


def accuracy(true, pred):
    """Pixel accuracy, (TP + TN) / all.

    >>> accuracy([1, 1, 0, 0], [1, 0, 0, 0])
    0.75
    """
    tp, fp, fn, tn = counts(true, pred)
    return _ratio(tp + tn, tp + fp + fn + tn)


def iou(true, pred):
    """Intersection over union of the lesion, TP / (TP + FP + FN).

    >>> iou([1, 1, 0, 0], [1, 0, 0, 0])
    0.5
    """
    tp, fp, fn, _ = counts(true, pred)
    return _ratio(tp, tp + fp + fn)


def mean_iou(true, pred):
    """Mean of the lesion's IoU and the background's, TN / (TN + FP + FN): probably what the report calls IoU.

    >>> mean_iou([1, 1, 0, 0], [1, 0, 0, 0])
    0.5833333333333333
    """
    return (iou(true, pred) + iou(~(np.asarray(true) > 0), ~(np.asarray(pred) > 0))) / 2


def dice(true, pred):
    """Dice coefficient of the lesion, 2 TP / (2 TP + FP + FN).

    >>> dice([1, 1, 0, 0], [1, 0, 0, 0])
    0.6666666666666666
    """
    tp, fp, fn, _ = counts(true, pred)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def precision(true, pred):
    """Share of the marked pixels that are lesion, TP / (TP + FP); where none is marked 0, or 1 if there is no lesion.

    >>> precision([1, 1, 0, 0], [1, 0, 0, 0])
    1.0
    """
    tp, fp, fn, _ = counts(true, pred)
    return _ratio(tp, tp + fp, empty=float(fn == 0))


def recall(true, pred):
    """Share of the lesion's pixels that are marked, TP / (TP + FN); without a lesion 1 if none is marked, else 0.

    >>> recall([1, 1, 0, 0], [1, 0, 0, 0])
    0.5
    """
    tp, fp, fn, _ = counts(true, pred)
    return _ratio(tp, tp + fn, empty=float(fp == 0))


def specificity(true, pred):
    """Share of the healthy pixels that are left unmarked, TN / (TN + FP); 1 where all is lesion.

    >>> specificity([1, 1, 0, 0], [1, 0, 1, 0])
    0.5
    """
    _, fp, _, tn = counts(true, pred)
    return _ratio(tn, tn + fp)


SCORES = {function.__name__: function for function in (accuracy, iou, mean_iou, dice, precision, recall, specificity)}


def table(study):
    """Score every predicted run, and what scores without a network, on the test slices.

    Returns
    -------
    DataFrame, a row a run and three baselines (the band of grey levels that fits the training slices best; the places
    where their lesions lie most often; the empty mask), columns as `SCORES`
    """
    images, masks = slices.load(study, "test")
    predicted = {run: _predicted(study, run) for run in predicted_runs(study)}
    seen_images, seen_masks = slices.load(study, "train")
    low, high = best_band(seen_images, seen_masks)
    predicted["(grey band)"] = (images >= low) & (images <= high)
    predicted["(usual place)"] = np.broadcast_to(usual_place(seen_masks), masks.shape)
    predicted["(empty mask)"] = np.zeros_like(masks)
    rows = {name: {score: of(masks, mask) for score, of in SCORES.items()} for name, mask in predicted.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")


def table_2_1(study):
    """Return the report's Table 2.1 for our runs: each under the metric that it was compiled with.

    Returns
    -------
    DataFrame, a row a run: epochs, times in seconds, `seen` (score on training and validation slices together)
    and `test`, as fractions; each beside the report's own number, `report_...`
    """
    seen_masks, test_masks = slices.load(study, "train", "validation")[1], slices.load(study, "test")[1]
    rows = {}
    for run in predicted_runs(study):
        recipe = storage.read_json(study.need("recipe", run=run))
        of, theirs = SCORES[recipe["objective"]], REPORT[recipe["objective"]]
        ours = storage.read_json(study.need("timing", run=run)) | {
            "epochs": recipe["epochs"],
            "seen": of(seen_masks, np.load(study.need("seen", run=run))),
            "test": of(test_masks, _predicted(study, run)),
        }
        pairs = [((name, ours[name]), (f"report_{name}", theirs[name])) for name in theirs]
        rows[run] = {"metric": recipe["objective"], **dict(pair for both in pairs for pair in both)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")


def predicted_runs(study):
    """Return the names of the runs that notebook 06 has predicted, in the order of `Study.runs`."""
    return [run for run in study.runs() if study.path("prediction", run=run).exists()]


def usual_place(masks):
    """Return which pixels (size, size, 1) bool are most often lesion in masks (n, size, size, 1).

    It is their mean, cut where the Dice on these masks is highest: the same in every slice, whatever the slice shows.
    """
    share = masks.mean(axis=0)
    levels = np.sort(share, axis=None)[::-1]
    found = levels.cumsum()  # in a slice, if the pixels down to each level are marked
    dice_of_level = 2 * found / (np.arange(1, len(found) + 1) + found[-1])
    return (share >= levels[dice_of_level.argmax()]) & (share > 0)


def best_band(images, masks, bins=100):
    """Return the grey levels (low, high) between which lies what is likest the lesions: the plainest baseline.

    Of all bands between two of `bins` + 1 levels it is the one with the highest Dice on these slices.
    """
    levels = np.linspace(images.min(), images.max(), bins + 1)
    lesion = np.concatenate([[0], np.histogram(images[masks > 0], levels)[0].cumsum()])
    total = np.concatenate([[0], np.histogram(images, levels)[0].cumsum()])
    found, marked = lesion[None] - lesion[:, None], total[None] - total[:, None]  # (low, high)
    scores = np.where(marked > 0, 2 * found / np.maximum(marked + lesion[-1], 1), 0)
    low, high = np.unravel_index(scores.argmax(), scores.shape)
    return float(levels[low]), float(levels[high])


def _predicted(study, run):
    """Return the masks that a run predicts for the test slices."""
    return np.load(study.need("prediction", run=run)) >= LESION_FROM


def _ratio(part, whole, empty=1.0):
    return float(part / whole) if whole else empty
