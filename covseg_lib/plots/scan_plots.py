"""Figures of whole scans: a preview of a mask, and the scores of many masks."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from covseg_lib.images import volumes
from covseg_lib.plots.slice_plots import LESION, TRUTH, outline, show_slice
from covseg_lib.settings import DEFAULT_READING, Reading

SHOWN = 4  # slices of a preview
LABELS = {"dice": "Dice", "nsd": "NSD", "hd95_mm": "HD95, mm", "error_ml": "error of volume, ml"}


def preview(
    path: Path,
    mask: np.ndarray,
    lungs: np.ndarray | None = None,
    reading: Reading = DEFAULT_READING,
) -> Figure:
    """Show the slices of a scan that have most lesion, with outlines; without lesions, most lung.

    Parameters
    ----------
    path : path of the scan
    mask : (S, H, W), upright
    lungs : (S, H, W), upright, optional
    reading : Reading, optional
    """
    grey, _ = volumes.read_grey(path, reading)
    areas = np.count_nonzero(mask, axis=(1, 2))
    if not areas.any() and lungs is not None:
        areas = np.count_nonzero(lungs, axis=(1, 2))
    rows = np.sort(np.argsort(-areas, kind="stable")[:SHOWN])
    figure = Figure(figsize=(3 * len(rows), 3.7), layout="constrained")
    figure.suptitle(
        f"{Path(path).name}: predicted lesions (orange), lungs (blue). Not a medical device.",
        fontsize=9,
    )
    for ax, row in zip(figure.subplots(1, len(rows), squeeze=False).flat, rows, strict=True):
        ax.set_axis_off()
        show_slice(ax, grey[row], f"slice {row + 1} of {len(grey)}")
        if lungs is not None:
            outline(ax, lungs[row], TRUTH)
        outline(ax, mask[row], LESION)
    return figure


def mask_scores(table: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Show the scores of masks case by case, with their means and 95 % intervals.

    Parameters
    ----------
    table : DataFrame, from `evaluate.evaluate_masks`
    summary : DataFrame, from `evaluate.summary`
    """
    height = 1.2 + 0.3 * len(table)
    figure = Figure(figsize=(12, height), layout="constrained")
    axes = figure.subplots(1, len(summary), sharey=True)
    for ax, (name, row) in zip(axes, summary.iterrows(), strict=True):
        values = table[name].replace(np.inf, np.nan)
        ax.barh(range(len(table)), values, color=TRUTH)
        ax.axvspan(row["low"], row["high"], color=LESION, alpha=0.25, linewidth=0)
        ax.axvline(row["mean"], color=LESION)
        for place in np.flatnonzero(values.isna()):
            ax.text(0, place, " infinite", va="center", fontsize=8)
        ax.set(title=LABELS[name])
        if name in ("dice", "nsd"):
            ax.set(xlim=(0, 1))
    axes[0].set_yticks(range(len(table)), table.index)
    axes[0].invert_yaxis()
    figure.supxlabel("bars: cases; orange: mean over cases, with its 95 % interval over patients")
    return figure
