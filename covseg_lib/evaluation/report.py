"""The report's numbers beside ours, one by one: reproduced, explained, or not, and why."""

import itertools
from dataclasses import dataclass, replace

import pandas as pd

from covseg_lib import files
from covseg_lib.data.cases import REPORT_CASES
from covseg_lib.data.slices import Slices
from covseg_lib.evaluation import metrics, statistics, tables
from covseg_lib.study import Study
from covseg_lib.training import callbacks
from covseg_lib.training.models import Run
from covseg_lib.training.run_folder import RunFolder

COLUMNS = ("epochs", "first_epoch_s", "other_epochs_s", "total_s", "seen", "test")
REPORT_TABLE = {  # the report's Table 2.1 and section 2.5: epochs, seconds, scores
    "accuracy": dict(zip(COLUMNS, (100, 101, 18, 1883, 0.9971, 0.9948), strict=True)),
    "iou": dict(zip(COLUMNS, (100, 97, 17, 1780, 0.9233, 0.8742), strict=True)),
    "dice": dict(zip(COLUMNS, (250, 100, 17, 4333, 0.9198, 0.8603), strict=True)),
}
REPORT_SLICES = {"used": 661, "train": 467, "validation": 119, "test": 61}  # sections 2.3.1, 2.5
NARROW = 0.05  # only an interval up to this width confirms a score: a wider one fits many numbers
SUBSETS = {"seen": ("train", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class _Results:
    """What the tables are made of; each file is opened once.

    slices : slices.csv
    recipes, timings : by (split, model), of the lowest fold
    counts : of all subsets, from `tables.pixel_counts`
    """

    slices: pd.DataFrame
    recipes: dict
    timings: dict
    counts: pd.DataFrame


def table_2_1(slices: Slices) -> pd.DataFrame:
    """Return the report's Table 2.1 for our models, each with the metric it was compiled with.

    Returns
    -------
    DataFrame, index (split, model): epochs, times in seconds (of the lowest fold), `seen` (the
    score on training and validation slices together) and `test`, as fractions; each beside the
    report's number, `report_...`
    """
    return _table_2_1(_read(slices))


def training_costs(run: Run) -> pd.DataFrame:
    """Return epochs and seconds of a run, beside the report's for the same metric."""
    ours = run.timing | {"epochs": len(run.history)}
    both = pd.DataFrame({"ours": ours, "report": REPORT_TABLE[run.recipe.objective]})
    return both.loc[["epochs", "first_epoch_s", "other_epochs_s", "total_s"]].astype(float).round(1)


def compare_numbers(slices: Slices) -> pd.DataFrame:
    """Compare each number of the report with this study's.

    Returns
    -------
    DataFrame, one row a number: what, report, ours, verdict, why. The verdict is "reproduced" (the
    same, or inside our 95 % interval, if that is not wider than `NARROW`), "compatible" (inside a
    wider interval, as many other numbers would be), "explained", "slip" (against the report's
    own other numbers), "not reproduced", or "not comparable" (of other slices, another split or
    another machine).
    """
    results = _read(slices)
    table = _table_2_1(results)
    rows = [
        *_slice_numbers(results),
        *_time_numbers(results, table),
        *_score_numbers(results, table),
    ]
    return pd.DataFrame(rows, columns=["what", "report", "ours", "verdict", "why"])


def compare_losses(study: Study) -> pd.DataFrame:
    """Compare runs that differ only in the metric: their loss, seed and batches are the same.

    Returns
    -------
    DataFrame, one row a pair: split, fold, the two runs, the epoch that each metric selected, and
    the largest difference between their training losses in any epoch
    """
    recipes = tables.compared_runs(study)
    histories = {run: files.read_csv(study.need("history", run=run)) for run in recipes}
    rows = []
    for run, other in itertools.combinations(recipes, 2):
        first, second = recipes[run], recipes[other]
        same_but_for_names = replace(
            second, run=first.run, model=first.model, objective=first.objective
        )
        if first == same_but_for_names and "dice" not in (first.objective, second.objective):
            history, other_history = histories[run], histories[other]
            kept = callbacks.best_epoch(history, first.objective, first.selection)
            other_kept = callbacks.best_epoch(other_history, second.objective, first.selection)
            difference = float((history["loss"] - other_history["loss"]).abs().max())
            rows.append((first.split, first.fold, run, other, kept, other_kept, difference))
    columns = ["split", "fold", "run", "other", "epoch_kept", "other_kept"]
    return pd.DataFrame(rows, columns=[*columns, "largest_loss_difference"])


def is_report_data(slices: pd.DataFrame) -> bool:
    """Return whether slices.csv lists the report's 661 slices, all those of its five volumes."""
    return set(slices["case"]) == set(REPORT_CASES) and len(slices) == REPORT_SLICES["used"]


def _read(slices):
    study = slices.study
    runs = tables.compared_runs(study)
    recipes = {}
    timings = {}
    for run, recipe in sorted(runs.items(), key=lambda item: item[1].fold):
        key = recipe.split, recipe.model
        if key not in recipes:
            recipes[key] = recipe
            timings[key] = RunFolder.of(study, run).read().timing
    counts = tables.pixel_counts(study, ("train", "validation", "test"), runs)
    return _Results(slices.table, recipes, timings, counts)


def _table_2_1(results):
    pooled = {}
    for name, subsets in SUBSETS.items():
        counts = results.counts[results.counts["subset"].isin(subsets)]
        pooled[name] = counts.groupby(["split", "model"])[metrics.COUNTS].sum()
    rows = {}
    report_split_first = sorted(results.recipes, key=lambda key: key[0], reverse=True)
    for key in report_split_first:
        recipe = results.recipes[key]
        metric = recipe.objective
        ours = results.timings[key] | {"epochs": recipe.epochs}
        for name, counts in pooled.items():
            ours[name] = float(metrics.score_from_counts(metric, *counts.loc[key]))
        row = {"metric": metric}
        for name, number in REPORT_TABLE[metric].items():
            row |= {name: ours[name], f"report_{name}": number}
        rows[key] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["split", "model"])


def _slice_numbers(results):
    """Yield the rows about numbers of slices."""
    ours = {"used": len(results.slices)} | results.slices["slice_split"].value_counts().to_dict()
    total = sum(REPORT_SLICES[subset] for subset in ("train", "validation", "test"))
    for name, number in REPORT_SLICES.items():
        what = "slices" if name == "used" else f"slices, {name} (split by slices)"
        if not is_report_data(results.slices):
            verdict, why = "not comparable", "these are other volumes than the report's"
        elif ours[name] == number:
            verdict, why = "reproduced", "the same count"
        else:
            verdict = "slip"
            why = f"the report's three sum to {total}, not {REPORT_SLICES['used']}: a wrong digit"
        yield what, number, ours[name], verdict, why


def _time_numbers(results, table):
    """Yield the rows about epochs and times, and whether the report's total times add up."""
    split = table.index[0][0]
    for (_, model), row in table.loc[[split]].iterrows():
        if row["epochs"] == row["report_epochs"]:
            verdict, why = "reproduced", "the same"
        else:
            verdict, why = "not comparable", "trained for other epochs here"
        yield f"{model} model, epochs", row["report_epochs"], row["epochs"], verdict, why
        why = f"here on {results.timings[split, model]['device']}"
        for name in ("first_epoch_s", "other_epochs_s", "total_s"):
            what = f"{model} model, {name}"
            yield what, row[f"report_{name}"], row[name], "not comparable", why
    for metric, report in REPORT_TABLE.items():
        first, others = report["first_epoch_s"], report["other_epochs_s"]
        more = report["epochs"] - 1
        computed = first + more * others
        verdict = "explained" if computed == report["total_s"] else "not reproduced"
        why = f"the report's own {first} + {more} x {others}"
        yield f"{metric} model, total_s from its epochs", report["total_s"], computed, verdict, why


def _score_numbers(results, table):
    """Yield the rows about the scores of every model in the report's split."""
    tested = results.counts[results.counts["subset"] == "test"]
    for (split, model), row in table[table.index.get_level_values("split") == "slice"].iterrows():
        metric = row["metric"]
        both = tested["model"].isin([model, "(empty mask)"]) & (tested["split"] == split)
        names = ("iou", "mean_iou") if metric == "iou" else (metric,)
        intervals = {
            name: statistics.confidence_intervals(tested[both], name).loc[split] for name in names
        }
        for subset in SUBSETS:
            what = f"{model} model, {metric}, "
            what += "train + validation" if subset == "seen" else "test"
            if not is_report_data(results.slices):
                verdict, why = "not comparable", "these are other slices"
            elif subset == "seen":
                verdict, why = _seen_verdict(row)
            else:
                verdict, why = _test_verdict(metric, row["report_test"], model, intervals)
            yield what, row[f"report_{subset}"], row[subset], verdict, why


def _seen_verdict(row):
    drop, report_drop = row["seen"] - row["test"], row["report_seen"] - row["report_test"]
    why = f"it falls by {drop:.3f} from here to the test slices; the report's by {report_drop:.3f}"
    return ("reproduced" if (drop > 0) == (report_drop > 0) else "not reproduced"), why


def _test_verdict(metric, report, model, intervals):
    """Return verdict and reason for a test score, from our 95 % interval."""
    empty = intervals[metric].loc["(empty mask)", metric]
    verdict, interval = _inside(report, intervals[metric].loc[model])
    if metric == "accuracy":
        return "explained", f"the empty mask has {empty:.4f}; {interval}"
    if verdict:
        return verdict, f"{interval}; the empty mask has {empty:.3f}"
    if metric == "iou":
        mean = intervals["mean_iou"].loc[model]
        if _inside(report, mean)[0]:
            why = f"it is the mean over both classes: ours is {mean['mean_iou']:.4f}"
            return "explained", f"{why}; lesion: {interval}"
    return "not reproduced", interval


def _inside(report, ours):
    """Return a verdict, and the interval as text.

    The verdict is "reproduced" or "compatible" if the report's number is in our interval, else "".
    """
    patients = f"{ours['patients']:.0f} patient{'s' if ours['patients'] > 1 else ''}"
    interval = f"{patients}, {ours['low']:.2f} to {ours['high']:.2f}"
    if not ours["low"] <= report <= ours["high"]:
        return "", interval
    return ("reproduced" if ours["high"] - ours["low"] <= NARROW else "compatible"), interval
