"""Pictures of a whole volume, in the numbers of its file. Functions return the Figure and never show it."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from covseg_lib import anatomy, checks
from covseg_lib.study import LUNG_WINDOW_HU
from covseg_lib.volumes import to_grey

SOFT_WINDOW_HU = (-160, 240)  # in which muscle, blood and fat are told apart
TISSUES_HU = {
    "air": anatomy.AIR_HU,
    "lung": anatomy.LUNG_HU,
    "fat": anatomy.FAT_HU,
    "soft tissue": anatomy.SOFT_TISSUE_HU,
    "bone": anatomy.BONE_HU,
}
MARK = "#E69F00"


def upright(stored, volume, zooms):
    """Show a volume as its file holds it, and upright: a slice, and two cuts across all slices.

    Parameters
    ----------
    stored : (X, Y, Z) array, in the file's own order
    volume : (S, H, W) array, the same upright, as `volumes.read_volume` returns it
    zooms : distance in mm from one slice, row and column to the next
    """
    slices, rows, columns = volume.shape[0] // 2, volume.shape[1] // 2, volume.shape[2] // 4  # through the right lung
    grey = to_grey(volume)
    cuts = (  # picture, title, height of a pixel to its width, which end is at the top and on the left
        (to_grey(stored)[:, :, stored.shape[2] // 2], "as the file holds it", 1, ("", "")),
        (grey[slices], f"slice {slices}, upright", zooms[1] / zooms[2], ("front", "R")),
        (grey[::-1, rows], "cut from side to side", zooms[0] / zooms[2], ("head", "R")),
        (grey[::-1, :, columns], "cut from front to back", zooms[0] / zooms[1], ("head", "front")),
    )
    figure = Figure(figsize=(11, 3.3), layout="constrained")
    for number, (ax, (picture, title, aspect, (top, left))) in enumerate(
        zip(figure.subplots(1, len(cuts)), cuts, strict=True)
    ):
        ax.imshow(picture, cmap="gray", aspect=aspect)
        ax.set(xticks=[], yticks=[])
        ax.set_title(title, fontsize=10)
        ax.set_ylabel(left, rotation=0, ha="right", va="center")
        ax.set_xlabel(f"(top: {top})" if top else "")
        if number > 1:
            ax.axhline(len(grey) - 1 - slices, color=MARK, linewidth=1.5)
    figure.suptitle(f"One volume; the orange line is slice {slices} seen from its edge. R: the patient's right")
    return figure


def windows(volume, window_hu=LUNG_WINDOW_HU):
    """Show how often each number is in a volume (S, H, W), and its middle slice through windows.

    A volume of grey levels, windowed by its owner, is shown once.
    """
    low, high = int(volume.min()), int(volume.max())
    if checks.intensities(low, high) == "grey":
        shown, unit = {"windowed by its owner": (0, 255)}, "grey level"
    else:
        shown = {"all": (low, high), "lungs": window_hu, "soft tissue": SOFT_WINDOW_HU}
        unit = "Hounsfield units"
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    first, *others = figure.subplots(1, len(shown) + 1, width_ratios=[1.7] + [1] * len(shown))
    first.hist(volume[len(volume) // 2].ravel(), bins=100, range=(low, min(high, 1000)), color="0.4")
    first.set(xlabel=unit, ylabel="pixels of the slice", yscale="log")
    first.xaxis.set_major_locator(MaxNLocator(5))
    if "lungs" in shown:
        first.axvspan(*window_hu, color=MARK, alpha=0.25, zorder=0)
        for name, value in TISSUES_HU.items():
            first.axvline(value, color="0.7", linewidth=0.8)
            first.text(value, 1.02, name, transform=first.get_xaxis_transform(), rotation=50, va="bottom", fontsize=8)
    for ax, (name, ends) in zip(others, shown.items(), strict=True):
        ax.imshow(volume[len(volume) // 2], cmap="gray", vmin=ends[0], vmax=ends[1])
        ax.set_title(f"{name}:\n{ends[0]} to {ends[1]}", fontsize=10)
        ax.set_axis_off()
    return figure
