"""Figures of whole volumes, of masks made for them and of their scores; an interactive viewer."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from covseg_lib import colab
from covseg_lib.data import phantom
from covseg_lib.images import volumes
from covseg_lib.plots.slice_plots import LESION, TRUTH, outline, show_slice
from covseg_lib.settings import DEFAULT_READING, LUNG_WINDOW_HU, Reading

SOFT_WINDOW_HU = (-160, 240)  # shows muscle, blood and fat in different grey levels
TISSUES_HU = {
    "air": phantom.AIR_HU,
    "lung": phantom.LUNG_HU,
    "fat": phantom.FAT_HU,
    "soft tissue": phantom.SOFT_TISSUE_HU,
    "bone": phantom.BONE_HU,
}
VIEWER_LESION = {"colormap": "blue", "opacity": 0.5, "cal_min": 0.5, "cal_max": 1}
SHOWN = 4  # slices of a preview
LABELS = {"dice": "Dice", "nsd": "NSD", "hd95_mm": "HD95, mm", "error_ml": "error of volume, ml"}


def orientation_views(stored: Any, volume: np.ndarray, spacing: Sequence[float]) -> Figure:
    """Show a volume in the file's order and upright: a slice, and two cuts through all slices.

    Parameters
    ----------
    stored : (X, Y, Z) array, in the file's own order
    volume : (S, H, W) array, the same upright, from `volumes.read_volume`
    spacing : distance in mm between slices, rows and columns
    """
    grey = volumes.to_grey(volume)
    in_file = volumes.to_grey(np.asanyarray(stored))
    z, y, x = spacing
    middle, row = len(grey) // 2, grey.shape[1] // 2
    column = grey.shape[2] // 4  # through the right lung
    front_to_back = grey[::-1, :, column]
    panels = (  # picture, title, height / width of a pixel, what is on top and on the left
        (in_file[:, :, in_file.shape[2] // 2], "in the file's order", 1, "", ""),
        (grey[middle], f"slice {middle}, upright", y / x, "front", "R"),
        (grey[::-1, row], "cut from side to side", z / x, "head", "R"),
        (front_to_back, "cut from front to back", z / y, "head", "front"),
    )
    figure = Figure(figsize=(11, 3.3), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for ax, (picture, title, aspect, top, left) in zip(axes, panels, strict=True):
        ax.imshow(picture, cmap="gray", aspect=aspect)
        ax.set(xticks=[], yticks=[])
        ax.set_title(title, fontsize=10)
        named = {"transform": ax.transAxes, "color": LESION, "fontsize": 10, "weight": "bold"}
        ax.text(0.02, 0.5, left, va="center", **named)
        ax.text(0.5, 0.98, top, ha="center", va="top", **named)
    for ax in axes[2:]:
        ax.axhline(len(grey) - 1 - middle, color=LESION, linewidth=1.5)
    figure.suptitle(f"One volume; the orange line is slice {middle}. R: the patient's right")
    return figure


def window_views(volume: np.ndarray, window_hu: tuple[float, float] = LUNG_WINDOW_HU) -> Figure:
    """Show the histogram of a volume's middle slice, and the slice through several windows.

    A volume of grey levels has been windowed before, and its slice is shown once.

    Parameters
    ----------
    volume : (S, H, W) array, in HU or grey levels
    window_hu : (low, high), the window for the lungs
    """
    volume = np.where(np.isnan(volume), phantom.AIR_HU if np.nanmin(volume) < 0 else 0, volume)
    low, high = int(volume.min()), int(volume.max())
    middle = volume[len(volume) // 2]
    windows: dict[str, tuple[float, float]] = {"windowed before": (0, 255)}
    unit, short = "grey level", ""
    is_hu = _is_hu(volume)
    if is_hu:
        windows = {"all": (low, high), "lungs": window_hu, "soft tissue": SOFT_WINDOW_HU}
        unit, short = "Hounsfield units (HU)", " HU"
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    first, *others = figure.subplots(1, len(windows) + 1, width_ratios=[1.7] + [1] * len(windows))
    first.hist(middle.ravel(), bins=100, range=(low, min(high, 1000)), color="0.4")
    first.set(xlabel=unit, ylabel="pixels of the slice (log scale)", yscale="log")
    first.xaxis.set_major_locator(MaxNLocator(5))
    if is_hu:
        first.axvspan(*window_hu, color=LESION, alpha=0.25, zorder=0)
        _name_tissues(first)
    for ax, (name, (black, white)) in zip(others, windows.items(), strict=True):
        ax.imshow(middle, cmap="gray", vmin=black, vmax=white)
        ax.set_title(f"{name}:\n{black:g} to {white:g}{short}", fontsize=10)
        ax.set_axis_off()
    return figure


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
        show_slice(ax, grey[row], f"slice {row}")
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


def _is_hu(volume):
    """Return whether a volume that was read is in HU, and not in grey levels."""
    return volume.min() < 0 or volume.max() > 255


def _name_tissues(ax):
    """Draw a line with a name at the HU of each tissue."""
    style = {"transform": ax.get_xaxis_transform(), "rotation": 50, "va": "bottom"}
    for name, value in TISSUES_HU.items():
        ax.axvline(value, color="0.7", linewidth=0.8)
        ax.text(value, 1.02, name, fontsize=8, **style)


def viewer_or_picture(picture: Any, image: Path, mask: Path, interactive: bool) -> Any:
    """Return an interactive viewer of a scan with its mask, or a picture instead.

    Parameters
    ----------
    picture
        Returned if `interactive` is False, or if ipyniivue is not installed.
    image, mask : Path of NIfTI files in one space
    interactive : bool
        Note that a notebook saved with its widgets holds the whole volume.

    Returns
    -------
    ipyniivue.NiiVue, or `picture`
    """
    if not (interactive and importlib.util.find_spec("ipyniivue")):
        return picture
    from ipyniivue import NiiVue

    colab.enable_widgets()
    volume, _ = volumes.read_volume(image)
    low, high = LUNG_WINDOW_HU if _is_hu(volume) else (0, 255)
    scan = {"path": image, "colormap": "gray", "cal_min": low, "cal_max": high}
    lesion = {"path": mask, **VIEWER_LESION}
    viewer = NiiVue(height=400)
    viewer.load_volumes([layer | {"colorbar_visible": False} for layer in (scan, lesion)])
    return viewer
