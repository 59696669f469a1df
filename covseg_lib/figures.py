"""Every picture of the suite. Functions return the Figure and never show it."""

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from covseg_lib import watching
from covseg_lib.study import LESION_FROM

LESION, TRUTH = "#E69F00", "#56B4E9"  # orange and sky blue of Okabe and Ito, told apart by the colour-blind
GREYS = {"(grey band)": "0.4", "(usual place)": "0.6", "(empty mask)": "0.8"}  # bars of what is no network
SPLITS = {"train": "#0072B2", "validation": "#E69F00", "test": "#CC79A7"}


def gallery(images, masks, titles):
    """Show slices (n, H, W) side by side, lesions (n, H, W) outlined, each with its title."""
    figure, axes = _grid(1, len(images))
    for ax, image, mask, title in zip(axes.flat, images, masks, titles, strict=True):
        _slice(ax, image, title)
        _outline(ax, mask, TRUTH)
    figure.suptitle("CT slices, lesions outlined in blue")
    return figure


def overlays(images, predicted, true, titles):
    """Show each slice (n, H, W) twice, as Figures 2.8 to 2.10: predicted mask left, true mask right; two a row."""
    figure, axes = _grid(-(-len(images) // 2), 4)
    pairs = axes.reshape(-1, 2)
    for (left, right), image, found, truth, title in zip(pairs, images, predicted, true, titles, strict=False):
        for ax, mask, colour, what in ((left, found, LESION, "predicted"), (right, truth, TRUTH, "true")):
            _slice(ax, image, f"{title}: {what}")
            layer = np.zeros((*mask.shape, 4))
            layer[np.asarray(mask) > 0] = to_rgba(colour, 0.55)
            ax.imshow(layer, interpolation="nearest")
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


def histograms(grey, standardised):
    """Show the grey levels of some slices before and after standardising."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for ax, values, label in zip(
        figure.subplots(1, 2), (grey, standardised), ("grey level", "standardised value"), strict=True
    ):
        ax.hist(np.ravel(values), bins=60, color=SPLITS["train"])
        ax.set(xlabel=label, ylabel="pixels")
    return figure


def split_bars(table):
    """Show how the slices of each patient fall into train, validation and test."""
    counted = table.groupby(["patient", "split"]).size().unstack(fill_value=0)
    figure = Figure(figsize=(9, 0.6 + 0.36 * len(counted)), layout="constrained")
    ax = figure.subplots()
    left = np.zeros(len(counted))
    for split in (split for split in SPLITS if split in counted):
        ax.barh(counted.index, counted[split], left=left, color=SPLITS[split], label=split)
        left += counted[split].to_numpy()
    ax.invert_yaxis()
    ax.set(xlabel="slices", title="Which side of the split each patient's slices are on")
    ax.legend(loc="lower left", bbox_to_anchor=(1, 0), frameon=False)
    return figure


def training_curves(history, metric, title, columns=2):
    """Show a run's score and loss over the epochs, as Figures 2.5 to 2.7; the kept epoch is marked.

    More `columns` than 2 are left empty.
    """
    best = watching.best_epoch(history, metric)
    figure = Figure(figsize=(9, 6.4 / columns), layout="constrained")
    for ax, name, label in zip(figure.subplots(1, columns), (metric, "loss"), (title, "loss"), strict=False):
        ax.plot(history["epoch"], history[name], color=SPLITS["train"], label="training")
        ax.plot(history["epoch"], history[f"val_{name}"], color=SPLITS["validation"], label="validation")
        ax.axvline(best, color="0.6", linestyle=":", label=f"kept: epoch {best}")
        ax.set(xlabel="epoch", ylabel=label, title=f"{title} model: {label}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(frameon=False)
    return figure


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

        figure = training_curves(history, *self.names, columns=3)
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


def score_bars(table):
    """Show a table of scores (rows: runs and baselines; columns: scores from 0 to 1) as bars."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    ax = figure.subplots()
    width = 0.8 / len(table)
    colours = ["#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"]
    for number, (run, row) in enumerate(table.iterrows()):
        places = np.arange(len(row)) + (number - (len(table) - 1) / 2) * width
        colour = GREYS.get(run, colours[number % len(colours)])
        ax.bar(places, row, width * 0.9, color=colour, label=run)
    ax.set_xticks(range(table.shape[1]), [name.replace("_", " ") for name in table.columns])
    ax.set(ylim=(0, 1.02), ylabel="score on test slices", title="Every run under every metric")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


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
