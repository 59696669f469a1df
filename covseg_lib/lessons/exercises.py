"""The checks of the notebooks' exercises: each says that an answer is right, or what is wrong.

A check gets the student's answers first, then what the right answers follow from, and returns a
text that begins with `RIGHT`, with `OPEN` (an answer is still `...`) or with `WRONG`.
"""

from typing import Any

import numpy as np
import pandas as pd
from skimage.transform import resize

from covseg_lib.evaluation import metrics
from covseg_lib.images import volumes
from covseg_lib.lessons.answers import OPEN, RIGHT, WRONG, as_number, is_close, judge, unanswered

EXACT = 0  # the tolerance of counts


def grey_range(low: Any, high: Any, image: np.ndarray, truth: np.ndarray) -> str:
    """00, 1: a range of grey levels that has a higher Dice than the best threshold."""
    if text := unanswered(low=low, high=high):
        return text
    low = as_number(low)
    high = as_number(high)
    if np.isnan(low) or np.isnan(high):
        return f"{WRONG} low and high must be numbers, two grey levels from 0 to 255."
    best = max(metrics.dice(truth, image > level) for level in range(255))
    found = (image >= low) & (image <= high)
    dice = metrics.dice(truth, found)
    text = f"{low:g} to {high:g} has a Dice of {dice:.2f}, the best threshold {best:.2f}"
    if dice > best:
        return f"{RIGHT} {text}. No threshold can leave out the brighter chest wall."
    missed = (truth & ~found).sum() / truth.sum()
    return f"{WRONG} {text}. It misses {missed:.0%} of the lesion; " + (
        "make the range wider." if missed > 0.5 else "make it narrower: it holds healthy pixels."
    )


def rows_left(convolved: Any, pooled: Any) -> str:
    """00, 2: rows that remain of 7 after a convolution and after a pooling."""
    after_convolution = (7 - 3 + 2) // 2 + 1
    after_pooling = (7 - 2) // 2 + 1
    blocks = "How many whole blocks of 2 rows fit into 7?"
    return judge(
        "the report's formula for pooling lacks the + 1: it would give 2.5 rows.",
        ("convolved", convolved, after_convolution, "Put h, f, p and s into the formula.", EXACT),
        ("pooled", pooled, after_pooling, blocks, EXACT),
    )


def soft_window(air: Any, lung: Any, ground_glass: Any, muscle: Any) -> str:
    """01, 1: grey levels in the window for soft tissue."""
    hu = {"air": -1000, "lung": -850, "ground_glass": -500, "muscle": 50}
    right = volumes.to_grey(np.array(list(hu.values())), (-160, 240))
    hint = "-160 HU becomes 0 and 240 HU becomes 255; what lies outside is clipped."
    given = air, lung, ground_glass, muscle
    return judge(
        "lung and ground glass are both black: this window cannot show lesions of the lung.",
        *zip(hu, given, right, [hint] * 4, strict=True),
    )


def lesion_share(share: Any, images: np.ndarray, masks: np.ndarray) -> str:
    """01, 2: the share of lesion among the pixels that are as bright as lesions."""
    if not masks.any():
        return f"{OPEN} this case has no lesion: take the arrays of another case"
    low, high = np.percentile(images[masks > 0], [5, 95])
    right = float(masks[(images >= low) & (images <= high)].mean())
    if is_close(share, masks.mean()) and not is_close(share, right):
        return f"{WRONG} this is the share among all pixels: take only those from low to high."
    return judge(
        f"of all pixels as bright as lesions only {right:.0%} are lesion.",
        ("share", share, right, "Divide lesion pixels by all pixels in that range."),
    )


def lost_by_rounding(lost: Any, mask: np.ndarray, size: int) -> str:
    """02, 1: the share of a lesion that is lost if a resized mask is rounded down."""
    smooth = resize(mask.astype(float), (size, size), anti_aliasing=True)
    right = 1 - float((smooth >= 1).mean() / mask.mean())
    return judge(
        f"rounding down loses {right:.0%} of this lesion, all of it at the edge.",
        ("lost", lost, right, "Compare the mean of the rounded mask with the mean of the mask."),
    )


def copied_masks(slices: Any, patients: Any, masks: np.ndarray, nearest: dict) -> str:
    """02, 2: the Dice of masks that are copied from the most similar training slice."""
    right = {
        split: metrics.dice(masks[rows.index], masks[rows["nearest"]])
        for split, rows in nearest.items()
    }
    hint = "metrics.dice takes the masks of the test slices, then those of their nearest slices."
    return judge(
        "a high score on shuffled slices does not show that a model has learned lesions.",
        ("slices", slices, right["slice"], hint),
        ("patients", patients, right.get("patient", 0), hint),
    )


def empty_mask(empty: Any, gain: Any, masks: np.ndarray, scores: pd.Series) -> str:
    """03, 1: the accuracy of the empty mask, and how much better the best epoch is."""
    lesion = float(np.mean(masks))
    right = 1 - lesion
    # 1 % of a number near 1 would be more than all lesions. Tables show four decimals; where
    # hardly any pixel is lesion, 1 is still wrong.
    tolerance = min(1e-4, 0.05 * lesion)
    if is_close(empty, lesion) and not is_close(empty, right, tolerance):
        return f"{WRONG} this is the share of lesion pixels, on which the empty mask is wrong."
    return judge(
        f"the empty mask has {right:.4f}; what was learned shows in the rest.",
        ("empty", empty, right, "On which pixels is the empty mask right?", tolerance),
        ("gain", gain, scores.max() - right, "Best epoch minus empty mask."),
    )


def parameters(first: Any, second: Any, model: Any) -> str:
    """03, 2: the parameters of the first two convolutions."""
    right = [layer.count_params() for layer in model.layers if "conv2d" in layer.name]
    hint = "For each map: 3 x 3 weights for every map before it, and one bias."
    return judge(
        "the second convolution looks at all maps of the first, so it has far more.",
        ("first", first, right[0], hint, EXACT),
        ("second", second, right[1], hint, EXACT),
    )


def dice_and_iou(dice: Any, iou: Any) -> str:
    """04, 1: the Dice of an IoU of 0.8742, and the IoU of a Dice of 0.8603."""
    return judge(
        "its IoU model would be far better than its Dice model, if 0.8742 were the lesion's IoU.",
        ("dice", dice, 2 * 0.8742 / (1 + 0.8742), "Dice = 2 IoU / (1 + IoU)"),
        ("iou", iou, 0.8603 / (2 - 0.8603), "Solve it for IoU: IoU = Dice / (2 - Dice)"),
    )


def lowest_loss(epoch: Any, cost: Any, history: pd.DataFrame, objective: str) -> str:
    """04, 2: the epoch with the lowest validation loss, and what choosing it costs."""
    lowest, scores = history["val_loss"].idxmin(), history[f"val_{objective}"]
    return judge(
        "loss and metric judge differently, so they may choose different epochs.",
        ("epoch", epoch, history["epoch"][lowest], "Look for the lowest val_loss.", EXACT),
        ("cost", cost, scores.max() - scores[lowest], "Best score minus the score there."),
    )


def healthy_batch(soft_dice: Any, cross_entropy: Any) -> str:
    """05, 1: by which factor two losses fall on a healthy batch from p = 0.01 to p = 0.0001."""
    right = np.log1p(-0.01) / np.log1p(-0.0001)
    return judge(
        "soft Dice stays at 1 for both predictions: from a healthy batch it learns nothing.",
        ("soft_dice", soft_dice, 1, "Divide the loss for 0.01 by the loss for 0.0001."),
        ("cross_entropy", cross_entropy, right, "It is minus the mean of log(1 - p)."),
    )


def overfitting_gap(best: Any, last: Any, history: pd.DataFrame, objective: str) -> str:
    """05, 2: how far training is ahead of validation in the best epoch and in the last one."""
    gap = history[objective] - history[f"val_{objective}"]
    row = history[f"val_{objective}"].idxmax()
    hint = "It is the score on training slices minus the score on validation slices."
    return judge(
        f"the best epoch is {history['epoch'][row]}, the last one {history['epoch'].iloc[-1]}.",
        ("best", best, gap[row], hint),
        ("last", last, gap.iloc[-1], hint),
    )


def missed_slices(missed: Any, false_alarms: Any, truth: np.ndarray, predicted: np.ndarray) -> str:
    """06, 1: slices whose lesion is missed altogether, and healthy slices with a prediction."""
    has_lesion, has_found = (mask.reshape(len(mask), -1).any(axis=1) for mask in (truth, predicted))
    all_missed = np.sum(has_lesion & ~has_found)
    all_false = np.sum(~has_lesion & has_found)
    return judge(
        "a Dice of all pixels together hides both kinds of error.",
        ("missed", missed, all_missed, "Lesion, but no predicted pixel.", EXACT),
        ("false_alarms", false_alarms, all_false, "No lesion.", EXACT),
    )


def chosen_threshold(threshold: Any, gain: Any, curve: pd.Series) -> str:
    """06, 2: the threshold with the highest Dice, and what it gains over one half."""
    return judge(
        "it was chosen on the test slices, so it must not be used: validation slices may choose.",
        ("threshold", threshold, curve.idxmax(), "It is where the curve is highest."),
        ("gain", gain, curve.max() - curve[0.5], "Highest Dice minus the one at 0.5."),
    )


def seed_spread(spread: Any, table: pd.DataFrame, varied: str) -> str:
    """07, 1: how far test scores of runs lie apart that differ only in their seed."""
    groups = table.groupby(["split", "objective", varied])["test"]
    right = (groups.max() - groups.min())[groups.size() > 1]
    if right.empty:
        return f"{OPEN} no setting has several seeds: set SEED in VARY, and run all cells again"
    return judge(
        "a difference between two settings that is not larger may be chance.",
        ("spread", spread, right.max(), "Highest minus lowest test score of one setting."),
    )


def flattery(flattered: Any, table: pd.DataFrame) -> str:
    """07, 2: how much a choice by test score would claim beyond the choice by validation."""
    rows = table[table["split"] == table["split"].iloc[-1]].dropna(subset="validation")
    right = rows["test"].max() - rows["test"][rows["validation"].idxmax()]
    return judge(
        "a choice by test score would be too optimistic by this much.",
        ("flattered", flattered, right, "Highest test score minus that of the chosen run."),
    )


def gains(mean_gain: Any, losers: Any, before: pd.Series, after: pd.Series) -> str:
    """08, 1: how much the Dice of the cases gains in the mean, and how many cases lose."""
    right = (after - before).dropna()
    return judge(
        "a mean over few patients hides who gains and who does not.",
        ("mean_gain", mean_gain, right.mean(), "Mean of after minus before, case by case."),
        ("losers", losers, np.sum(right < 0), "Count the cases whose Dice is lower after.", EXACT),
    )


def error_kinds(missed: Any, wrong: Any, scores: pd.Series) -> str:
    """08, 2: the share of a lesion that is missed, and of the prediction that is wrong."""
    return judge(
        "precision and recall say which of the two errors a Dice is made of.",
        ("missed", missed, 1 - scores["recall"], "Recall is the share that is found."),
        ("wrong", wrong, 1 - scores["precision"], "Precision is the share that is right."),
    )


def volume_by_threshold(low: Any, high: Any, levels: np.ndarray, voxel_ml: float) -> str:
    """09, 1: the ml of a scan's lesions at the thresholds 0.25 and 0.75."""
    right = {limit: np.count_nonzero(levels >= 255 * limit) * voxel_ml for limit in (0.25, 0.75)}
    hint = "Count the levels of at least 255 times the threshold, times the ml of a voxel."
    return judge(
        f"from 0.25 to 0.75 the volume falls by {right[0.25] - right[0.75]:.1f} ml.",
        ("low", low, right[0.25], hint),
        ("high", high, right[0.75], hint),
    )


def mask_in_place(same: Any, ml: Any, scan_header: Any, mask_file: Any) -> str:
    """09, 2: whether mask and scan are in the same place, and the mask's volume in ml."""
    placed = scan_header.get_data_shape() == mask_file.shape
    placed = placed and np.allclose(scan_header.get_best_affine(), mask_file.affine)
    voxel_ml = abs(np.linalg.det(mask_file.affine)) / 1000
    right = np.count_nonzero(np.asarray(mask_file.dataobj)) * voxel_ml
    return judge(
        "other programs can now use the mask with this scan.",
        ("same", same, placed, "Compare shapes, then affines with np.allclose.", EXACT),
        ("ml", ml, right, "Lesion voxels, times the affine's determinant, over 1000."),
    )
