"""Where voxels lie: axes that become upright, spacings, positions, and what cannot be right."""

import itertools

import nibabel as nib
import numpy as np

UNIT_MM = {1: 1000, 3: 0.001}  # NIfTI codes of metre and micron; 2 is mm, and no unit means mm
STATED = b"covseg: axes "  # in memory only, in a header's aux_file
UPRIGHT = nib.orientations.axcodes2ornt("SPL")  # feet to head, front to back, right to left
LONGEST_SIDE = 4  # times the shorter side of a slice
SPACING_MM = (0.05, 50)
POSITION_TOLERANCE = 0.1  # of a voxel


def state_orientation(header: nib.Nifti1Header, orientation: str) -> None:
    """Say where the axes of a file point, because its affine is wrong or says nothing.

    With "LPS" the first axis of the array points to the patient's left, the second to the back
    (posterior), the third to the head (superior). "" leaves what the affine says. What is written
    in the space of the scan keeps the scan's own affine, so that it lies over the scan everywhere.
    """
    if orientation:
        header["aux_file"] = STATED + orientation.encode()


def stated_orientation(header: nib.Nifti1Header) -> str:
    """Return what `state_orientation` stated, or ""."""
    text = header["aux_file"].item()
    return text.removeprefix(STATED).decode() if text.startswith(STATED) else ""


def _file_axes(header):
    """Return nibabel's orientation of the file's axes."""
    stated = stated_orientation(header)
    if stated:
        return nib.orientations.axcodes2ornt(stated)
    return nib.io_orientation(header.get_best_affine())


def unit_mm(header: nib.Nifti1Header) -> float:
    """Return the length in mm of the unit in which the header's affine is given."""
    return UNIT_MM.get(int(header["xyzt_units"]) % 8, 1)


def to_upright(array: np.ndarray, header: nib.Nifti1Header, step: int = 1) -> np.ndarray:
    """Turn an array of the file's axes upright: (S, H, W), feet to head and front on top.

    `step` keeps every `step`-th row and column, counted in the file's own order. With `step` 1 the
    result is a view.
    """
    turned = nib.apply_orientation(array[kept_voxels(header, step)], _to_upright(header))
    return turned if step == 1 else np.ascontiguousarray(turned)


def kept_voxels(header: nib.Nifti1Header, step: int) -> tuple[slice, slice, slice]:
    """Return an index of the file's array: every `step`-th row and column of every slice."""
    upright_axis = _to_upright(header)[:, 0]
    every, all_of = slice(None, None, step), slice(None)
    first, second, third = (all_of if axis == 0 else every for axis in upright_axis)
    return first, second, third


def to_file_order(array: np.ndarray, header: nib.Nifti1Header) -> np.ndarray:
    """Turn an upright (S, H, W) array back to the axes of the file with this header."""
    turn = nib.orientations.ornt_transform(UPRIGHT, _file_axes(header))
    return nib.apply_orientation(array, turn)


def upright_shape(header: nib.Nifti1Header) -> tuple[int, ...]:
    """Return (S, H, W), the shape of the upright volume."""
    return tuple(header.get_data_shape()[axis] for axis in np.argsort(_to_upright(header)[:, 0]))


def upright_affine(header: nib.Nifti1Header) -> np.ndarray:
    """Return the affine of the upright volume, axes in the order of the file's affine: (4, 4), mm.

    Two files show the same place if their upright shapes and affines are equal, in whichever order
    they store their voxels.
    """
    shape = header.get_data_shape()
    turn = nib.orientations.inv_ornt_aff(_to_upright(header), shape)
    return np.diag([*[unit_mm(header)] * 3, 1]) @ header.get_best_affine() @ turn


def spacing_mm(header: nib.Nifti1Header) -> tuple[float, ...]:
    """Return the distance in mm between slices, rows and columns of the upright volume.

    Rounded to six digits, because headers hold float32.
    """
    mm = nib.affines.voxel_sizes(header.get_best_affine()) * unit_mm(header)
    return tuple(float(f"{mm[axis]:.6g}") for axis in np.argsort(_to_upright(header)[:, 0]))


def flipped_axes(header: nib.Nifti1Header) -> tuple[bool, ...]:
    """Return whether the upright volume's rows, and its columns, run against the file's order."""
    turn = _to_upright(header)
    return tuple(bool(turn[list(turn[:, 0]).index(axis), 1] < 0) for axis in (1, 2))


def _to_upright(header):
    return nib.orientations.ornt_transform(_file_axes(header), UPRIGHT).astype(int)


def voxel_ml(header: nib.Nifti1Header) -> float:
    """Return the volume of a voxel in ml."""
    mm3 = abs(np.linalg.det(header.get_best_affine()[:3, :3])) * unit_mm(header) ** 3
    return float(mm3 / 1000)


def implausible(header: nib.Nifti1Header) -> str:
    """Describe what cannot be true of a CT of the chest in its shape or spacing; "" if all can."""
    slices, rows, columns = upright_shape(header)
    if max(rows, columns) > LONGEST_SIDE * min(rows, columns):
        return (
            f"by its header it has {slices} slices of {rows} x {columns} pixels: expected slices "
            "that are about square. The axes of the array are probably in another order than the "
            'affine says. If slices come first, ORIENTATION = "SPL" says so (covseg predict '
            "--orientation SPL); check the spacing, too"
        )
    spacing = spacing_mm(header)
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
    apart *= unit_mm(header)
    if apart <= min(spacing_mm(header)) * POSITION_TOLERANCE:
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
    shape, other_shape = upright_shape(header), upright_shape(other)
    if shape != other_shape:
        shape, other_shape = header.get_data_shape(), other.get_data_shape()
        return f"the {of} is {shape} and its {what} {other_shape}: expected one shape"
    apart = _apart(shape, *(upright_affine(one) for one in (header, other)))
    if apart > min(spacing_mm(header)) * POSITION_TOLERANCE:
        voxel = " x ".join(f"{mm:.3g}" for mm in spacing_mm(header))
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
