"""A case's scan with its masks, read together and checked against each other."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from covseg_lib.images import geometry, nifti, volumes
from covseg_lib.settings import DEFAULT_READING, Reading


@dataclass(frozen=True)
class Case:
    """The NIfTI files of a CT volume, its lesion mask and, if there is one, its lung mask."""

    name: str
    patient: str
    image: Path
    mask: Path
    lungs: Path | None = None


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


def read_pair(case: Case, reading: Reading = DEFAULT_READING) -> Pair:
    """Read a case's CT volume as grey levels, and its masks.

    Raises
    ------
    ValueError
        One message with all problems: files that are not readable 3D NIfTI volumes, NaN, a blank
        image, intensities that are neither HU nor 0..255, masks with values other than the labels
        0 to `volumes.HIGHEST_LABEL`, masks with another shape or position than the image.
    """
    masks = {"mask": (case.mask, reading.lesion_labels)}
    if case.lungs:
        masks["lung mask"] = case.lungs, ()
    with ThreadPoolExecutor(1) as second_thread:
        in_second = second_thread.submit(
            lambda: [
                _attempt(
                    what, volumes.read_mask, path, what, reading.step, labels, reading.orientation
                )
                for what, (path, labels) in masks.items()
            ]
        )
        image, header, problem = _attempt("image", volumes.read_grey, case.image, reading)
        found = in_second.result()
    problems = [problem, *(problem for _, _, problem in found)]
    for what, (_, mask_header, _) in zip(masks, found, strict=True):
        if header and mask_header:
            problems.append(geometry.mismatch(header, mask_header, what))
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
