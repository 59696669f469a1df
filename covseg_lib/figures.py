"""Every picture of slices. Functions return the Figure and never show it."""

import tempfile
from pathlib import Path

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from covseg_lib import charts, scores
from covseg_lib.study import LESION_FROM

LESION, TRUTH = "#E69F00", "#56B4E9"  # orange and sky blue of Okabe and Ito, told apart by the colour-blind
ERRORS = {"found": "#56B4E9", "false alarm": "#D55E00", "missed": "#F0E442"}


def gallery(images, masks, titles):
    """Show slices (n, H, W) side by side, lesions (n, H, W) outlined, each with its title."""
    figure, axes = _grid(1, len(images))
    for ax, image, mask, title in zip(axes.flat, images, masks, titles, strict=True):
        _slice(ax, image, title)
        _outline(ax, mask, TRUTH)
    figure.suptitle("CT slices, lesions outlined in blue")
    return figure


def overlays(images, predicted, true, titles, heading=""):
    """Show each slice (n, H, W) twice, as Figures 2.8 to 2.10: predicted mask left, true mask right; two a row."""
    figure, axes = _grid(-(-len(images) // 2), 4)
    figure.suptitle(heading)
    pairs = axes.reshape(-1, 2)
    for (left, right), image, found, truth, title in zip(pairs, images, predicted, true, titles, strict=False):
        for ax, mask, colour, what in ((left, found, LESION, "predicted"), (right, truth, TRUTH, "true")):
            _slice(ax, image, f"{title}\n{what}")
            ax.imshow(_layer(mask, colour), interpolation="nearest")
    return figure


def resizing(before, mask_before, after, mask_after):
    """Show one slice before and after resizing, with its lesions outlined."""
    figure, axes = _grid(1, 2, width=4)
    for ax, image, mask, what in (
        (axes[0, 0], before, mask_before, "sliced"),
        (axes[0, 1], after, mask_after, "resized"),
    ):
        _slice(ax, image, f"{what}, {image.shape[0]} x {image.shape[1]} pixels")
        _outline(ax, mask, TRUTH)
    return figure


def guesses(image, truth, guessed):
    """Show guesses at a slice (H, W) beside each other: a mask each (H, W), its scores above, the truth outlined."""
    figure, axes = _grid(1, len(guessed), width=2.6)
    for ax, guess in zip(axes.flat, guessed, strict=True):
        said = [f"{name} {scores.SCORES[name](truth, guess):.2f}" for name in ("dice", "iou", "accuracy")]
        _slice(ax, image, "{}\n{}, {}".format(*said).replace("dice", "Dice").replace("iou", "IoU"))
        ax.imshow(_layer(guess, LESION), interpolation="nearest")
        _outline(ax, truth, TRUTH)
    figure.suptitle("Guesses in orange, the true lesion outlined in blue")
    return figure


def errors(images, predicted, true, titles, heading=""):
    """Show slices (n, H, W), up to four a row, with what is found, a false alarm and missed in colours."""
    figure, axes = _grid(-(-len(images) // 4), min(len(images), 4))
    figure.suptitle(heading)
    for ax, image, found, truth, title in zip(axes.flat, images, predicted, true, titles, strict=False):
        _slice(ax, image, title)
        ax.imshow(_coloured(found, truth), interpolation="nearest")
    _legend(figure)
    return figure


def methods(image, true, found):
    """Show what methods, {name: mask (H, W)}, find on one slice (H, W), as `errors` does, with each one's Dice."""
    titles = [f"{name}\nDice {scores.dice(true, mask):.2f}" for name, mask in found.items()]
    return errors([image] * len(found), list(found.values()), [true] * len(found), titles)


def scroll(images, predicted, true, titles, frames_per_second=4):
    """Return an animated PNG, as bytes, that goes through slices (n, H, W) with the colours of `errors`."""
    figure = Figure(figsize=(4, 4.5), layout="constrained", dpi=72)
    ax = figure.subplots()
    ax.set_axis_off()
    _legend(figure)
    grey = ax.imshow(images[0], cmap="gray", interpolation="nearest", vmin=images.min(), vmax=images.max())
    layer = ax.imshow(_coloured(predicted[0], true[0]), interpolation="nearest")

    def draw(number):
        grey.set_data(images[number])
        layer.set_data(_coloured(predicted[number], true[number]))
        ax.set_title(titles[number], fontsize=9)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scroll.png")  # Pillow writes a PNG of many frames as an animated one
        FuncAnimation(figure, draw, len(images)).save(path, writer=PillowWriter(frames_per_second))
        return path.read_bytes()


class Redraw:
    """Draws a training while it runs: its curves so far and one slice as the model sees it now, in one place.

    Parameters
    ----------
    every : int
        Epochs between two pictures; 0: none at all.
    objective, title : str
        The metric's name in the history, and on the picture.
    images, masks : (n, size, size, 1) arrays
        Slices and their true masks; the one with the largest lesions is drawn.
    """

    def __init__(self, every, objective, title, images, masks):
        shown = np.sum(masks, axis=(1, 2, 3)).argmax()
        self.every, self.names, self.spot = every, (objective, title), None
        self.image, self.mask = images[shown], masks[shown]

    def __call__(self, history, model):
        """Draw, if it is time to: history is a DataFrame with a row an epoch."""
        if not self.every or len(history) % self.every:
            return
        from IPython.display import display

        figure = charts.training_curves(history, *self.names, columns=3)
        found = np.asarray(model.predict_on_batch(self.image[None]))[0, ..., 0] >= LESION_FROM
        ax = figure.axes[2]
        ax.set_axis_off()
        _slice(ax, self.image[..., 0], f"epoch {len(history)}: predicted (orange), true (blue)")
        _outline(ax, self.mask[..., 0], TRUTH)
        _outline(ax, found, LESION)
        if self.spot:
            self.spot.update(figure)
        else:
            self.spot = display(figure, display_id=True)


def _layer(mask, colour):
    layer = np.zeros((*np.shape(mask), 4))
    layer[np.asarray(mask) > 0] = to_rgba(colour, 0.55)
    return layer


def _coloured(found, truth):
    """Return a layer (H, W, 4) that colours what two masks (H, W) agree and differ on, as `ERRORS` says."""
    found, truth = np.asarray(found) > 0, np.asarray(truth) > 0
    layer = np.zeros((*found.shape, 4))
    for where, colour in zip((found & truth, found & ~truth, truth & ~found), ERRORS.values(), strict=True):
        layer[where] = to_rgba(colour, 0.6)
    return layer


def _legend(figure):
    handles = [Patch(color=colour, label=name) for name, colour in ERRORS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)


def _grid(rows, columns, width=2.6):
    figure = Figure(figsize=(columns * width, rows * width * 1.08), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def _slice(ax, image, title):
    ax.imshow(image, cmap="gray", interpolation="nearest")
    ax.set_title(title, fontsize=9)


def _outline(ax, mask, colour):
    if np.any(mask):
        ax.contour(mask, [0.5], colors=[colour], linewidths=1)
