"""Where a volume lies: shapes and spacings that cannot be right, and masks in other places."""

import itertools

import nibabel as nib
import numpy as np

from covseg_lib.images import nifti

LONGEST_SIDE = 4  # times the shorter side of a slice
SPACING_MM = (0.05, 50)
POSITION_TOLERANCE = 0.1  # of a voxel


def implausible(header: nib.Nifti1Header) -> str:
    """Describe what cannot be true of a CT of the chest in its shape or spacing; "" if all can."""
    slices, rows, columns = nifti.upright_shape(header)
    if max(rows, columns) > LONGEST_SIDE * min(rows, columns):
        return (
            f"by its header it has {slices} slices of {rows} x {columns} pixels: expected slices "
            "that are about square. The axes of the array are probably in another order than the "
            "affine says, for example slices first: turn the array, or write the right affine"
        )
    spacing = nifti.spacing_mm(header)
    if not all(SPACING_MM[0] <= mm <= SPACING_MM[1] for mm in spacing):
        return (
            f"its voxels are {' x '.join(f'{mm:g}' for mm in spacing)} mm: expected "
            f"{SPACING_MM[0]} to {SPACING_MM[1]} mm. Is the header's unit right (xyzt_units)?"
        )
    return ""


def doubts(header: nib.Nifti1Header) -> list[str]:
    """Return warnings about a header that can be read, but contradicts itself; [] for none."""
    if not (header["qform_code"] and header["sform_code"]):
        return []
    apart = _apart(header.get_data_shape(), header.get_sform(), header.get_qform())
    apart *= nifti.unit_mm(header)
    if apart <= min(nifti.spacing_mm(header)) * POSITION_TOLERANCE:
        return []
    return [
        f"its header names two places that are {apart:.3g} mm apart: the sform is taken, and other "
        "programs may take the qform"
    ]


def mismatch(
    header: nib.Nifti1Header, other: nib.Nifti1Header, what: str = "mask", of: str = "image"
) -> str:
    """Describe how an image and its mask differ in shape or position; "" if they do not.

    `what` and `of` name the two in the message.

    The order in which a file stores its voxels does not matter. Voxels may lie apart by less than
    a tenth of a voxel, as programs round affines.
    """
    shape, other_shape = nifti.upright_shape(header), nifti.upright_shape(other)
    if shape != other_shape:
        shape, other_shape = header.get_data_shape(), other.get_data_shape()
        return f"the {of} is {shape} and its {what} {other_shape}: expected one shape"
    apart = _apart(shape, *(nifti.upright_affine(one) for one in (header, other)))
    if apart > min(nifti.spacing_mm(header)) * POSITION_TOLERANCE:
        voxel = " x ".join(f"{mm:.3g}" for mm in nifti.spacing_mm(header))
        return (
            f"{of} and {what} lie in different places ({apart:.3g} mm apart, voxels of {voxel} "
            f"mm): resample the {what} first"
        )
    return ""


def _apart(shape, affine, other):
    """Return the largest distance between a voxel's places by two affines."""
    corners = np.array(list(itertools.product(*([0, size - 1] for size in shape))))
    places = [nib.affines.apply_affine(one, corners) for one in (affine, other)]
    return np.linalg.norm(places[0] - places[1], axis=1).max()
