"""CT volumes as arrays: read upright, checked, and brought to grey levels."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from covseg_lib.data import nifti
from covseg_lib.data.cases import Case
from covseg_lib.settings import LUNG_WINDOW_HU

AFFINE_TOLERANCE_MM = 0.01
HIGHEST_LABEL = 3  # MedSeg labels ground glass, consolidation and effusion 1, 2 and 3


@dataclass(frozen=True)
class Pair:
    """A CT volume and its masks, all upright.

    image : (S, H, W) array of grey levels or HU
    mask : (S, H, W) uint8 array, 1 on lesions
    header : the scan's NIfTI header, which places the voxels in space
    lungs : (S, H, W) uint8 array, not 0 in the lungs, or None
    """

    image: np.ndarray
    mask: np.ndarray
    header: nib.Nifti1Header
    lungs: np.ndarray | None = None


def read_pair(case: Case, step: int = 1, window_hu: tuple[float, float] = LUNG_WINDOW_HU) -> Pair:
    """Read a case's CT volume as grey levels, and its masks, every `step`-th row and column.

    Raises
    ------
    ValueError
        One message with all problems: files that are not readable 3D NIfTI volumes, NaN, a blank
        image, intensities that are neither HU nor 0..255, masks with values other than the labels
        0 to `HIGHEST_LABEL`, masks with another shape or position than the image.
    """
    masks = {"mask": case.mask} | ({"lung mask": case.lungs} if case.lungs else {})
    with ThreadPoolExecutor(1) as second_thread:
        reading = second_thread.submit(
            lambda: [_attempt(what, read_mask, path, what, step) for what, path in masks.items()]
        )
        image, header, problem = _attempt("image", read_grey, case.image, step, window_hu)
        found = reading.result()
    problems = [problem, *(problem for _, _, problem in found)]
    for what, (_, mask_header, _) in zip(masks, found, strict=True):
        if header and mask_header:
            problems.append(geometry_mismatch(header, mask_header, what))
    if any(problems):
        raise ValueError("; ".join(filter(None, problems)))
    mask, *lungs = (array for array, _, _ in found)
    return Pair(image, mask, header, *lungs)


def _attempt(what, read, path, *arguments):
    """Return array, header and "" from a reader, or None, the header if readable, and the error."""
    try:
        return *read(path, *arguments), ""
    except ValueError as error:
        problem = f"{what}: {error}"
    try:
        return None, nifti.read_header(path), problem
    except ValueError:
        return None, None, problem


def read_volume(path: Path, step: int = 1) -> tuple[np.ndarray, nib.Nifti1Header]:
    """Read a NIfTI volume upright, with the file's own values: (S, H, W) array, and its header.

    `step` keeps every `step`-th row and column, as the report's Listing 2.1. Raises ValueError for
    a file that is not a readable 3D NIfTI volume.
    """
    header, voxels = nifti.open_volume(path)
    return nifti.to_upright(np.asanyarray(voxels), header, step), header


def read_grey(
    path: Path, step: int = 1, window_hu: tuple[float, float] = LUNG_WINDOW_HU
) -> tuple[np.ndarray, nib.Nifti1Header]:
    """Read a CT volume upright as grey levels.

    Planes are converted one at a time, so memory holds the unpacked file and one byte a voxel.

    Returns
    -------
    (S, H, W) uint8 array of every `step`-th row and column; the scan's header

    Raises
    ------
    ValueError
        Not a readable 3D NIfTI volume, or not a CT volume: blank, NaN, neither HU nor 0..255.
    """
    header, voxels = nifti.open_volume(path)
    ends = []
    for plane in _planes(voxels):
        ends.append((plane.min(), plane.max()))
        if plane.dtype == np.uint8 and np.ptp(ends):
            break  # bytes are 0..255, and these are not blank
    low, high = np.min(ends), np.max(ends)
    problem = value_problem(np.array([[[low, high]]]), "image")
    if problem:
        raise ValueError(f"{Path(path).name}: {problem}")
    unit = intensity_unit(low, high)
    return _convert(voxels, header, step, lambda plane: _grey(plane, window_hu, unit)), header


def read_mask(path: Path, what: str = "mask", step: int = 1) -> tuple[np.ndarray, nib.Nifti1Header]:
    """Read a mask upright, every `step`-th row and column: (S, H, W) uint8 in {0, 1}, and header.

    `what` names the mask in errors. Raises ValueError for a file that is not a readable 3D NIfTI
    volume, and for values other than whole labels from 0 to `HIGHEST_LABEL`.
    """
    header, voxels = nifti.open_volume(path)
    for plane in _planes(voxels):
        problem = value_problem(plane[..., None], what)
        if problem:
            raise ValueError(f"{what} {Path(path).name}: {problem}")
    return _convert(voxels, header, step, lambda plane: plane > 0), header


def read_lung_mask(path: Path, like: nib.Nifti1Header, step: int = 1) -> np.ndarray:
    """Read a scan's lung mask upright, every `step`-th row and column: (S, H, W) bool.

    Raises ValueError if it is empty, or does not fit the scan with the header `like`.
    """
    lungs, header = read_mask(path, "lung mask", step)
    problem = geometry_mismatch(like, header, "lung mask")
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
    rows, columns, planes = nifti.kept_voxels(header, step)
    numbers = range(voxels.shape[2])[planes]
    shape = (*np.empty(voxels.shape[:2], bool)[rows, columns].shape, len(numbers))
    converted = np.empty(shape, np.uint8, order="F")
    for place, number in enumerate(numbers):
        converted[..., place] = function(np.asanyarray(voxels[..., number])[rows, columns])
    return np.ascontiguousarray(nifti.to_upright(converted, header))


def to_grey(image: np.ndarray, window_hu: tuple[float, float] = LUNG_WINDOW_HU) -> np.ndarray:
    """Convert a CT volume to grey levels: uint8 in 0..255, any shape.

    Hounsfield units are clipped to `window_hu` (low, high) and scaled to 0..255. A volume whose
    values are in 0..255 has been windowed before and stays as it is. Raises ValueError for others.

    Examples
    --------
    >>> to_grey(np.array([-2000, -1250, -500, 250, 3000]))
    array([  0,   0, 128, 255, 255], dtype=uint8)
    >>> to_grey(np.array([0, 128, 255]))
    array([  0, 128, 255], dtype=uint8)
    """
    return _grey(image, window_hu, intensity_unit(np.min(image), np.max(image)))


def _grey(image, window_hu, unit):
    """Convert a part of a volume whose values have a known unit, "grey" or "HU"."""
    if unit == "grey":
        return image if image.dtype == np.uint8 else np.round(image).astype(np.uint8)
    low, high = window_hu
    clipped = np.clip(image, low, high).astype(np.float32)
    scaled = (clipped - low) * np.float32(255 / (high - low))
    return np.round(scaled).astype(np.uint8)


def intensity_unit(low: float, high: float) -> str:
    """Return the unit of a volume with values from `low` to `high`: "grey" (0..255) or "HU".

    Raises ValueError if it is neither.
    """
    if low >= 0 and high <= 255:
        return "grey"
    if low <= -200 and high <= 32767:  # air is -1000 HU, and every chest CT shows some
        return "HU"
    raise ValueError(
        f"intensities from {low:g} to {high:g} are neither Hounsfield units (with air near -1000) "
        "nor grey levels 0..255: convert the volume to HU"
    )


def geometry_mismatch(header: nib.Nifti1Header, other: nib.Nifti1Header, what: str = "mask") -> str:
    """Describe how an image and its mask differ in shape or position; "" if they do not."""
    shape, other_shape = header.get_data_shape(), other.get_data_shape()
    if shape != other_shape:
        return f"the image is {shape} and its {what} {other_shape}: expected one shape"
    apart = np.abs(header.get_best_affine() - other.get_best_affine()).max()
    if apart > AFFINE_TOLERANCE_MM:
        return (
            f"image and {what} lie in different places (affines differ by {apart:.3g}): "
            "resample the mask first"
        )
    return ""


def value_problem(array: np.ndarray, what: str) -> str:
    """Describe wrong values of an "image", "mask" or "lung mask"; "" if there are none."""
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        return "holds NaN or infinite values: expected numbers; convert the series again"
    if what == "image":
        if low == high:
            return f"every voxel is {low:g}: expected a CT volume"
        try:
            intensity_unit(low, high)
        except ValueError as error:
            return str(error)
    elif low < 0 or high > HIGHEST_LABEL or (array.dtype.kind == "f" and (array % 1).any()):
        return f"holds {_some(np.unique(array))}: expected whole labels from 0 to {HIGHEST_LABEL}"
    return ""


def _some(values):
    shown = ", ".join(f"{value:g}" for value in values[:6])
    return f"{len(values)} values ({shown}, ...)" if len(values) > 6 else f"the values {shown}"
