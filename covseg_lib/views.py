"""Pictures of a study's own slices as its runs see them: picks the slices, `figures` draws them."""

import numpy as np

from covseg_lib import figures, prediction, scores, slices, splits, storage
from covseg_lib.study import LESION_FROM

MOST_SHOWN = 6  # models; a sweep may have a hundred


def to_show(study, runs):
    """Return the names of those of some Runs, {name: Run}, that pictures are made of: one a model, on the same slices.

    They are of the study's split where one is, else of the other; of the lowest fold; of many models the first.
    """
    split, usual = study.settings()["split"], {name: run.recipe for name, run in runs.items()}
    usual = {name: recipe for name, recipe in usual.items() if recipe.split == split} or usual
    fold = min(recipe.fold for recipe in usual.values())
    return [name for name, recipe in usual.items() if recipe.fold == fold][:MOST_SHOWN]


def overlays(study, run, count=4):
    """Show the test slices of a run with the largest lesions, as Figures 2.8 to 2.10."""
    table, images, masks, found = _test_slices(study, run)
    shown = np.argsort(masks.sum(axis=(1, 2)))[::-1][:count]
    titles = [_name(table.iloc[row]) for row in shown]
    return figures.overlays(images[shown], found[shown], masks[shown], titles, f"{run} model, largest lesions")


def best_to_worst(study, run, count=4):
    """Show the test slices of a run with the best, the middle and the worst Dice, of those with a lesion if any has."""
    table, images, masks, found = _test_slices(study, run)
    dice = scores.of_counts("dice", *scores.counts_by_slice(masks, found).T)
    ranked = np.argsort(-dice, kind="stable")
    ill = masks.any(axis=(1, 2))[ranked]
    ranked = ranked[ill] if ill.any() else ranked
    middle = max(len(ranked) // 2 - count // 2, 0)
    shown = np.concatenate([ranked[:count], ranked[middle : middle + count], ranked[-count:]])
    titles = [f"{_name(table.iloc[row])}\nDice {dice[row]:.2f}" for row in shown]
    heading = f"{run} model: best, middle and worst test slices with lesions"
    return figures.errors(images[shown], found[shown], masks[shown], titles, heading)


def scroll(study, run, frames=40):
    """Return an animated PNG, as bytes, that goes through the case with the most lesion that a Run is tested on."""
    table = slices.table(study)
    side = splits.sides(table, run.recipe.split, run.recipe.fold)
    rows = np.flatnonzero(table["case"] == fullest_case(study, run))
    rows = rows[:: -(-len(rows) // frames)]
    images, masks = (array[rows] for array in slices.arrays(study))
    found = prediction.predict_slices(run, images) >= LESION_FROM
    titles = [f"{run.recipe.run} model, {_name(table.loc[row])}\n({side[row]} slice)" for row in rows]
    return figures.scroll(images[..., 0], found[..., 0], masks[..., 0], titles)


def fullest_case(study, run):
    """Return the name of the case with the most lesion in the test slices of a Run."""
    tested = slices.table(study).loc[slices.rows_of(study, "test", split=run.recipe.split, fold=run.recipe.fold)]
    return tested.groupby("case")["lesion_pixels"].sum().idxmax()


def _test_slices(study, run):
    """Return the rows of slices.csv that test a run, their images, true and predicted masks (T, size, size)."""
    recipe = storage.read_json(study.need("recipe", run=run))
    rows = slices.rows_of(study, "test", split=recipe["split"], fold=recipe["fold"])
    images, masks = (array[rows, ..., 0] for array in slices.arrays(study))
    found = np.load(study.need("prediction", run=run))[..., 0] >= LESION_FROM
    return slices.table(study).loc[rows], images, masks, found


def _name(row):
    return f"{row['case']} {row['slice']}"
