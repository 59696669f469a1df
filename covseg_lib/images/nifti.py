"""NIfTI files: one way to read them, one way to write masks, and their orientation."""

import contextlib
import io
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.arrayproxy import ArrayProxy

from covseg_lib import files
from covseg_lib.images import headers

ENDINGS = (".nii", ".nii.gz")
HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348
UNIT_MM = {1: 1000, 3: 0.001}  # NIfTI codes of metre and micron; 2 is mm, and no unit means mm
UPRIGHT = nib.orientations.axcodes2ornt("SPL")  # feet to head, front to back, right to left


def list_files(folder: Path) -> list[Path]:
    """Return the NIfTI files of a folder by name, without hidden files (macOS adds some)."""
    paths = sorted(folder.iterdir())
    return [path for path in paths if is_nifti_name(path.name) and path.name[0] != "."]


def no_files(folder: Path) -> str:
    """Describe that a folder has no NIfTI file; for DICOM, with the command that converts it."""
    found = f"no .nii or .nii.gz file in {folder}"
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    if any(headers.is_dicom(path) for path in itertools.islice(paths, 100)):
        return (
            f"{found}, but DICOM files: convert them with dcm2niix "
            f"(https://github.com/rordenlab/dcm2niix), dcm2niix -z y -f %i_%s -o OUT {folder}"
        )
    return found


def is_nifti_name(name: str) -> bool:
    """Return whether a file name ends in .nii or .nii.gz, in capitals or not."""
    return name.lower().endswith(ENDINGS)


def open_volume(path: Path) -> tuple[nib.Nifti1Header, ArrayProxy]:
    """Open a 3D NIfTI file: its header, and its voxels as nibabel's array proxy.

    A compressed file is unpacked in memory by ISA-L, which is faster than zlib. Index the proxy to
    read a part of the voxels. A fourth axis of length one is dropped.

    Raises
    ------
    ValueError
        The file is damaged, or not a NIfTI file of a 3D volume of numbers.
    """
    path = Path(path)
    with _errors_named(path), path.open("rb") as file:
        in_memory = _is_gzip(file.peek(2)) or path.suffix.lower() == ".gz"
        data = file.read(None if in_memory else HEADER_BYTES)
        while _is_gzip(data):  # some files are compressed twice
            data = _unpack(data)
        size = len(data) if in_memory else path.stat().st_size
    header = headers.checked_header(path, data)
    voxels = ArrayProxy(io.BytesIO(data) if in_memory else path, header)
    plane = int(np.prod(voxels.shape[:2])) * voxels.dtype.itemsize
    spare = size - voxels.offset - plane * voxels.shape[2]
    if spare < 0:
        raise ValueError(
            f"{path.name} is cut off: {voxels.shape} voxels do not fit in it; copy it again"
        )
    if spare >= plane:
        raise ValueError(
            f"{path.name} holds more than the {voxels.shape} voxels of its header ({spare} bytes "
            "more), so the header is probably wrong: convert the series again"
        )
    return header, voxels


def read_header(path: Path) -> nib.Nifti1Header:
    """Return the header of a 3D NIfTI file, without reading its voxels; errors as `open_volume`."""
    path = Path(path)
    with _errors_named(path), path.open("rb") as file:
        zipped = _is_gzip(file.peek(2))
    with _errors_named(path), igzip.open(path) if zipped else path.open("rb") as file:
        data = file.read(HEADER_BYTES)
    return open_volume(path)[0] if _is_gzip(data) else headers.checked_header(path, data)


def _is_gzip(data):
    """Return whether bytes are gzip's; the file's name may say otherwise."""
    return data[:2] == b"\x1f\x8b"


def _unpack(data):
    """Return all members of gzip bytes; as the program gzip does, ignore what follows them."""
    parts = []
    while _is_gzip(data):
        stream = isal_zlib.decompressobj(wbits=31)
        parts.append(stream.decompress(data))
        if not stream.eof:
            raise EOFError("the compressed data end too early")
        data = stream.unused_data.lstrip(b"\0")
    return b"".join(parts)


@contextlib.contextmanager
def _errors_named(path):
    """Turn any error while a file is read into a ValueError that names the file."""
    try:
        yield
    except EOFError as error:
        raise ValueError(f"{path.name} is cut off ({error}): download or copy it again") from error
    except (OSError, ValueError, isal_zlib.error) as error:
        raise ValueError(
            f"{path.name} cannot be read ({error}): download or copy it again"
        ) from error


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
    file_axes = nib.io_orientation(header.get_best_affine())
    return nib.apply_orientation(array, nib.orientations.ornt_transform(UPRIGHT, file_axes))


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
    file_axes = nib.io_orientation(header.get_best_affine())
    return nib.orientations.ornt_transform(file_axes, UPRIGHT).astype(int)


def voxel_ml(header: nib.Nifti1Header) -> float:
    """Return the volume of a voxel in ml."""
    mm3 = abs(np.linalg.det(header.get_best_affine()[:3, :3])) * unit_mm(header) ** 3
    return float(mm3 / 1000)


def write_mask(
    path: Path, mask: np.ndarray, like: nib.Nifti1Header, description: str = "lesion mask"
) -> None:
    """Write an upright mask as NIfTI in the space of a scan.

    The file has the scan's shape, affine, qform, sform and units, and is NIfTI-1 or NIfTI-2 as the
    scan is.

    Parameters
    ----------
    path : path ending in .nii or .nii.gz
    mask : (S, H, W) array, upright and of the scan's full size
    like : nibabel header of the scan
    description : str
        The header's `descrip` (79 bytes), after "covseg, not a medical device: ".

    Raises
    ------
    ValueError
        The mask does not have the scan's size.
    """
    _write(path, np.asarray(mask).astype(np.uint8, copy=False), like, 1, description)


def write_probabilities(
    path: Path, levels: np.ndarray, like: nib.Nifti1Header, description: str = "lesion probability"
) -> None:
    """Write upright probabilities, (S, H, W) uint8 where 255 means 1, in the space of a scan.

    They are stored as bytes with a scl_slope of 1/255, so NIfTI viewers show 0 to 1.
    """
    _write(path, levels, like, 1 / 255, description)


def _write(path, array, like, slope, description):
    array = to_file_order(array, like)
    shape = like.get_data_shape()[:3]
    if array.shape != shape:
        raise ValueError(
            f"a mask of {array.shape} does not fit a scan of {shape}: expected its size"
        )
    header = like.copy()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(array.shape)
    header["descrip"] = f"covseg, not a medical device: {description}".encode()[:79]
    header["cal_min"] = header["cal_max"] = 0  # the display window of the scan
    kind = nib.Nifti2Image if isinstance(like, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(array, None, header)
    image.header.set_slope_inter(slope, 0)
    with files.atomic(path) as temporary:
        nib.save(image, temporary)
