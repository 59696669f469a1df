"""Learning curves of a training: after it, and while it runs."""

from typing import Any

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from covseg_lib import files
from covseg_lib.data import preprocessing
from covseg_lib.plots import slice_plots
from covseg_lib.plots.charts import SUBSET_COLOURS
from covseg_lib.settings import LESION_THRESHOLD
from covseg_lib.study import Study
from covseg_lib.training import batches, callbacks
from covseg_lib.training.objectives import OBJECTIVES
from covseg_lib.training.recipes import Recipe


def training_curves(
    history: pd.DataFrame, metric: str, columns: int = 2, selection: str = "validation"
) -> Figure:
    """Show metric and loss over the epochs, as Figures 2.5 to 2.7, with a line at the kept epoch.

    Parameters
    ----------
    history : DataFrame with columns epoch, loss, the metric, and both with val_
    metric : str
        An entry of `objectives.OBJECTIVES`.
    columns : int
        Number of axes. Two are used; more stay empty.
    selection : str, of the recipe
    """
    kept, title = callbacks.best_epoch(history, metric, selection), OBJECTIVES[metric].title
    label_of_kept = f"{'best' if selection == 'validation' else 'last'}: epoch {kept}"
    figure = Figure(figsize=(9, 6.4 / columns), layout="constrained")
    axes = figure.subplots(1, columns)
    for ax, name, label in zip(axes, (metric, "loss"), (title, "loss"), strict=False):
        train, validation = SUBSET_COLOURS["train"], SUBSET_COLOURS["validation"]
        ax.plot(history["epoch"], history[name], color=train, label="training")
        ax.plot(history["epoch"], history[f"val_{name}"], color=validation, label="validation")
        ax.axvline(kept, color="0.6", linestyle=":", label=label_of_kept)
        ax.set(xlabel="epoch", ylabel=label, title=f"{title} model: {label}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(frameon=False)
    return figure


class LiveCurves(keras.callbacks.Callback):
    """Keras callback that draws the curves and one predicted slice while a model trains.

    Each figure replaces the one before.

    Parameters
    ----------
    study : Study
    recipe : Recipe
        Of the run that is trained. The callback `callbacks.History` must come before this one.
    every : int
        Epochs between two figures; 0 draws none.
    """

    def __init__(self, study: Study, recipe: Recipe, every: int):
        super().__init__()
        self.every, self.recipe = every, recipe
        self.history_path = study.path("history", run=recipe.run)
        split, fold = recipe.split, recipe.fold
        rows = preprocessing.subset_rows(study, "validation", split=split, fold=fold)
        inputs, masks = batches.open_inputs(study, recipe)
        most_lesion = rows[np.sum(masks[rows], axis=(1, 2, 3)).argmax()]
        self.input, self.mask = inputs[[most_lesion]], masks[most_lesion]
        self.image = inputs.images[most_lesion]
        self.display: Any = None

    def on_epoch_end(self, epoch, logs=None):
        """Draw, if a figure is due."""
        if not self.every or (epoch + 1) % self.every:
            return
        from IPython.display import display

        history = files.read_csv(self.history_path)
        figure = training_curves(history, self.recipe.objective, 3, self.recipe.selection)
        probabilities = np.asarray(self.model.predict_on_batch(self.input))[0, ..., 0]
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
