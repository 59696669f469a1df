"""Learning curves of a training: after it, and while it runs."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from covseg_lib import files
from covseg_lib.plots import slice_plots
from covseg_lib.plots.charts import SUBSET_COLOURS
from covseg_lib.study import LESION_THRESHOLD
from covseg_lib.training import callbacks


def training_curves(history: pd.DataFrame, metric: str, title: str, columns: int = 2) -> Figure:
    """Show metric and loss over the epochs, as Figures 2.5 to 2.7, with a line at the best epoch.

    Parameters
    ----------
    history : DataFrame with columns epoch, loss, the metric, and both with val_
    metric, title : str
        Name of the metric in the history, and in the figure.
    columns : int
        Number of axes. Two are used; more stay empty.
    """
    best = callbacks.best_epoch(history, metric)
    figure = Figure(figsize=(9, 6.4 / columns), layout="constrained")
    axes = figure.subplots(1, columns)
    for ax, name, label in zip(axes, (metric, "loss"), (title, "loss"), strict=False):
        train, validation = SUBSET_COLOURS["train"], SUBSET_COLOURS["validation"]
        ax.plot(history["epoch"], history[name], color=train, label="training")
        ax.plot(history["epoch"], history[f"val_{name}"], color=validation, label="validation")
        ax.axvline(best, color="0.6", linestyle=":", label=f"best: epoch {best}")
        ax.set(xlabel="epoch", ylabel=label, title=f"{title} model: {label}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(frameon=False)
    return figure


class LiveCurves(keras.callbacks.Callback):
    """Keras callback that draws the curves and one predicted slice while a model trains.

    Each figure replaces the one before.

    Parameters
    ----------
    every : int
        Epochs between two figures; 0 draws none.
    objective, title : str
        Name of the metric in the history, and in the figure.
    images, masks : (n, size, size, 1) arrays
        Standardised slices and their true masks. The slice with the most lesion is drawn.
    history_path : Path
        history.csv of the run. Another callback, `callbacks.History`, must write it first.
    """

    def __init__(
        self,
        every: int,
        objective: str,
        title: str,
        images: np.ndarray,
        masks: np.ndarray,
        history_path: Path,
    ):
        super().__init__()
        shown = np.sum(masks, axis=(1, 2, 3)).argmax()
        self.every, self.objective, self.title = every, objective, title
        self.image, self.mask, self.history_path = images[shown], masks[shown], history_path
        self.display: Any = None

    def on_epoch_end(self, epoch, logs=None):
        """Draw, if a figure is due."""
        if not self.every or (epoch + 1) % self.every:
            return
        from IPython.display import display

        history = files.read_csv(self.history_path)
        figure = training_curves(history, self.objective, self.title, columns=3)
        probabilities = np.asarray(self.model.predict_on_batch(self.image[None]))[0, ..., 0]
        ax = figure.axes[2]
        ax.set_axis_off()
        title = f"epoch {epoch + 1}: predicted (orange), true (blue)"
        slice_plots.show_slice(ax, self.image[..., 0], title)
        slice_plots.outline(ax, self.mask[..., 0], slice_plots.TRUTH)
        slice_plots.outline(ax, probabilities >= LESION_THRESHOLD, slice_plots.LESION)
        if self.display:
            self.display.update(figure)
        else:
            self.display = display(figure, display_id=True)
