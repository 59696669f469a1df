"""Which way up a volume lies: from a file's own axes to slices, feet to head and front on top, and back."""

import nibabel as nib
import numpy as np

from covseg_lib import nifti

UPRIGHT = nib.orientations.axcodes2ornt("SPL")  # slices feet to head, rows front to back, columns right to left


def upright(array, header, step=1):
    """Turn a file's 3D array upright, every `step`-th pixel of each slice, counted in the file's own order.

    Returns
    -------
    (S, H, W) array: a view of the file's where `step` is 1, else one of its own, as it is less
    """
    turn = _turn(header)
    kept = tuple(slice(None) if axis == 0 else slice(None, None, step) for axis in turn[:, 0])
    turned = nib.apply_orientation(array[kept], turn)
    return turned if step == 1 else np.ascontiguousarray(turned)


def as_in_file(array, header):
    """Turn an upright (S, H, W) array back to the axes of the file that a NIfTI header is of."""
    back = nib.orientations.ornt_transform(UPRIGHT, nib.io_orientation(header.get_best_affine()))
    return nib.apply_orientation(array, back)


def shape(header):
    """Return (S, H, W) of the volume that a NIfTI header describes: slices, rows and columns of it upright."""
    return tuple(header.get_data_shape()[axis] for axis in np.argsort(_turn(header)[:, 0]))


def zooms(header):
    """Return the distance in mm from one slice to the next, one row and one column, of the volume upright.

    They are the affine's, in the header's unit, as all that is measured here; to six digits, for a header's numbers
    are float32.
    """
    mm = nib.affines.voxel_sizes(header.get_best_affine()) * nifti.unit_mm(header)
    return tuple(float(f"{mm[axis]:.6g}") for axis in np.argsort(_turn(header)[:, 0]))


def counted_from_end(header):
    """Return whether rows, and columns, of the volume upright run against the file's order, as (bool, bool)."""
    turn = _turn(header)
    return tuple(bool(turn[list(turn[:, 0]).index(axis), 1] < 0) for axis in (1, 2))


def _turn(header):
    return nib.orientations.ornt_transform(nib.io_orientation(header.get_best_affine()), UPRIGHT).astype(int)
