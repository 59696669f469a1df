"""Charts of tables: bars, curves, intervals."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covseg_lib.evaluation import metrics, tables
from covseg_lib.settings import LESION_THRESHOLD, OBJECTIVE_NAMES

if TYPE_CHECKING:  # notebook 02 starts without TensorFlow
    from covseg_lib.training.objectives import Objective

# the colours of Okabe and Ito, which colour-blind readers can tell apart
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"]
SUBSET_COLOURS = {"train": "#0072B2", "validation": "#E69F00", "test": "#CC79A7"}
# orange: all splits with held-out patients
SPLIT_COLOURS = defaultdict(lambda: "#D55E00", slice="#0072B2")
BASELINE_GREYS = dict(zip(tables.BASELINES, ("0.4", "0.6", "0.8"), strict=True))
BEYOND_MM = 40  # where `dice_by_distance_chart` shows slices of patients without training slices
LEGEND_ON_THE_RIGHT = {"frameon": False, "bbox_to_anchor": (1, 1), "loc": "upper left"}


def histograms(grey: np.ndarray, standardised: np.ndarray) -> Figure:
    """Show the histograms of slices before and after they are standardised.

    Parameters
    ----------
    grey, standardised : arrays of any shape
        Grey levels 0..255, and the standardised values of the same slices.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    shown = {"grey level": grey, "standardised value": standardised}
    for ax, (name, values) in zip(axes, shown.items(), strict=True):
        mean, std = float(np.mean(values)), float(np.std(values))
        mean_text = f"{mean:.2f}".replace("-0.00", "0.00")
        std_text = f"one standard deviation: {std:.2f} each way"
        ax.hist(np.ravel(values), bins=60, color=COLOURS[0])
        ax.axvline(mean, color=COLOURS[4], label=f"mean {mean_text}")
        ax.axvspan(mean - std, mean + std, color="0.85", zorder=0, label=std_text)
        ax.set(xlabel=name, yscale="log")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, fontsize=8)
    axes[0].set_ylabel("pixels (log scale)")
    return figure


def split_bars(table: pd.DataFrame, subsets: dict[str, np.ndarray]) -> Figure:
    """Show how many slices of each patient are in each subset, a panel for each split.

    Parameters
    ----------
    table : DataFrame, as `Slices.table`: one row a slice, with a column patient
    subsets : {split: (n,) subset of each slice}
    """
    patients = table["patient"].unique()
    figure = Figure(figsize=(9, 1.1 + 0.3 * len(patients)), layout="constrained")
    axes = figure.subplots(1, len(subsets), sharey=True, squeeze=False)[0]
    for ax, (split, subset) in zip(axes, subsets.items(), strict=True):
        counts = table.groupby(["patient", subset]).size().unstack(fill_value=0).reindex(patients)
        left = np.zeros(len(counts))
        for name, colour in SUBSET_COLOURS.items():
            if name in counts:
                ax.barh(counts.index, counts[name], left=left, color=colour, label=name)
                left += counts[name].to_numpy()
        ax.set(xlabel="slices", title=f"{split} split" + (", fold 0" if split == "patient" else ""))
    axes[0].invert_yaxis()
    _add_legend_below(figure, axes[0], 3)
    return figure


def score_bars(table: pd.DataFrame) -> Figure:
    """Show the scores of `tables.score_table` as bars, a panel for each split."""
    splits = list(dict.fromkeys(table.index.get_level_values("split")))
    figure = Figure(figsize=(9, 2.9 * len(splits)), layout="constrained")
    names = list(metrics.METRICS)
    for ax, split in zip(figure.subplots(len(splits), 1, squeeze=False)[:, 0], splits, strict=True):
        rows = table.loc[split]
        width = 0.8 / len(rows)
        for number, (model, row) in enumerate(rows.iterrows()):
            places = np.arange(len(names)) + (number - (len(rows) - 1) / 2) * width
            colour = BASELINE_GREYS.get(model, COLOURS[number % len(COLOURS)])
            ax.bar(places, row[names], width * 0.9, color=colour, label=_model_name(model))
        ax.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
        ax.set(ylim=(0, 1.02), ylabel="score", title=f"{split} split: all test pixels together")
        ax.legend(fontsize=8, **LEGEND_ON_THE_RIGHT)
    return figure


def interval_bars(table: pd.DataFrame) -> Figure:
    """Show Dice with its 95 % intervals.

    Parameters
    ----------
    table : DataFrame, from `statistics.confidence_intervals`
    """
    figure = Figure(figsize=(9, 0.9 + 0.32 * len(table)), layout="constrained")
    ax = figure.subplots()
    names = []
    for place, ((split, model), row) in enumerate(table.iterrows()):
        colour = BASELINE_GREYS.get(model, SPLIT_COLOURS[split])
        if pd.notna(row["low"]):
            ends = [row["low"], row["high"]]
            ax.plot(ends, [place, place], color=colour, linewidth=3, alpha=0.6)
        ax.plot(row["dice"], place, "o", color=colour)
        names.append(f"{_model_name(model)}, {split} split, {row['patients']:.0f} patients")
    ax.set_yticks(range(len(table)), names, fontsize=8)
    ax.invert_yaxis()
    ax.set(
        xlim=(-0.02, 1),
        xlabel="Dice of all test pixels together (line: 95 % interval over patients)",
    )
    ax.grid(axis="x", color="0.9")
    return figure


def dice_by_distance_chart(table: pd.DataFrame) -> Figure:
    """Show the Dice of test slices against the distance to the nearest training slice.

    The table of `leakage.dice_by_distance`: columns split, mm and dice.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    ax = figure.subplots()
    jitter = np.random.default_rng(0).uniform(0.94, 1.06, len(table))  # dots overlap less
    for split, rows in table.groupby("split", sort=False):
        mm, colour = rows["mm"].replace(np.inf, BEYOND_MM), SPLIT_COLOURS[split]
        ax.plot(mm * jitter[: len(mm)], rows["dice"], ".", color=colour, alpha=0.35)
        medians = rows.groupby(mm)["dice"].median()
        style = {"color": colour, "markersize": 26, "markeredgewidth": 3}
        label = f"{split} split,\nmedian {rows['dice'].median():.2f}"
        ax.plot(medians.index, medians, "_", label=label, **style)
    ticks = [1, 2, 4, 6, 12, 24, BEYOND_MM]
    ax.set_xscale("log")
    ax.set_xticks(ticks, [*map(str, ticks[:-1]), "another\npatient"])
    ax.minorticks_off()
    nearest = min([*table["mm"], BEYOND_MM])
    ax.set(xlim=(nearest * 0.75, BEYOND_MM * 1.3), ylim=(-0.03, 1.03))
    ax.set(xlabel="mm to the nearest training slice (log scale)", ylabel="Dice of a test slice")
    ax.set_title("Test slices with lesions, by every model (bars: medians)")
    if table.empty:
        centred = {"transform": ax.transAxes, "ha": "center", "va": "center"}
        ax.text(0.5, 0.5, "no test slice has a lesion", **centred)
    else:
        legend = {"frameon": False, "loc": "center left", "bbox_to_anchor": (1, 0.5)}
        ax.legend(fontsize=8, markerscale=0.6, **legend)
    return figure


def threshold_curves(table: pd.DataFrame) -> Figure:
    """Show Dice against the threshold, the table of `tables.dice_by_threshold`."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    ax = figure.subplots()
    for number, (split, model) in enumerate(table):
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": ["-", "--", ":"][number % 3]}
        ax.plot(
            table.index, table[split, model], **style, label=f"{_model_name(model)}, {split} split"
        )
    ax.axvline(LESION_THRESHOLD, color="0.7", linestyle=":", label="threshold in use")
    ax.set(
        xlabel="threshold of the probability", ylabel="Dice, all test pixels together", ylim=(0, 1)
    )
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def sweep_chart(table: pd.DataFrame, varied: str, score: str) -> Figure:
    """Show the validation score of runs against a varied setting, and against training time.

    A marker is a run. The line joins the means of runs with the same setting; the band is their
    range.

    Parameters
    ----------
    table : DataFrame, from `runs.run_table`, of one split
    varied : str, a column of it
    score : str, name of the score
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    table = table.dropna(subset="validation")
    unit, seconds = ("minutes", 60) if table["total_s"].max() >= 120 else ("seconds", 1)
    values = sorted(table[varied].unique())
    has_names = any(isinstance(value, (str, bool, np.bool_)) for value in values)
    places = {value: number if has_names else value for number, value in enumerate(values)}
    objectives = [name for name in OBJECTIVE_NAMES if name in set(table["objective"])]
    for number, objective in enumerate(objectives):
        rows, colour = table[table["objective"] == objective], COLOURS[number]
        marks = {"marker": "os^"[number], "fillstyle": "none", "markeredgewidth": 1.5}
        marks |= {"color": colour, "linestyle": ""}
        of_setting = rows.groupby(varied)["validation"].agg(["min", "mean", "max", "size"])
        of_setting = of_setting.rename(index=places)
        band = {"where": of_setting["size"] > 1, "color": colour, "alpha": 0.15, "linewidth": 0}
        left.fill_between(of_setting.index, of_setting["min"], of_setting["max"], **band)
        left.plot(of_setting.index, of_setting["mean"], color=colour)
        left.plot(rows[varied].map(places), rows["validation"], **marks)
        right.plot(
            rows["total_s"] / seconds, rows["validation"], **marks, label=f"{objective} model"
        )
    if values and not has_names and 0 < 20 * values[0] < values[-1]:  # as learning rates are
        left.set_xscale("log")
        varied += " (log scale)"
    tick_labels = values if has_names else [f"{value:g}" for value in values]
    left.set_xticks(list(places.values()), tick_labels)
    left.minorticks_off()
    left.tick_params("x", rotation=45 if len(places) > 6 else 0)
    left.set(xlabel=varied.replace("_", " "), ylabel=f"{score}, all validation pixels")
    left.set_title("Effect of the setting")
    right.set(xlabel=f"{unit} of training", title="Training time")
    right.set_xlim(left=0)
    for ax in (left, right):
        ax.grid(axis="y", color="0.9")
    right.legend(fontsize=8)
    return figure


def loss_curves(table: pd.DataFrame, objective: Objective) -> Figure:
    """Show losses and metrics of predictions that get worse, with those of an objective thick.

    Parameters
    ----------
    table : DataFrame, from `degraded.loss_examples`
    objective : Objective
    """
    ways = list(dict.fromkeys(table.index.get_level_values("way")))
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.subplots(1, len(ways), sharey=True, squeeze=False)[0]
    thick = (objective.loss_title, f"1 - {objective.title}")
    for ax, way in zip(axes, ways, strict=True):
        for name, colour in zip(table, COLOURS, strict=False):
            curve, width = table.loc[way, name], 3 if name in thick else 1
            style = {"linewidth": width, "linestyle": "--" if name.startswith("1") else "-"}
            ax.plot(curve.index, curve, color=colour, label=name, **style)
        ax.set(xlabel="error: 0 none, 1 largest", title=way, ylim=(-0.03, 1.03))
    axes[0].set_ylabel("loss, or 1 - score: 0 is perfect")
    _add_legend_below(figure, axes[0], 5)
    return figure


def _model_name(model):
    """Return how a model or a baseline is called in a legend: models are named after metrics."""
    return model if model in BASELINE_GREYS else f"{model} model"


def _add_legend_below(figure, ax, columns):
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
