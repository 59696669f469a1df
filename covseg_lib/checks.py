"""What can be wrong with a volume once it is read: values, and how image and mask fit. Said, not mended."""

import numpy as np

AFFINE_TOLERANCE_MM = 0.01
HIGHEST_LABEL = 3  # MedSeg marks ground glass, consolidation and effusion as 1, 2 and 3


def intensities(low, high):
    """Return "grey" or "HU", which a volume with values from `low` to `high` holds; raise ValueError for neither."""
    if low >= 0 and high <= 255:
        return "grey"
    if low <= -200 and high <= 32767:  # air is -1000 HU, and every chest CT shows some
        return "HU"
    raise ValueError(
        f"intensities from {low:g} to {high:g} are neither Hounsfield units (with air near -1000) "
        "nor grey levels 0..255: convert the volume to HU"
    )


def misfit(header, other, what="mask"):
    """Say how two NIfTI headers, of an image and its mask, do not fit; an empty text if they do."""
    if header.get_data_shape() != other.get_data_shape():
        return f"the image is {header.get_data_shape()} and its {what} {other.get_data_shape()}: expected one shape"
    apart = np.abs(header.get_best_affine() - other.get_best_affine()).max()
    if apart > AFFINE_TOLERANCE_MM:
        return f"image and {what} lie in different places (affines differ by {apart:.3g}): resample the mask first"
    return ""


def problem(array, what):
    """Say what is wrong with the values of an "image", "mask" or "lung mask"; an empty text if nothing is."""
    if what == "image" and array.dtype == np.uint8 and np.ptp(array[..., array.shape[2] // 2]):
        return ""  # bytes are 0..255, and these are not blank
    low, high = 0 if what != "image" and array.dtype.kind == "u" else array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        return "holds NaN or infinite values: expected numbers; convert the series again"
    if what == "image":
        if low == high:
            return f"every voxel is {low:g}: expected a CT volume"
        try:
            intensities(low, high)
        except ValueError as error:
            return str(error)
    elif low < 0 or high > HIGHEST_LABEL or (array.dtype.kind == "f" and (array != np.rint(array)).any()):
        return f"holds {_some(np.unique(array))}: expected whole labels from 0 to {HIGHEST_LABEL}"
    return ""


def _some(values):
    shown = ", ".join(f"{value:g}" for value in values[:6])
    return f"{len(values)} values ({shown}, ...)" if len(values) > 6 else f"the values {shown}"
