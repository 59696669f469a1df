"""Tables of scores: which runs are compared, and every model under every metric.

predictions/<run>.csv holds the counts of pixels, slice by slice; the tables add them up. The folds
of a model, each a run, are scored together.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from covseg_lib import files
from covseg_lib.data.slices import Slices
from covseg_lib.evaluation.metrics import COUNTS, count_pixels, score_columns, score_from_counts
from covseg_lib.study import Study
from covseg_lib.training import run_folder
from covseg_lib.training.recipes import Recipe

BASELINES = ("(intensity range)", "(mean lesion map)", "(empty mask)")
BASELINES_FILE = "(baselines)"  # not a possible name of a run
THRESHOLDS = tuple(number / 20 for number in range(1, 20))


def predicted_runs(study: Study) -> dict[str, Recipe]:
    """Return {run: recipe} of the finished runs with predictions by their present weights."""
    found = run_folder.finished_runs(study)
    return {
        run: state.recipe
        for run, state in found.items()
        if run_folder.is_made(study, "counts", run)
    }


def compared_runs(study: Study) -> dict[str, Recipe]:
    """Return the predicted runs of those folds that all models of a split have.

    So all models of a split are scored on the same slices. Runs that differ only in the fold are
    one model.

    Returns
    -------
    {run: recipe}, in the order of `run_folder.finished_runs`

    Raises
    ------
    FileNotFoundError
        No run is predicted.
    ValueError
        The models of a split have no fold in common, a fold of a model was trained twice, or folds
        of a model were trained with different recipes.
    """
    found = predicted_runs(study)
    if not found:
        folder = study.path("predictions")
        raise FileNotFoundError(f"no predictions in {folder}: run notebook 06 first")
    splits = {recipe.split for recipe in found.values()}
    common = {split: _common_folds(found, split) for split in splits}
    return {run: recipe for run, recipe in found.items() if recipe.fold in common[recipe.split]}


def _common_folds(found, split):
    """Return the folds that all models of a split have."""
    folds: dict[str, dict[int, str]] = {}
    without_fold: dict[str, Recipe] = {}
    for run, recipe in found.items():
        if recipe.split != split:
            continue
        model = recipe.model
        other = folds.setdefault(model, {}).setdefault(recipe.fold, run)
        if other != run:
            raise ValueError(
                f"{other} and {run} are both fold {recipe.fold} of the model {model}: its test "
                "slices would count twice; remove one of the two folders from models/"
            )
        same = replace(recipe, run=model, fold=0)
        if without_fold.setdefault(model, same) != same:
            raise ValueError(
                f"{run} was trained with another recipe than the other folds of {model}: train "
                "all folds with the same recipe"
            )
    common = set.intersection(*map(set, folds.values()))
    if not common:
        listed = "; ".join(f"{model} {sorted(its)}" for model, its in folds.items())
        raise ValueError(
            f"no fold that all models were tested on (folds of {listed}): train them on one FOLD"
        )
    return common


def read_counts(study: Study, run: str) -> pd.DataFrame:
    """Return predictions/<run>.csv, one row a slice: case, patient, slice, subset and `COUNTS`.

    Raises FileNotFoundError if they are not of the run's present weights and rules.
    """
    return files.read_csv(run_folder.need_made(study, "counts", run))


def pixel_counts(
    study: Study, subsets: tuple[str, ...] = ("test",), recipes: dict[str, Recipe] | None = None
) -> pd.DataFrame:
    """Return the counts of every compared run and baseline, slice by slice.

    Parameters
    ----------
    study : Study
    subsets : "train", "validation", "test"
        Baselines have test slices only.
    recipes : dict, optional
        The result of `compared_runs`, if it is known already.

    Returns
    -------
    DataFrame, one row a model and slice, the report's split first: split, model, fold, subset,
    case, patient, slice, and `COUNTS`
    """
    recipes = compared_runs(study) if recipes is None else recipes
    named = [
        read_counts(study, run).assign(split=made.split, model=made.model, fold=made.fold)
        for run, made in recipes.items()
    ]
    counts = pd.concat([*named, _read_baselines(study)])
    wanted = {(made.split, made.fold) for made in recipes.values()}
    keys = zip(counts["split"], counts["fold"], strict=True)
    kept = np.array([key in wanted for key in keys]) & counts["subset"].isin(subsets)
    return counts[kept].sort_values("split", ascending=False, kind="stable", ignore_index=True)


def _read_baselines(study):
    """Return the counts of the baselines; ValueError if they are of other slices."""
    counts = files.read_csv(study.need("counts", run=BASELINES_FILE))
    about = files.read_json(study.need("preprocessing"))
    if (counts["slices_sha256"] != about["slices_sha256"]).any():
        raise ValueError(
            f"{study.path('counts', run=BASELINES_FILE)} was made from other slices than "
            "processed_data holds now: run notebook 06 again"
        )
    return counts.drop(columns="slices_sha256")


def score_table(study: Study) -> pd.DataFrame:
    """Score every model, and the baselines on the same slices.

    Returns
    -------
    DataFrame, index (split, model), in the order of `run_folder.finished_runs`, baselines last:
    `METRICS` of all pixels of all test slices together; the mean Dice over cases and over slices (a
    slice without a lesion counts 1 if none is predicted); numbers of slices, patients and folds
    """
    counts = pixel_counts(study)
    groups = counts.groupby(["split", "model"], sort=False)
    return score_columns(groups[COUNTS].sum()).assign(
        dice_by_case=_mean_dice(counts, ["case"]),
        dice_by_slice=_mean_dice(counts, ["case", "slice"]),
        slices=groups.size(),
        patients=groups["patient"].nunique(),
        folds=groups["fold"].nunique(),
    )


def _mean_dice(counts, unit):
    """Return the mean Dice over units, ["case"] or ["case", "slice"], of every model."""
    sums = counts.groupby(["split", "model", *unit], sort=False)[COUNTS].sum()
    dice = score_columns(sums, ["dice"])["dice"]
    return dice.groupby(["split", "model"], sort=False).mean()


def scores_by_case(study: Study) -> pd.DataFrame:
    """Return the scores of the test slices of every case; index (split, model, case)."""
    groups = pixel_counts(study).groupby(["split", "model", "case"], sort=False)
    return score_columns(groups[COUNTS].sum())


def dice_by_threshold(slices: Slices, thresholds: tuple[float, ...] = THRESHOLDS) -> pd.DataFrame:
    """Return the Dice of every model's test slices at several thresholds of the probability.

    DataFrame with a row for each threshold and a column (split, model) for each model.
    """
    counts: dict[tuple[str, str], np.ndarray] = {}
    for run, made in compared_runs(slices.study).items():
        truth = slices.masks[slices.rows("test", split=made.split, fold=made.fold)]
        probabilities = np.load(run_folder.need_made(slices.study, "prediction", run))
        found = [count_pixels(truth, probabilities >= threshold) for threshold in thresholds]
        key = made.split, made.model
        counts[key] = np.array(found) + counts.get(key, 0)
    columns = {key: score_from_counts("dice", *table.T) for key, table in counts.items()}
    return pd.DataFrame(columns, index=thresholds)
