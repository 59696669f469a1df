"""CT volumes as arrays: read upright, checked, and brought to grey levels."""

import functools
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from covseg_lib.images import geometry, intensities, nifti
from covseg_lib.settings import DEFAULT_READING, LUNG_WINDOW_HU, Reading

LABEL_TOLERANCE = 0.001  # a label that was stored with a float slope may be 0.9999999
HIGHEST_LABEL = 3  # MedSeg labels ground glass, consolidation and effusion 1, 2 and 3


def read_volume(
    path: Path, step: int = 1, orientation: str = ""
) -> tuple[np.ndarray, nib.Nifti1Header]:
    """Read a NIfTI volume upright, with the file's own values: (S, H, W) array, and its header.

    `step` keeps every `step`-th row and column, as the report's Listing 2.1; `orientation`: see
    `geometry.state_orientation`. Raises ValueError for
    a file that is not a readable 3D NIfTI volume.
    """
    header, voxels = nifti.open_volume(path)
    geometry.state_orientation(header, orientation)
    return geometry.to_upright(np.asanyarray(voxels), header, step), header


def read_grey(
    path: Path, reading: Reading = DEFAULT_READING
) -> tuple[np.ndarray, nib.Nifti1Header]:
    """Read a CT volume upright as grey levels.

    Planes are converted one at a time, so memory holds the unpacked file and one byte a voxel.
    NaN outside of the scanner's circle, and padding below -1200 HU, become air.

    Parameters
    ----------
    path : path
    reading : Reading

    Returns
    -------
    (S, H, W) uint8 array of every `step`-th row and column; the scan's header

    Raises
    ------
    ValueError
        Not a readable 3D NIfTI volume, or not a CT volume: blank, NaN inside of the chest, neither
        HU nor 0..255.
    """
    header, voxels = nifti.open_volume(path)
    geometry.state_orientation(header, reading.orientation)
    problem = geometry.implausible(header)
    if problem:
        raise ValueError(f"{Path(path).name}: {problem}")
    every = max(min(voxels.shape[:2]) // 64, 1)
    sample, missing = [], False
    for plane in _planes(voxels):
        finite = plane
        if plane.dtype.kind == "f":
            finite = plane[np.isfinite(plane)]
            missing |= finite.size < plane.size
        sample.append(plane[::every, ::every].ravel())
        if finite.size:
            sample.append(np.array([finite.min(), finite.max()]))
    try:
        unit = intensities.intensity_unit(np.concatenate(sample), reading.intensities)
        if missing:
            _check_missing(voxels, header)
    except ValueError as error:
        raise ValueError(f"{Path(path).name}: {error}") from error
    to_levels = functools.partial(_grey, window_hu=reading.window_hu, unit=unit)
    return _convert(voxels, header, reading.step, to_levels), header


def read_first(
    paths: Sequence[Path], reading: Reading = DEFAULT_READING
) -> tuple[Path, np.ndarray, nib.Nifti1Header]:
    """Return the path of the first scan that can be read, and what `read_grey` returns of it.

    Raises the ValueError of the first scan if none can be read.
    """
    errors = []
    for path in paths:
        try:
            return path, *read_grey(path, reading)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def _check_missing(voxels, header):
    """Raise ValueError if voxels inside of the scanner's circle are NaN or infinite."""
    missing = geometry.to_upright(~np.isfinite(np.asanyarray(voxels)), header)
    if not intensities.is_outside(missing):
        raise ValueError(
            "holds NaN or infinite values inside of the chest: expected numbers; repair the file, "
            "or fill them with air, np.nan_to_num(array, nan=-1000)"
        )


def read_mask(
    path: Path,
    what: str = "mask",
    step: int = 1,
    labels: Sequence[int] = (),
    orientation: str = "",
) -> tuple[np.ndarray, nib.Nifti1Header]:
    """Read a mask upright, every `step`-th row and column: (S, H, W) uint8 in {0, 1}, and header.

    `what` names the mask in errors; `labels` are the values that become 1, by default all above 0;
    `orientation`: see `geometry.state_orientation`.
    Raises ValueError for a file that is not a readable 3D NIfTI volume, and for values other than
    whole labels: from 0 to `HIGHEST_LABEL` if `labels` are not given.
    """
    header, voxels = nifti.open_volume(path)
    geometry.state_orientation(header, orientation)
    highest = None if labels or what == "lung mask" else HIGHEST_LABEL
    for plane in _planes(voxels):
        problem = mask_problem(plane, highest)
        if problem:
            raise ValueError(f"{what} {Path(path).name}: {problem}")

    def is_lesion(plane):
        return np.isin(np.round(plane), labels) if labels else plane > 0.5

    return _convert(voxels, header, step, is_lesion), header


def read_lung_mask(path: Path, like: nib.Nifti1Header, step: int = 1) -> np.ndarray:
    """Read a scan's lung mask upright, every `step`-th row and column: (S, H, W) bool.

    Raises ValueError if it is empty, or does not fit the scan with the header `like`.
    """
    lungs, header = read_mask(path, "lung mask", step, (), geometry.stated_orientation(like))
    problem = geometry.mismatch(like, header, "lung mask")
    if not problem and not lungs.any():
        problem = "it is empty: expected labels above 0 in the lungs"
    if problem:
        raise ValueError(f"lung mask {Path(path).name}: {problem}")
    return lungs.view(bool)


def _planes(voxels):
    """Yield a file's voxels plane by plane of its last axis."""
    return (np.asanyarray(voxels[..., number]) for number in range(voxels.shape[2]))


def _convert(voxels, header, step, function):
    """Return function(plane) of every kept plane, row and column, as one upright uint8 array."""
    rows, columns, planes = geometry.kept_voxels(header, step)
    numbers = range(voxels.shape[2])[planes]
    shape = (*np.empty(voxels.shape[:2], bool)[rows, columns].shape, len(numbers))
    converted = np.empty(shape, np.uint8, order="F")
    for place, number in enumerate(numbers):
        converted[..., place] = function(np.asanyarray(voxels[..., number])[rows, columns])
    return np.ascontiguousarray(geometry.to_upright(converted, header))


def to_grey(
    image: np.ndarray, window_hu: tuple[float, float] = LUNG_WINDOW_HU, kind: str = "auto"
) -> np.ndarray:
    """Convert a CT volume to grey levels: uint8 in 0..255, any shape.

    Hounsfield units are clipped to `window_hu` (low, high) and scaled to 0..255. A volume of grey
    levels has been windowed before and stays as it is. Raises ValueError for others, see
    `intensities.intensity_unit`.

    Examples
    --------
    >>> to_grey(np.array([-1000, -500, 0, 250, 3000]))
    array([ 42, 128, 212, 255, 255], dtype=uint8)
    >>> to_grey(np.array([0, 128, 255]))
    array([  0, 128, 255], dtype=uint8)
    """
    return _grey(image, window_hu, intensities.intensity_unit(np.asarray(image), kind))


def _grey(image, window_hu, unit):
    """Convert a part of a volume whose values have a known unit, "grey" or "HU"."""
    if image.dtype.kind == "f":
        air = 0 if unit == "grey" else intensities.AIR_HU
        image = np.where(np.isfinite(image), image, air)
    if unit == "grey":
        return image if image.dtype == np.uint8 else np.round(image).astype(np.uint8)
    low, high = window_hu
    image = np.where(image < intensities.PADDING_BELOW_HU, intensities.AIR_HU, image)
    clipped = np.clip(image, low, high).astype(np.float32)
    scaled = (clipped - low) * np.float32(255 / (high - low))
    return np.round(scaled).astype(np.uint8)


def mask_problem(array: np.ndarray, highest: int | None = HIGHEST_LABEL) -> str:
    """Describe values of a mask that are no whole labels from 0 to `highest`; "" if all are."""
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        return "holds NaN or infinite values: expected whole labels"
    expected = "whole labels from 0 on" if highest is None else f"whole labels from 0 to {highest}"
    wrong = low < -LABEL_TOLERANCE or (highest is not None and high > highest + LABEL_TOLERANCE)
    if array.dtype.kind == "f":
        wrong |= np.abs(array - np.round(array)).max() > LABEL_TOLERANCE
    return f"holds {_some(np.unique(array))}: expected {expected}" if wrong else ""


def _some(values):
    shown = ", ".join(f"{value:g}" for value in values[:6])
    return f"{len(values)} values ({shown}, ...)" if len(values) > 6 else f"the values {shown}"
