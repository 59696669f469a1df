"""Figures of slices: with masks, with errors, or a whole case with a slider."""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from covseg_lib.evaluation import metrics

# colours of Okabe and Ito, which colour-blind readers can tell apart; each has one meaning
LESION, TRUTH = "#E69F00", "#56B4E9"
ERRORS = {"true positive": "#009E73", "false positive": "#D55E00", "false negative": "#F0E442"}
SLIDER = """<div><img src="{first}" alt="slice"><br>
<input type="range" min="0" max="{last}" value="{start}" style="width: 288px" data-frames="{frames}"
oninput="this.parentNode.firstElementChild.src = this.dataset.frames.split(' ')[this.value]">
</div>"""


def gallery(
    images: np.ndarray,
    masks: np.ndarray,
    titles: Sequence[str],
    heading: str = "CT slices, lesions outlined in blue",
) -> Figure:
    """Show slices (n, H, W) side by side, in one grey scale, with the outlines of their masks."""
    figure, axes = _grid(1, len(images))
    grey = {"vmin": np.min(images), "vmax": np.max(images)}
    for ax, image, mask, title in zip(axes.flat, images, masks, titles, strict=True):
        show_slice(ax, image, title, **grey)
        outline(ax, mask, TRUTH)
    figure.suptitle(heading)
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
        dice = metrics.dice(truth, found)
        show_slice(left, image, f"{title}\nDice {dice:.2f}", _colour_mask(found, LESION))
        show_slice(right, image, f"{title}\ntrue", _colour_mask(truth, TRUTH))
    _add_legend(figure, {"predicted": LESION, "true": TRUTH})
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


def slider(
    images: np.ndarray, predicted: np.ndarray, true: np.ndarray | None, titles: Sequence[str]
) -> str:
    """Return an HTML element that shows one of several slices, and a slider to choose it.

    It needs no library and no connection, so it works in every notebook and in its HTML. Images
    (n, H, W), masks and titles are as for `error_maps`. `true` is None for a scan without true
    masks: the predicted ones are then drawn in orange. First comes the slice with most lesion: a
    page without scripts shows it alone.
    """
    figure = Figure(figsize=(4, 4.5), layout="constrained", dpi=72)
    ax = figure.subplots()
    ax.set_axis_off()
    if true is None:
        layers = [_colour_mask(mask, LESION) for mask in predicted]
    else:
        layers = [_colour_errors(*masks) for masks in zip(predicted, true, strict=True)]
        _add_legend(figure)
    grey = {"cmap": "gray", "vmin": images.min(), "vmax": images.max()}
    picture = ax.imshow(images[0], interpolation="nearest", **grey)
    layer = ax.imshow(layers[0], interpolation="nearest")
    frames = []
    for image, colours, title in zip(images, layers, titles, strict=True):
        picture.set_data(image)
        layer.set_data(colours)
        ax.set_title(title, fontsize=9)
        frames.append(_data_url(figure))
    areas = np.count_nonzero(predicted if true is None else true, axis=(1, 2))
    start = int(areas.argmax())
    values = {"first": frames[start], "last": len(frames) - 1, "start": start}
    return SLIDER.format(frames=" ".join(frames), **values)


def _data_url(figure):
    """Return a figure as a data URL: a picture inside the text of a page."""
    picture = io.BytesIO()
    figure.savefig(picture, format="jpeg")
    return "data:image/jpeg;base64," + base64.b64encode(picture.getvalue()).decode()


def show_slice(ax, image: np.ndarray, title: str, layer: np.ndarray | None = None, **grey) -> None:
    """Draw a slice (H, W) in grey, with a title, and a transparent layer (H, W, 4) over it.

    `grey` are arguments of `imshow`: `vmin` and `vmax`, the values that are black and white.
    """
    ax.imshow(image, cmap="gray", interpolation="nearest", **grey)
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


def _add_legend(figure, colours=ERRORS):
    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    size = min(10, 2 * figure.get_figwidth())  # three names fit a narrow figure, too
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=size
    )


def _grid(rows, columns, width=2.6):
    """Return a figure and its axes (rows, columns), each `width` inches wide."""
    figure = Figure(figsize=(columns * width, rows * width * 1.08), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes
