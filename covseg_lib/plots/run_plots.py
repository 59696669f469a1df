"""Figures of runs: their curves, and what they predict while and after they train."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from covseg_lib.data import splits
from covseg_lib.data.slices import Slices, slice_names
from covseg_lib.evaluation import metrics, prediction
from covseg_lib.plots.charts import SUBSET_COLOURS
from covseg_lib.plots.slice_plots import error_maps, method_masks, overlays, slider
from covseg_lib.settings import LESION_THRESHOLD
from covseg_lib.training import batches, callbacks
from covseg_lib.training.models import Run
from covseg_lib.training.objectives import OBJECTIVES
from covseg_lib.training.recipes import Recipe, run_name
from covseg_lib.training.run_folder import RunFolder, need_made

MAX_MODELS = 6  # shown at most: a sweep may have a hundred


def representative_runs(slices: Slices, runs: dict[str, Run]) -> list[str]:
    """Return names of at most `MAX_MODELS` runs, one a model, all tested on the same slices.

    They are runs of the study's split, or of the other if it has none, and of the lowest fold. Of
    several runs with the same predicted masks the first one is taken.
    """
    recipes = {name: run.recipe for name, run in runs.items()}
    split = slices.study.settings()["split"]
    recipes = {name: made for name, made in recipes.items() if made.split == split} or recipes
    fold = min(recipe.fold for recipe in recipes.values())
    masks: dict[str, np.ndarray] = {}
    for name, recipe in recipes.items():
        if recipe.fold == fold and len(masks) < MAX_MODELS:
            found = _test_slices(slices, name)[-1]
            if not any(np.array_equal(found, other) for other in masks.values()):
                masks[name] = found
    return list(masks)


def run_overlays(slices: Slices, run: str, count: int = 4) -> Figure:
    """Show test slices of a run with large lesions, as Figures 2.8 to 2.10.

    Each case first gives its slice with the most lesion; only if the cases are fewer than `count`,
    their other slices follow.
    """
    table, images, masks, found = _test_slices(slices, run)
    cases, sizes = table["case"].to_numpy(), masks.sum(axis=(1, 2), dtype=int)
    order = np.argsort(-sizes, kind="stable")
    _, largest = np.unique(cases[order], return_index=True)  # of each case
    rows = order[[*sorted(largest), *sorted(set(range(len(order))) - set(largest))]][:count]
    titles = slice_names(table.iloc[rows])
    return overlays(images[rows], found[rows], masks[rows], titles, f"{run} model: large lesions")


def best_to_worst(slices: Slices, run: str, count: int = 4) -> Figure:
    """Show the test slices with lesions of a run's best, middle and worst Dice, `count` of each."""
    table, images, masks, found = _test_slices(slices, run)
    dice = metrics.score_from_counts("dice", *metrics.counts_by_slice(masks, found).T)
    order = np.argsort(-dice, kind="stable")
    has_lesion = masks.any(axis=(1, 2))[order]
    order = order[has_lesion] if has_lesion.any() else order  # all, if none has a lesion
    middle = max(len(order) // 2 - count // 2, 0)
    rows = np.concatenate([order[:count], order[middle : middle + count], order[-count:]])
    names = slice_names(table)
    titles = [f"{names[row]}\nDice {dice[row]:.2f}" for row in rows]
    heading = f"{run} model: best, middle and worst test slices with lesions"
    return error_maps(images[rows], found[rows], masks[rows], titles, heading)


def compare_on_case(slices: Slices, models: Sequence[str], case: str, count: int = 4) -> Figure:
    """Show the errors of several models on a held-out case, on the slices with most lesion.

    Each model has a row, with the Dice of the whole case; its run is that of the case's fold.
    """
    listed = slices.table.set_index("case")
    fold = int(listed.loc[case, "patient_fold"].iloc[0])
    pictures, predicted, true, titles = [], [], [], []
    for model in models:
        table, images, masks, found = _test_slices(slices, run_name(model, fold))
        rows = np.flatnonzero(table["case"] == case)
        dice = metrics.dice(masks[rows], found[rows])
        rows = rows[np.argsort(masks[rows].sum(axis=(1, 2)))[::-1][:count]]
        pictures.extend(images[rows])
        predicted.extend(found[rows])
        true.extend(masks[rows])
        names = slice_names(table.iloc[rows])
        titles += [f"{model}, Dice {dice:.2f}\n{name}" for name in names]
    return error_maps(pictures, predicted, true, titles)


def case_slider(slices: Slices, run: Run, frames: int = 40) -> str:
    """Return a slider (HTML) through the test case with the most lesion, predicted by a run.

    If the case has more than `frames` slices, some are skipped, at regular intervals.
    """
    table = slices.table
    recipe = run.recipe
    subset = splits.subsets(table, recipe.split, recipe.fold)
    rows = np.flatnonzero(table["case"] == prediction.case_with_most_lesion(slices, run))
    probabilities = prediction.predict_slices(run, batches.open_inputs(recipe, slices)[rows])
    found = prediction.study_masks(slices.study, table["case"][rows], probabilities, run.rules)
    shown = slice(None, None, math.ceil(len(rows) / frames))
    rows = rows[shown]
    found = found[shown, ..., 0]
    images = slices.images[rows, ..., 0]
    masks = slices.masks[rows, ..., 0]
    names = slices.names()
    titles = [f"{recipe.run} model, {names[row]}\n({subset[row]} slice)" for row in rows]
    return slider(images, found, masks, titles)


def training_curves(history: pd.DataFrame, metric: str, selection: str = "validation") -> Figure:
    """Show metric and loss over the epochs, as Figures 2.5 to 2.7, with a line at the kept epoch.

    Parameters
    ----------
    history : DataFrame with columns epoch, loss, the metric, and both with val_
    metric : str
        An entry of `objectives.OBJECTIVES`.
    selection : str, of the recipe
    """
    kept, title = callbacks.best_epoch(history, metric, selection), OBJECTIVES[metric].title
    label_of_kept = f"{'best' if selection == 'validation' else 'last'}: epoch {kept}"
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, name, label in zip(axes, (metric, "loss"), (title, "loss"), strict=False):
        train, validation = SUBSET_COLOURS["train"], SUBSET_COLOURS["validation"]
        ax.plot(history["epoch"], history[name], color=train, label="training")
        ax.plot(history["epoch"], history[f"val_{name}"], color=validation, label="validation")
        ax.axvline(kept, color="0.6", linestyle=":", label=label_of_kept)
        ax.set(xlabel="epoch", ylabel=label, title=f"{title} model: {label}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(frameon=False)
    return figure


class LivePredictions(keras.callbacks.Callback):
    """Keras callback that shows how the prediction of one slice changes while a model trains.

    The slice is the validation slice with most lesion. It is drawn after the first epoch and then
    every so many epochs, with its errors and its Dice. Each figure replaces the one before.

    Parameters
    ----------
    slices : Slices
    recipe : Recipe
        Of the run that is trained.
    every : int
        Epochs between two figures; 0 draws none.
    """

    def __init__(self, slices: Slices, recipe: Recipe, every: int):
        super().__init__()
        self.slices = slices
        self.recipe = recipe
        self.every = every
        self.predicted: dict[str, np.ndarray] = {}
        self.display: Any = None

    def on_epoch_end(self, epoch, logs=None):
        """Predict and draw, if a figure is due."""
        if not self.every or (epoch > 0 and (epoch + 1) % self.every):
            return
        from IPython.display import display

        if not self.predicted:
            self._choose_slice()
        probabilities = np.asarray(self.model.predict_on_batch(self.input))[0, ..., 0]
        self.predicted[f"epoch {epoch + 1}"] = probabilities >= LESION_THRESHOLD
        first, *others = self.predicted.items()
        figure = method_masks(self.image, self.mask, dict([first, *others[-3:]]))
        if self.display:
            self.display.update(figure)
        else:
            self.display = display(figure, display_id=True)

    def _choose_slice(self):
        """Take the validation slice with the most lesion."""
        masks = batches.true_masks(self.recipe, self.slices)
        rows = self.slices.rows("validation", split=self.recipe.split, fold=self.recipe.fold)
        row = rows[np.sum(masks[rows], axis=(1, 2, 3)).argmax()]
        self.input = batches.open_inputs(self.recipe, self.slices)[[row]]
        self.image = self.slices.images[row, ..., 0]
        self.mask = masks[row, ..., 0]


def _test_slices(slices, run):
    """Return the table, images, true and predicted masks (n, size, size) of a run's test slices."""
    state = RunFolder.of(slices.study, run).read()
    rows = slices.rows("test", split=state.recipe.split, fold=state.recipe.fold)
    table = slices.table.loc[rows]
    probabilities = np.load(need_made(slices.study, "prediction", run))
    found = prediction.study_masks(slices.study, table["case"], probabilities, state.rules)
    return table, slices.images[rows, ..., 0], slices.masks[rows, ..., 0], found[..., 0]
