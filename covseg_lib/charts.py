"""Every chart: what tables hold, drawn. Functions return the Figure and never show it."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from covseg_lib import scores, watching
from covseg_lib.study import LESION_FROM, OBJECTIVE_NAMES

COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"]  # of Okabe and Ito, for the colour-blind
SIDES = {"train": "#0072B2", "validation": "#E69F00", "test": "#CC79A7"}
GREYS = dict(zip(scores.BASELINES, ("0.4", "0.6", "0.8"), strict=True))  # what is no network
BEYOND_MM = 40  # where the leak's chart puts slices of patients without any training slice


def histograms(grey, standardised):
    """Show how often each grey level is in some slices, before and after standardising, with mean and spread."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for ax, values, label in zip(panels, (grey, standardised), ("grey level", "standardised value"), strict=True):
        mean, std = float(np.mean(values)), float(np.std(values))
        ax.hist(np.ravel(values), bins=60, color=SIDES["train"])
        ax.axvline(mean, color=COLOURS[4], label=f"mean {abs(mean) if abs(mean) < 0.005 else mean:.2f}")
        ax.axvspan(mean - std, mean + std, color="0.85", zorder=0, label=f"one standard deviation: {std:.2f} each way")
        ax.set(xlabel=label, yscale="log")
    panels[0].set_ylabel("pixels")
    for ax in panels:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, fontsize=8)
    return figure


def split_bars(table, sides):
    """Show on which side each patient's slices are, a panel a split: `sides` is {split: (n,) sides of the slices}."""
    patients = table["patient"].unique()
    figure = Figure(figsize=(9, 1.1 + 0.3 * len(patients)), layout="constrained")
    panels = figure.subplots(1, len(sides), sharey=True, squeeze=False)[0]
    for ax, (split, side) in zip(panels, sides.items(), strict=True):
        counted = table.groupby(["patient", side]).size().unstack(fill_value=0).reindex(patients)
        left = np.zeros(len(counted))
        for name in (name for name in SIDES if name in counted):
            ax.barh(counted.index, counted[name], left=left, color=SIDES[name], label=name)
            left += counted[name].to_numpy()
        ax.set(xlabel="slices", title=f"{split} split" + (", fold 0" if split == "patient" else ""))
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def training_curves(history, metric, title, columns=2):
    """Show a run's score and loss over the epochs, as Figures 2.5 to 2.7; the kept epoch is marked.

    More `columns` than 2 are left empty.
    """
    best = watching.best_epoch(history, metric)
    figure = Figure(figsize=(9, 6.4 / columns), layout="constrained")
    for ax, name, label in zip(figure.subplots(1, columns), (metric, "loss"), (title, "loss"), strict=False):
        ax.plot(history["epoch"], history[name], color=SIDES["train"], label="training")
        ax.plot(history["epoch"], history[f"val_{name}"], color=SIDES["validation"], label="validation")
        ax.axvline(best, color="0.6", linestyle=":", label=f"kept: epoch {best}")
        ax.set(xlabel="epoch", ylabel=label, title=f"{title} model: {label}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(frameon=False)
    return figure


def score_bars(table):
    """Show a table as `scores.table` returns it as bars, a panel a split."""
    splits = list(dict.fromkeys(table.index.get_level_values("split")))
    figure = Figure(figsize=(9, 2.9 * len(splits)), layout="constrained")
    names = list(scores.SCORES)
    for ax, split in zip(figure.subplots(len(splits), 1, squeeze=False)[:, 0], splits, strict=True):
        rows = table.loc[split]
        width = 0.8 / len(rows)
        for number, (model, row) in enumerate(rows.iterrows()):
            places = np.arange(len(names)) + (number - (len(rows) - 1) / 2) * width
            colour = GREYS.get(model, COLOURS[number % len(COLOURS)])
            ax.bar(places, row[names], width * 0.9, color=colour, label=model)
        ax.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
        ax.set(ylim=(0, 1.02), ylabel="score", title=f"{split} split: test slices, pooled")
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return figure


def method_bars(table):
    """Show how several methods score: a bar a row of the table, a colour a column of it, Dice in 0..1."""
    figure = Figure(figsize=(9, 0.9 + 0.42 * len(table)), layout="constrained")
    ax = figure.subplots()
    height = 0.8 / table.shape[1]
    for number, column in enumerate(table):
        places = np.arange(len(table)) + (number - (table.shape[1] - 1) / 2) * height
        bars = ax.barh(places, table[column], height * 0.9, color=COLOURS[number], label=column)
        ax.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    ax.set_yticks(range(len(table)), table.index)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.02), xlabel="Dice on this slice (1: the true mask)")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return figure


def interval_bars(table, score="dice"):
    """Show scores with their intervals, a table as `uncertainty.intervals` returns it."""
    figure = Figure(figsize=(9, 0.9 + 0.32 * len(table)), layout="constrained")
    ax = figure.subplots()
    for place, ((split, model), row) in enumerate(table.iterrows()):
        colour = GREYS.get(model, COLOURS[0] if split == "slice" else COLOURS[4])
        ax.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=3, alpha=0.6)
        ax.plot(row[score], place, "o", color=colour)
    names = [f"{model}, {split} split, {row.patients:.0f} patients" for (split, model), row in table.iterrows()]
    ax.set_yticks(range(len(table)), names, fontsize=8)
    ax.invert_yaxis()
    ax.set(
        xlim=(-0.02, 1), xlabel=f"{score} on test slices, with the 95 % interval where there are patients to draw from"
    )
    ax.grid(axis="x", color="0.9")
    return figure


def leak(table):
    """Show Dice slice by slice against the distance to the nearest slice that was trained on.

    `table` has columns split, mm (infinite where no slice of the case was trained on) and dice, one row a test slice
    with lesions.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    ax = figure.subplots()
    noise = np.random.default_rng(0).uniform(0.94, 1.06, len(table))
    for split, rows in table.groupby("split", sort=False):
        mm = rows["mm"].replace(np.inf, BEYOND_MM)
        colour = COLOURS[0] if split == "slice" else COLOURS[4]
        ax.plot(mm * noise[: len(mm)], rows["dice"], ".", color=colour, alpha=0.35)
        medians = rows.groupby(mm)["dice"].median()
        label = f"{split} split,\nmedian {rows['dice'].median():.2f}"
        ax.plot(medians.index, medians, "_", color=colour, markersize=26, markeredgewidth=3, label=label)
    ticks = [1, 2, 4, 6, 12, 24, BEYOND_MM]
    ax.set_xscale("log")
    ax.set_xticks(ticks, [*map(str, ticks[:-1]), "another\npatient"])
    ax.minorticks_off()
    if table.empty:
        ax.text(0.5, 0.5, "no test slice has a lesion", transform=ax.transAxes, ha="center", va="center")
    nearest = min([*table["mm"], BEYOND_MM])
    ax.set(xlim=(nearest * 0.75, BEYOND_MM * 1.3), ylim=(-0.03, 1.03))
    ax.set(xlabel="mm to the nearest slice trained on", ylabel="Dice of a test slice")
    if not table.empty:
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, markerscale=0.6)
    ax.set_title("Test slices with lesions, by every model (bars: medians)")
    return figure


def thresholds(table):
    """Show how Dice moves with the probability from which a pixel counts as lesion: as `scores.by_threshold` has it."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    ax = figure.subplots()
    for number, (split, model) in enumerate(table):
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": ["-", "--", ":"][number % 3]}
        ax.plot(table.index, table[split, model], **style, label=f"{model}, {split} split")
    ax.axvline(LESION_FROM, color="0.7", linestyle=":", label="taken")
    ax.set(xlabel="a pixel is lesion from this probability on", ylabel="Dice, test slices pooled", ylim=(0, 1))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def runs(table, varied, score):
    """Show runs by their validation score: against a setting that was varied, and against what their training took.

    `table` as `runs.table` returns it, of one split. A dot is a run that has a score; a line joins the means of a
    setting's runs, the band is from their lowest to their highest where there are several.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    table = table.dropna(subset="validation")
    values = sorted(table[varied].unique())
    named = any(isinstance(value, str) for value in values)
    places = {value: place if named else value for place, value in enumerate(values)}
    for number, objective in enumerate(name for name in OBJECTIVE_NAMES if name in set(table["objective"])):
        of_objective = table[table["objective"] == objective]
        colour, grouped = COLOURS[number], of_objective.groupby(varied)["validation"]
        dots = {"marker": "os^"[number], "color": colour, "linestyle": "", "fillstyle": "none", "markeredgewidth": 1.5}
        spread = grouped.agg(["min", "mean", "max", "size"]).rename(index=places)
        several = spread["size"] > 1
        left.fill_between(spread.index, spread["min"], spread["max"], several, color=colour, alpha=0.15, linewidth=0)
        left.plot(spread.index, spread["mean"], color=colour)
        left.plot(of_objective[varied].map(places), of_objective["validation"], **dots)
        right.plot(of_objective["total_s"] / 60, of_objective["validation"], **dots, label=f"{objective} model")
    if values and not named and 0 < 20 * values[0] < values[-1]:  # as learning rates are
        left.set_xscale("log")
    left.set_xticks(list(places.values()), values if named else [f"{value:g}" for value in values])
    left.minorticks_off()
    left.tick_params("x", rotation=45 if len(places) > 6 else 0)
    left.set(
        xlabel=varied.replace("_", " "), ylabel=f"{score}, validation slices pooled", title="What the setting buys"
    )
    right.set(xlabel="minutes of training", title="What it costs")
    right.set_xlim(left=0)
    for ax in (left, right):
        ax.grid(axis="y", color="0.9")
    right.legend(fontsize=8)
    return figure
