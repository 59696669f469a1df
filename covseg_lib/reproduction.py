"""The report's own numbers beside ours, one by one: reproduced, explained, or not, and why."""

import itertools
from dataclasses import dataclass

import pandas as pd

from covseg_lib import models, scores, slices, storage, uncertainty, watching
from covseg_lib.dataset import REPORT_CASES

REPORT = {  # the report's Table 2.1 and section 2.5: epochs, seconds, scores
    metric: dict(zip(("epochs", "first_epoch_s", "other_epochs_s", "total_s", "seen", "test"), numbers, strict=True))
    for metric, numbers in {
        "accuracy": (100, 101, 18, 1883, 0.9971, 0.9948),
        "iou": (100, 97, 17, 1780, 0.9233, 0.8742),
        "dice": (250, 100, 17, 4333, 0.9198, 0.8603),
    }.items()
}
REPORT_SLICES = {"used": 661, "train": 467, "validation": 119, "test": 61}  # sections 2.3.1 and 2.5
NARROW = 0.05  # an interval that is no wider, 2.5 points each way, confirms a score; a wider one holds many others too
SIDES = {"seen": ("train", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class _Results:
    """What the tables are made of, each file opened once.

    listed : slices.csv
    recipes, timings : by (split, model), of its lowest fold
    counted : the counts of all sides, as `scores.counted` returns them
    """

    listed: pd.DataFrame
    recipes: dict
    timings: dict
    counted: pd.DataFrame


def table_2_1(study):
    """Return the report's Table 2.1 for our models: each under the metric that it was compiled with.

    Returns
    -------
    DataFrame, index (split, model): epochs, times in seconds (of the lowest fold), `seen` (score on training and
    validation slices together) and `test`, as fractions; each beside the report's own number, `report_...`
    """
    return _table_2_1(_read(study))


def costs(run):
    """Return the epochs of a Run and its times in seconds, beside the report's for the same metric: a DataFrame."""
    names = ["epochs", "first_epoch_s", "other_epochs_s", "total_s"]
    both = {"ours": run.timing | {"epochs": run.recipe.epochs}, "report": REPORT[run.recipe.objective]}
    return pd.DataFrame(both).loc[names].astype(float).round(1)


def numbers(study):
    """Compare each number of the report with this study's.

    Returns
    -------
    DataFrame, a row a number: what, report, ours, verdict, why. The verdict is "reproduced" (the same, or inside our
    95 % interval where that is no wider than `NARROW`), "compatible" (inside a wider one, which so many other numbers
    would be), "explained", "not reproduced", or "another question" where the study has not the report's slices and
    split
    """
    results = _read(study)
    table = _table_2_1(results)
    rows = [*_slice_numbers(results), *_time_numbers(results, table), *_score_numbers(results, table)]
    return pd.DataFrame(rows, columns=["what", "report", "ours", "verdict", "why"])


def shared_losses(study):
    """Compare the trainings of every two runs that differ in nothing but a metric: they share loss, seed and order.

    Returns
    -------
    DataFrame, a row a pair: split, fold, the two runs, the epoch that each one's metric picked, and the largest
    difference between their training losses of any epoch
    """
    runs = models.compared(study)
    alike = {
        run: {k: v for k, v in recipe.items() if k not in ("run", "objective", "model")} for run, recipe in runs.items()
    }
    histories = {run: storage.read_csv(study.need("history", run=run)) for run in runs}
    rows = []
    for a, b in itertools.combinations(runs, 2):
        if alike[a] == alike[b] and "dice" not in (runs[a]["objective"], runs[b]["objective"]):
            kept = [watching.best_epoch(histories[run], runs[run]["objective"]) for run in (a, b)]
            apart = float((histories[a]["loss"] - histories[b]["loss"]).abs().max())
            rows.append((runs[a]["split"], runs[a]["fold"], a, b, *kept, apart))
    return pd.DataFrame(
        rows, columns=["split", "fold", "run", "other", "epoch_kept", "other_kept", "largest_loss_difference"]
    )


def is_the_reports(listed):
    """Tell whether a study's slices.csv lists the report's 661 slices: its five volumes, all slices of them."""
    return set(listed["case"]) == set(REPORT_CASES) and len(listed) == REPORT_SLICES["used"]


def _read(study):
    """Return the `_Results` of a study."""
    runs = models.compared(study)
    recipes = {}
    for recipe in sorted(runs.values(), key=lambda recipe: recipe["fold"]):
        recipes.setdefault((recipe["split"], recipe["model"]), recipe)
    timings = {key: storage.read_json(study.need("timing", run=recipe["run"])) for key, recipe in recipes.items()}
    counted = scores.counted(study, ("train", "validation", "test"), runs)
    return _Results(slices.table(study), recipes, timings, counted)


def _table_2_1(results):
    pooled = {
        name: results.counted[results.counted["side"].isin(sides)].groupby(["split", "model"])[scores.COUNTS].sum()
        for name, sides in SIDES.items()
    }
    rows = {}
    for key, recipe in sorted(results.recipes.items(), key=lambda item: item[0][0], reverse=True):  # slice first
        metric, theirs = recipe["objective"], REPORT[recipe["objective"]]
        ours = results.timings[key] | {"epochs": recipe["epochs"]}
        ours |= {side: float(scores.of_counts(metric, *pooled[side].loc[key])) for side in SIDES}
        pairs = [((name, ours[name]), (f"report_{name}", theirs[name])) for name in theirs]
        rows[key] = {"metric": metric, **dict(pair for both in pairs for pair in both)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["split", "model"])


def _slice_numbers(results):
    """Yield the rows of the counts of slices."""
    counted = {"used": len(results.listed)} | results.listed["slice_split"].value_counts().to_dict()
    printed = sum(REPORT_SLICES[side] for side in ("train", "validation", "test"))
    slip = f"the report's three sum to {printed}, not {REPORT_SLICES['used']}; ours do: a slip of digits"
    for name, theirs in REPORT_SLICES.items():
        ours, what = counted[name], "slices" if name == "used" else f"slices, {name} (split by slices)"
        if not is_the_reports(results.listed):
            yield what, theirs, ours, "another question", "these are other volumes than the report's"
        elif ours == theirs:
            yield what, theirs, ours, "reproduced", "the same count"
        else:
            yield what, theirs, ours, "explained", slip


def _time_numbers(results, table):
    """Yield the rows of epochs and times, and of how the report's total ones follow from its others."""
    for key, row in table[table.index.get_level_values("split") == table.index[0][0]].iterrows():
        model, same = key[1], row["epochs"] == row["report_epochs"]
        why = ("reproduced", "the same") if same else ("another question", "trained for other epochs here")
        yield f"{model} model, epochs", row["report_epochs"], row["epochs"], *why
        for what in ("first_epoch_s", "other_epochs_s", "total_s"):
            device = f"here on {results.timings[key]['device']}"
            yield f"{model} model, {what}", row[f"report_{what}"], row[what], "another question", device
    for metric, theirs in REPORT.items():
        first, others, more = theirs["first_epoch_s"], theirs["other_epochs_s"], theirs["epochs"] - 1
        computed = first + more * others
        verdict = "explained" if computed == theirs["total_s"] else "not reproduced"
        why = f"the report's own {first} + {more} x {others}"
        yield f"{metric} model, total_s from its epochs", theirs["total_s"], computed, verdict, why


def _score_numbers(results, table):
    """Yield the rows of the scores, of every model in the report's split."""
    tested = results.counted[results.counted["side"] == "test"]
    for (split, model), row in table[table.index.get_level_values("split") == "slice"].iterrows():
        metric = row["metric"]
        of_model = tested[(tested["split"] == split) & tested["model"].isin([model, "(empty mask)"])]
        names = ("iou", "mean_iou") if metric == "iou" else (metric,)
        sure = {name: uncertainty.intervals(of_model, name).loc[split] for name in names}
        for side in SIDES:
            what = f"{model} model, {metric}, {'train + validation' if side == 'seen' else 'test'}"
            if not is_the_reports(results.listed):
                yield what, row[f"report_{side}"], row[side], "another question", "these are other slices"
            elif side == "seen":
                yield what, row["report_seen"], row["seen"], *_seen_verdict(row)
            else:
                yield what, row["report_test"], row["test"], *_test_verdict(metric, row["report_test"], model, sure)


def _seen_verdict(row):
    drop, theirs = row["seen"] - row["test"], row["report_seen"] - row["report_test"]
    alike = (drop > 0) == (theirs > 0)
    why = f"it falls by {drop:.3f} from here to the test slices; the report's by {theirs:.3f}"
    return ("reproduced" if alike else "not reproduced"), why


def _test_verdict(metric, theirs, model, sure):
    """Return verdict and reason for a test score: ours is taken with its 95 % interval."""
    empty = sure[metric].loc["(empty mask)", metric]
    verdict, interval = _inside(theirs, sure[metric].loc[model])
    if metric == "accuracy":
        return "explained", f"the empty mask has {empty:.4f}; {interval}"
    if verdict:
        return verdict, f"{interval}; the empty mask has {empty:.3f}"
    if metric == "iou":
        mean = sure["mean_iou"].loc[model]
        if _inside(theirs, mean)[0]:
            return "explained", f"it is the mean over both classes: ours is {mean['mean_iou']:.4f}; lesion: {interval}"
    return "not reproduced", interval


def _inside(theirs, ours):
    """Return "reproduced" or "compatible" for a number inside our interval, "" outside; and the interval in words."""
    patients = f"{ours['patients']:.0f} patient{'s' if ours['patients'] > 1 else ''}"
    interval = f"{patients}, {ours['low']:.2f} to {ours['high']:.2f}"
    if not ours["low"] <= theirs <= ours["high"]:
        return "", interval
    return ("reproduced" if ours["high"] - ours["low"] <= NARROW else "compatible"), interval
