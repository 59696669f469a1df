"""All runs of a study side by side: how each was trained, what that took, and what came of it."""

import pandas as pd

from covseg_lib import models, scores, storage, watching

SEEDS = ("seed", "fold")  # what makes runs of one setting differ by chance, or by patients
SETTINGS = ("objective", "split", "epochs", "base_filters", "depth", "batch_size", "learning_rate", "precision")


def listing(study):
    """Return every run in models/, finished or not.

    Returns
    -------
    DataFrame, index run: `SETTINGS` and `SEEDS`; state ("finished", "unfinished", or "stale": trained on other slices
    than processed_data holds now), epochs done, the epoch whose weights are kept, seconds an epoch and in all
    """
    folders = sorted(path.parent.name for path in study.path("models").glob("*/recipe.json"))
    stale = study.stale_runs()
    rows = [_about(study, run) | ({"state": "stale"} if run in stale else {}) for run in folders]
    columns = ["run", *SETTINGS, *SEEDS, "state", "done", "kept", "epoch_s", "total_s", "device"]
    return pd.DataFrame(rows, columns=columns).set_index("run")


def table(study, score="dice"):
    """Return every run with a score of its validation and of its test slices, NaN where it is not predicted.

    Which run is best is for the validation slices to say; what it is worth, for the test slices.

    Returns
    -------
    DataFrame, index run, as `listing` returns it, with the columns validation and test
    """
    found = {run: _scores(study, run, score) for run in models.predicted_runs(study)}
    return listing(study).join(pd.DataFrame.from_dict(found, orient="index", columns=["validation", "test"]))


def unpredicted(study):
    """Return the names of the finished runs that are not predicted yet, or were trained on since."""
    paths = {run: (study.path("counts", run=run), study.path("weights", run=run)) for run in study.runs()}
    return [
        run
        for run, (counts, weights) in paths.items()
        if not counts.exists() or counts.stat().st_mtime < weights.stat().st_mtime
    ]


def varied(table):
    """Return the names of those `SETTINGS` but the objective and the split that differ between runs, most values first.

    ["epochs"] where none does.
    """
    counts = table[[name for name in SETTINGS if name not in ("objective", "split")]].nunique()
    counts = counts[counts > 1].sort_values(ascending=False, kind="stable")
    return list(counts.index) or ["epochs"]


def best(table):
    """Return the row of each split and objective whose validation score is highest, the first of equal ones."""
    predicted = table.dropna(subset="validation")
    return predicted.loc[predicted.groupby(["split", "objective"], sort=False)["validation"].idxmax()]


def brief(table):
    """Return a table of runs for a terminal: without the settings that all runs share, numbers rounded."""
    shared = [name for name in (*SETTINGS, *SEEDS) if name not in ("objective", "epochs") and table[name].nunique() < 2]
    return table.drop(columns=[*shared, "device"]).round(4)


def _about(study, run):
    recipe, row = storage.read_json(study.path("recipe", run=run)), {"run": run, "state": "unfinished"}
    row |= {name: recipe[name] for name in (*SETTINGS, *SEEDS)}
    if study.path("history", run=run).exists():
        history = storage.read_csv(study.path("history", run=run))
        row |= {"done": len(history), "kept": watching.best_epoch(history, recipe["objective"])}
    if study.path("timing", run=run).exists():
        timing = storage.read_json(study.path("timing", run=run))
        row |= {
            "state": "finished",
            "epoch_s": timing["other_epochs_s"],
            "total_s": timing["total_s"],
            "device": timing["device"],
        }
    return row


def _scores(study, run, score):
    """Return a score of all pixels of a run's validation slices, and of its test slices, counted together."""
    sides = scores.read_counts(study, run).groupby("side")[scores.COUNTS].sum()
    return scores.of_table(sides, [score])[score][["validation", "test"]].to_dict()
