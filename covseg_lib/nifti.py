"""A NIfTI file's header and voxels: whole, or plane by plane in the memory of one plane."""

import contextlib

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib

ENDINGS = (".nii", ".nii.gz")
MM = {1: 1000, 3: 0.001}  # NIfTI's codes of metre and micron; 2 is mm, and what names no unit means it


def files(folder):
    """Return the NIfTI files of a folder, by name; hidden ones, as macOS adds, are none of the owner's."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(ENDINGS) and not path.name.startswith("."))


def parse_header(data):
    """Return the NIfTI-1 or NIfTI-2 header that bytes begin with, None where they do not.

    Raises nibabel's HeaderDataError where place or scale in it are no numbers.
    """
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if kind.may_contain_header(data):
            header = kind(data[: kind.template_dtype.itemsize])
            try:
                header.get_best_affine(), header.get_slope_inter()
            except ValueError as error:  # a quaternion that is none
                raise nib.spatialimages.HeaderDataError(str(error)) from error
            return header
    return None


def read_header(path):
    """Return the header of a 3D NIfTI file, a trailing axis of one dropped; ValueError for what is none."""
    with _named(path), _open(path) as file:
        data = file.read(540)
    return _header(path, data)


def load(path):
    """Return header and 3D array of a NIfTI file; a compressed one is unpacked by ISA-L, which is faster than zlib.

    Raises ValueError for what is not a readable 3D NIfTI file.
    """
    with _named(path):
        data = _unpack(path.read_bytes()) if path.suffix == ".gz" else np.memmap(path, np.uint8, "r")
    header = _header(path, bytes(data[:540]))
    shape = header.get_data_shape()
    try:
        array = np.ndarray(shape, header.get_data_dtype(), data, header.get_data_offset(), order="F")
    except TypeError as error:
        raise ValueError(f"{path.name} is cut off: {shape} voxels do not fit in it; copy it again") from error
    return header, _scaled(array, header)


def planes(path, header):
    """Yield the voxels of a 3D NIfTI file as `load` does, one plane (X, Y) of the file's last axis after the other."""
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    size = shape[0] * shape[1] * dtype.itemsize
    with _named(path), _open(path) as file:
        file.seek(header.get_data_offset())
        for _ in range(shape[2]):
            data = file.read(size)
            if len(data) < size:
                raise EOFError(f"{shape} voxels do not fit in it")
            yield _scaled(np.frombuffer(data, dtype).reshape(shape[:2], order="F"), header)
        file.read(1)  # at its end gzip checks what it unpacked


@contextlib.contextmanager
def _named(path):
    """Turn what goes wrong with a file while it is read into a ValueError that names it."""
    try:
        yield
    except EOFError as error:
        raise ValueError(f"{path.name} is cut off ({error}): download or copy it again") from error
    except (OSError, ValueError, isal_zlib.error) as error:
        raise ValueError(f"{path.name} cannot be read ({error}): download or copy it again") from error


def _open(path):
    return igzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _header(path, data):
    """Return the header that a file's first bytes hold; ValueError where it describes no 3D volume of numbers."""
    try:
        header = parse_header(data)
    except nib.spatialimages.HeaderDataError as error:
        raise ValueError(f"{path.name} has a NIfTI header that is wrong ({error}): convert the series again") from error
    if header is None:
        raise ValueError(f"{path.name} is not a NIfTI file: expected .nii or .nii.gz, convert the series to it")
    shape = header.get_data_shape()
    if len(shape) == 4 and shape[3] == 1:
        header.set_data_shape(shape[:3])
    elif len(shape) != 3 or 0 in shape:
        raise ValueError(f"{path.name} holds an array of shape {shape}: expected a 3D volume")
    if header.get_data_dtype().kind not in "iuf":
        raise ValueError(f"{path.name} holds voxels of {header.get_data_dtype()}: expected one number a voxel")
    if not abs(np.linalg.det(header.get_best_affine())) > 0:
        raise ValueError(f"{path.name} has an affine that is flat or no number: convert the series again")
    return header


def _unpack(data):
    """Gunzip; in one piece where the last four bytes tell the size, as they do of a file of one part below 4 GB."""
    size = int.from_bytes(data[-4:], "little")
    if size < 1100 * len(data):  # gzip packs no tighter
        whole = isal_zlib.decompress(data, wbits=31, bufsize=size)
        if len(whole) == size:
            return whole
    return igzip.decompress(data)


def unit_mm(header):
    """Return how many mm the unit is in which a header's affine counts."""
    return MM.get(int(header["xyzt_units"]) % 8, 1)


def _scaled(array, header):
    slope, inter = header.get_slope_inter()
    return array if slope in (None, 1) and not inter else array * np.float32(slope) + np.float32(inter)
