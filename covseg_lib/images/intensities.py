"""What the numbers of a CT volume mean: Hounsfield units, grey levels, or something else.

The unit is read from the histogram. A chest in HU has air and lungs below -800 and soft tissue
around 0; a chest in grey levels from 0 to 255 has bright soft tissue. What is neither is refused,
with what it looks like.
"""

import nibabel as nib
import numpy as np
from skimage.segmentation import clear_border

AIR_HU = -1000
PADDING_BELOW_HU = -1200  # outside of the scanner's circle: -2000, -3024 and others
LUNGS_BELOW_HU = -800
SOFT_TISSUE_HU = (-200, 300)
LEAST_SHARE = 0.005  # of the voxels that must be air or lung, and soft tissue
MOST_PADDING_VALUES = 50
BRIGHTEST_HU = 1000  # a quarter of a chest cannot be brighter
BRIGHT_LEVEL = 110  # 95 % of the grey levels of a chest in a lung window reach above it


def intensity_unit(values: np.ndarray, kind: str = "auto") -> str:
    """Return the unit of a CT volume, "HU" or "grey".

    Parameters
    ----------
    values : array of any shape
        The volume, or a sample of its voxels with the lowest and the highest value. NaN is left
        out.
    kind : one of `settings.INTENSITIES`
        "auto" decides by the histogram; the others are used as given, if the range allows it.

    Raises
    ------
    ValueError
        The values are neither HU nor grey levels; the message says what they look like.

    Examples
    --------
    >>> intensity_unit(np.array([-1000, -850, -30, 40, 60]))
    'HU'
    >>> intensity_unit(np.array([0, 40, 66, 210, 230]))
    'grey'
    """
    values = values[np.isfinite(values)] if values.dtype.kind == "f" else values.ravel()
    if not values.size or values.min() == values.max():
        level = "NaN" if not values.size else f"{values.min():g}"
        raise ValueError(f"every voxel is {level}: expected a CT volume")
    low, high = values.min(), values.max()
    if kind == "grey" and (low < 0 or high > 255):
        raise ValueError(
            f"intensities from {low:g} to {high:g} are no grey levels: expected 0 to 255"
        )
    if kind != "auto":
        return "HU" if kind == "hu" else "grey"
    looks_like = _wrong_grey(values) if low >= 0 and high <= 255 else _wrong_hu(values)
    if looks_like:
        raise ValueError(
            f"intensities from {low:g} to {high:g} are neither Hounsfield units (air near -1000, "
            f"soft tissue near 0) nor grey levels from 0 to 255: {looks_like}. If they are right, "
            'set INTENSITIES to "hu" or "grey" (covseg predict --intensities)'
        )
    return "grey" if low >= 0 and high <= 255 else "HU"


def _wrong_grey(values):
    """Return what values from 0 to 255 look like if they are no grey levels; "" if they are."""
    high, bright = values.max(), np.percentile(values, 95)
    for top, factor in ((1, 255), (100, 2.55)):
        if high <= top * 1.001:
            return f"they look scaled to 0..{top}; multiply them by {factor}"
    if bright < BRIGHT_LEVEL:
        return (
            f"95 % of them lie below {bright:.0f}, so they look scaled from a wide window; convert "
            "the HU again, with a window for lungs"
        )
    return ""


def _wrong_hu(values):
    """Return what values look like if they are no Hounsfield units; "" if they are."""
    inside, deep = values[values >= PADDING_BELOW_HU], values[values < PADDING_BELOW_HU]
    lungs = np.mean(inside < LUNGS_BELOW_HU) if inside.size else 0
    low, high = SOFT_TISSUE_HU
    soft = np.mean((inside >= low) & (inside <= high)) if inside.size else 0
    padding_is_one_value = len(np.unique(np.round(deep[:100_000]))) <= MOST_PADDING_VALUES
    if deep.size > 0.05 * values.size and soft < 0.05 and not padding_is_one_value:
        return "the rescale intercept was probably applied twice; add 1024"
    if not inside.size:
        return "all of them are darker than air"
    if inside.min() >= -200 and np.mean((inside > 800) & (inside < 1300)) >= 0.02:
        return "the rescale intercept was probably not applied; subtract 1024"
    if np.percentile(inside, 75) > BRIGHTEST_HU:
        return "a quarter of them is as bright as bone; the rescale slope is probably wrong"
    if np.abs(inside).max() <= 1.001:
        return "they look scaled to -1..1; convert the HU again"
    if lungs < LEAST_SHARE:
        return "nothing is as dark as air or lungs; they look clipped to another window"
    return "" if soft >= LEAST_SHARE else "nothing is like soft tissue"


def unusual_slope(header: nib.Nifti1Header) -> list[str]:
    """Return a warning if a scan's numbers are multiplied by nearly 1, but not by 1; else []."""
    slope = header.get_slope_inter()[0] or 1
    if not 0.5 < slope < 2 or abs(slope - 1) <= 0.001:
        return []
    return [
        f"its numbers are multiplied by {slope:.4g} (scl_slope), and HU are usually stored with 1: "
        "compare them with another program"
    ]


def is_outside(missing: np.ndarray) -> bool:
    """Return whether the missing voxels (S, H, W) lie around the chest, not in it.

    In each slice they must reach the border, as those outside of the scanner's circle do.
    """
    holes = (clear_border(of_slice).any() for of_slice in missing if not of_slice.all())
    return missing.mean() < 0.5 and not any(holes)
