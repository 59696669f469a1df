"""All runs of a study in one table: settings, training time and scores."""

import importlib.metadata
import json
import platform

import pandas as pd

from covseg_lib import __version__, files
from covseg_lib.evaluation import metrics, prediction, tables
from covseg_lib.study import Study
from covseg_lib.training import callbacks, recipes, run_folder
from covseg_lib.training.run_folder import RunFolder

PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "scikit-image", "nibabel")  # in report.html
SEEDS = ["seed", "fold"]  # runs with the same settings differ in these
SETTINGS = ["objective", "split", "epochs", "base_filters", "depth", "batch_size", "learning_rate"]
SETTINGS += ["precision", *recipes.SWITCH_NAMES]


def list_runs(study: Study) -> pd.DataFrame:
    """Return all runs in models/, finished or not.

    Returns
    -------
    DataFrame, index run: `SETTINGS` and `SEEDS`; state, which is "finished", "unfinished", or
    "stale" (trained on other slices than processed_data holds now); epochs_done; best_epoch, whose
    weights are saved; epoch_s and total_s, the seconds of an epoch and of the training; device
    """
    stale = run_folder.stale_runs(study)
    rows = []
    for run, state in run_folder.read_runs(study).items():
        row = _describe(RunFolder.of(study, run), state)
        if run in stale:
            row["state"] = "stale"
        rows.append(row)
    columns = ["run", *SETTINGS, *SEEDS, "state", "epochs_done", "best_epoch"]
    columns += ["epoch_s", "total_s", "device"]
    return pd.DataFrame(rows, columns=columns).set_index("run")


def _describe(folder, state):
    """Return a row of `list_runs`."""
    recipe = state.recipe
    row = {name: getattr(recipe, name) for name in ("run", *SETTINGS, *SEEDS)}
    row["state"] = "finished" if state.finished else "unfinished"
    row["epochs_done"] = state.epochs_done
    if state.epochs_done:
        history = files.read_csv(folder.file("history"))
        row["best_epoch"] = callbacks.best_epoch(history, recipe.objective, recipe.selection)
    if state.finished:
        row["epoch_s"] = state.timing["other_epochs_s"]
        row["total_s"] = state.timing["total_s"]
        row["device"] = state.timing["device"]
    return row


def run_table(study: Study, score: str = "dice") -> pd.DataFrame:
    """Return all runs with a score of their validation and of their test slices.

    Choose the best run by the validation score. Its test score then estimates how good it is.

    Parameters
    ----------
    study : Study
    score : str, one of `metrics.METRICS`

    Returns
    -------
    DataFrame as `list_runs` returns it, with the columns validation and test: the score of all
    pixels of these slices counted together, NaN for runs without predictions
    """
    scores = {run: _scores(study, run, score) for run in tables.predicted_runs(study)}
    columns = ["validation", "test"]
    return list_runs(study).join(
        pd.DataFrame.from_dict(scores, orient="index", columns=columns, dtype=float)
    )


def _scores(study, run, score):
    """Return the score of a run's validation slices and of its test slices, pixels pooled."""
    counts = tables.read_counts(study, run).groupby("subset")[metrics.COUNTS].sum()
    return metrics.score_columns(counts, [score])[score][["validation", "test"]].tolist()


def unpredicted(study: Study) -> list[str]:
    """Return the finished runs without predictions by their present weights and rules."""
    runs = run_folder.finished_runs(study)
    return [run for run in runs if not prediction.is_predicted(study, run)]


def varied_settings(table: pd.DataFrame) -> list[str]:
    """Return the `SETTINGS` that differ between runs, the one with the most values first.

    The objective and the split do not count. Returns ["epochs"] if no setting differs.
    """
    counts = table[[name for name in SETTINGS if name not in ("objective", "split")]].nunique()
    counts = counts[counts > 1].sort_values(ascending=False, kind="stable")
    return list(counts.index) or ["epochs"]


def best_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Return for each split and objective the row with the highest validation score.

    Of equal scores the first row is taken.
    """
    predicted = table.dropna(subset="validation")
    groups = predicted.groupby(["split", "objective"], sort=False)
    return predicted.loc[groups["validation"].idxmax()]


def brief_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of runs that fits a terminal: rounded, without settings that all share."""
    shared = [
        name
        for name in (*SETTINGS, *SEEDS)
        if name not in ("objective", "epochs") and table[name].nunique() < 2
    ]
    return table.drop(columns=[*shared, "device"]).round(4)


def settings_and_versions(study: Study) -> str:
    """Return a Markdown table of the study's settings, its runs' hardware, and all versions."""
    rows = [f"| {name} | `{json.dumps(value)}` |" for name, value in study.settings().items()]
    for run, state in run_folder.finished_runs(study).items():
        timing = state.timing
        rows.append(
            f"| run {run} | {timing['precision']}, {timing['backend']}, {timing['device']} |"
        )
    versions = [f"covseg {__version__}", f"Python {platform.python_version()}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    rows.append(f"| versions | {', '.join(versions)} |")
    table = "\n".join(["| | |", "|---|---|", *rows])
    return f"## Settings and versions\n\n{table}\n\nNot a medical device."
