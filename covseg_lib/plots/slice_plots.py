"""Figures of slices: with masks, with errors, of a whole case."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from covseg_lib import files
from covseg_lib.data import preprocessing, splits
from covseg_lib.evaluation import metrics, prediction
from covseg_lib.study import Study
from covseg_lib.training import batches, models
from covseg_lib.training.models import Run

# orange and sky blue of Okabe and Ito, which colour-blind readers can tell apart
LESION, TRUTH = "#E69F00", "#56B4E9"
ERRORS = {"true positive": "#56B4E9", "false positive": "#D55E00", "false negative": "#F0E442"}
MAX_MODELS = 6  # shown at most: a sweep may have a hundred


def gallery(images: np.ndarray, masks: np.ndarray, titles: Sequence[str]) -> Figure:
    """Show slices (n, H, W) side by side, with the outlines of their masks (n, H, W)."""
    figure, axes = _grid(1, len(images))
    for ax, image, mask, title in zip(axes.flat, images, masks, titles, strict=True):
        show_slice(ax, image, title)
        outline(ax, mask, TRUTH)
    figure.suptitle("CT slices, lesions outlined in blue")
    return figure


def overlays(
    images: np.ndarray,
    predicted: np.ndarray,
    true: np.ndarray,
    titles: Sequence[str],
    heading: str = "",
) -> Figure:
    """Show each slice twice, with its predicted and its true mask, as Figures 2.8 to 2.10.

    Parameters
    ----------
    images : (n, H, W) array
    predicted, true : (n, H, W) arrays, the masks, not 0 on lesions
    titles : n str
    heading : str, the title of the figure
    """
    figure, axes = _grid(math.ceil(len(images) / 2), 4)
    figure.suptitle(heading)
    shown = zip(axes.reshape(-1, 2), images, predicted, true, titles, strict=False)
    for (left, right), image, found, truth, title in shown:
        show_slice(left, image, f"{title}\npredicted", _colour_mask(found, LESION))
        show_slice(right, image, f"{title}\ntrue", _colour_mask(truth, TRUTH))
    return figure


def before_and_after(
    before: np.ndarray, mask_before: np.ndarray, after: np.ndarray, mask_after: np.ndarray
) -> Figure:
    """Show one slice before and after resizing, with the outlines of its mask."""
    figure, axes = _grid(1, 2, width=4)
    shown = (("sliced", before, mask_before), ("resized", after, mask_after))
    for ax, (what, image, mask) in zip(axes.flat, shown, strict=True):
        show_slice(ax, image, f"{what}, {image.shape[0]} x {image.shape[1]} pixels")
        outline(ax, mask, TRUTH)
    return figure


def degraded_masks(image: np.ndarray, truth: np.ndarray, masks: Sequence[np.ndarray]) -> Figure:
    """Show degraded masks (H, W) on their slice, with their scores; the true mask is outlined."""
    figure, axes = _grid(1, len(masks))
    for ax, mask in zip(axes.flat, masks, strict=True):
        dice, iou = metrics.dice(truth, mask), metrics.iou(truth, mask)
        accuracy = metrics.accuracy(truth, mask)
        title = f"Dice {dice:.2f}\nIoU {iou:.2f}, accuracy {accuracy:.2f}"
        show_slice(ax, image, title, _colour_mask(mask, LESION))
        outline(ax, truth, TRUTH)
    figure.suptitle("Degraded masks in orange, the true lesion outlined in blue")
    return figure


def error_maps(
    images: Sequence[np.ndarray],
    predicted: Sequence[np.ndarray],
    true: Sequence[np.ndarray],
    titles: Sequence[str],
    heading: str = "",
) -> Figure:
    """Show the errors of masks on their slices, four in a row; parameters as for `overlays`."""
    figure, axes = _grid(math.ceil(len(images) / 4), min(len(images), 4))
    figure.suptitle(heading)
    shown = zip(axes.flat, images, predicted, true, titles, strict=False)
    for ax, image, found, truth, title in shown:
        show_slice(ax, image, title, _colour_errors(found, truth))
    _add_legend(figure)
    return figure


def method_masks(image: np.ndarray, true: np.ndarray, found: dict[str, np.ndarray]) -> Figure:
    """Show the masks of several methods on one slice (H, W), with their Dice.

    `found` is {name: mask (H, W)}; the colours are those of `error_maps`.
    """
    titles = [f"{name}\nDice {metrics.dice(true, mask):.2f}" for name, mask in found.items()]
    images, truths = [image] * len(found), [true] * len(found)
    return error_maps(images, list(found.values()), truths, titles)


def animation(
    images: np.ndarray, predicted: np.ndarray, true: np.ndarray, titles: Sequence[str]
) -> bytes:
    """Return an animated PNG of slices, masks and titles as for `error_maps`, a frame a slice."""
    figure = Figure(figsize=(4, 4.5), layout="constrained", dpi=72)
    ax = figure.subplots()
    ax.set_axis_off()
    _add_legend(figure)
    grey = {"cmap": "gray", "vmin": images.min(), "vmax": images.max()}
    picture = ax.imshow(images[0], interpolation="nearest", **grey)
    layer = ax.imshow(_colour_errors(predicted[0], true[0]), interpolation="nearest")

    def draw(number):
        picture.set_data(images[number])
        layer.set_data(_colour_errors(predicted[number], true[number]))
        ax.set_title(titles[number], fontsize=9)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "animation.png")  # Pillow writes several frames as an animated PNG
        FuncAnimation(figure, draw, len(images)).save(path, writer=PillowWriter(fps=4))
        return path.read_bytes()


def show_slice(ax, image: np.ndarray, title: str, layer: np.ndarray | None = None) -> None:
    """Draw a slice (H, W) in grey, with a title, and a transparent layer (H, W, 4) over it."""
    ax.imshow(image, cmap="gray", interpolation="nearest")
    if layer is not None:
        ax.imshow(layer, interpolation="nearest")
    ax.set_title(title, fontsize=9)


def outline(ax, mask: np.ndarray, colour: str) -> None:
    """Draw the outline of a mask (H, W)."""
    if np.any(mask):
        ax.contour(mask, [0.5], colors=[colour], linewidths=1)


def _colour_mask(mask, colour):
    """Return a transparent layer (H, W, 4) of a mask (H, W)."""
    layer = np.zeros((*np.shape(mask), 4))
    layer[np.asarray(mask) > 0] = to_rgba(colour, 0.55)
    return layer


def _colour_errors(found, truth):
    """Return a transparent layer (H, W, 4) of two masks (H, W), in the colours of `ERRORS`."""
    found, truth = np.asarray(found) > 0, np.asarray(truth) > 0
    layer = np.zeros((*found.shape, 4))
    parts = (found & truth, found & ~truth, truth & ~found)
    for part, colour in zip(parts, ERRORS.values(), strict=True):
        layer[part] = to_rgba(colour, 0.6)
    return layer


def _add_legend(figure):
    handles = [Patch(color=colour, label=name) for name, colour in ERRORS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)


def _grid(rows, columns, width=2.6):
    """Return a figure and its axes (rows, columns), each `width` inches wide."""
    figure = Figure(figsize=(columns * width, rows * width * 1.08), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def representative_runs(study: Study, runs: dict[str, Run]) -> list[str]:
    """Return names of at most `MAX_MODELS` runs, one a model, all tested on the same slices.

    They are runs of the study's split, or of the other if it has none, and of the lowest fold.
    """
    recipes = {name: run.recipe for name, run in runs.items()}
    split = study.settings()["split"]
    recipes = {name: made for name, made in recipes.items() if made.split == split} or recipes
    fold = min(recipe.fold for recipe in recipes.values())
    return [name for name, recipe in recipes.items() if recipe.fold == fold][:MAX_MODELS]


def run_overlays(study: Study, run: str, count: int = 4) -> Figure:
    """Show the test slices of a run with the largest lesions, as Figures 2.8 to 2.10."""
    table, images, masks, found = _test_slices(study, run)
    rows = np.argsort(masks.sum(axis=(1, 2)))[::-1][:count]
    titles = [_slice_name(table.iloc[row]) for row in rows]
    return overlays(images[rows], found[rows], masks[rows], titles, f"{run} model, largest lesions")


def best_to_worst(study: Study, run: str, count: int = 4) -> Figure:
    """Show the test slices with lesions of a run's best, middle and worst Dice, `count` of each."""
    table, images, masks, found = _test_slices(study, run)
    dice = metrics.score_from_counts("dice", *metrics.counts_by_slice(masks, found).T)
    order = np.argsort(-dice, kind="stable")
    has_lesion = masks.any(axis=(1, 2))[order]
    order = order[has_lesion] if has_lesion.any() else order  # all, if none has a lesion
    middle = max(len(order) // 2 - count // 2, 0)
    rows = np.concatenate([order[:count], order[middle : middle + count], order[-count:]])
    titles = [f"{_slice_name(table.iloc[row])}\nDice {dice[row]:.2f}" for row in rows]
    heading = f"{run} model: best, middle and worst test slices with lesions"
    return error_maps(images[rows], found[rows], masks[rows], titles, heading)


def case_animation(study: Study, run: Run, frames: int = 40) -> bytes:
    """Return an animated PNG of the test case with the most lesion, predicted by a run.

    If the case has more than `frames` slices, some are skipped, at regular intervals.
    """
    table, recipe = preprocessing.slice_table(study), run.recipe
    subset = splits.subsets(table, recipe.split, recipe.fold)
    rows = np.flatnonzero(table["case"] == prediction.case_with_most_lesion(study, run))
    probabilities = prediction.predict_slices(run, batches.open_inputs(study, recipe)[0][rows])
    found = prediction.study_masks(study, table["case"][rows], probabilities, run.postprocessing)
    shown = slice(None, None, math.ceil(len(rows) / frames))
    rows, found = rows[shown], found[shown, ..., 0]
    images, masks = (array[rows, ..., 0] for array in preprocessing.open_arrays(study))
    names = [f"{_slice_name(table.loc[row])}\n({subset[row]} slice)" for row in rows]
    return animation(images, found, masks, [f"{recipe.run} model, {name}" for name in names])


def _test_slices(study, run):
    """Return the table, images, true and predicted masks (n, size, size) of a run's test slices."""
    recipe = files.read_json(study.need("recipe", run=run))
    rows = preprocessing.subset_rows(study, "test", split=recipe["split"], fold=recipe["fold"])
    images, masks = (array[rows, ..., 0] for array in preprocessing.open_arrays(study))
    table = preprocessing.slice_table(study).loc[rows]
    rules = models.read_postprocessing(study.path("recipe", run=run).parent)
    probabilities = np.load(study.need("prediction", run=run))
    found = prediction.study_masks(study, table["case"], probabilities, rules)
    return table, images, masks, found[..., 0]


def _slice_name(row):
    return f"{row['case']} {row['slice']}"
