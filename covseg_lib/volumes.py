"""CT volumes on disk: read a NIfTI pair upright, bring it to grey levels, write a mask in the scan's own space."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib

from covseg_lib import checks, storage
from covseg_lib.study import LUNG_WINDOW_HU

UPRIGHT = nib.orientations.axcodes2ornt("SPL")  # slices feet to head, rows front to back, columns right to left


@dataclass(frozen=True)
class Pair:
    """A CT volume and its lesion mask, both upright, and where there is one its lung mask.

    image : (S, H, W) array in the file's own dtype, HU or grey levels
    mask : (S, H, W) array of uint8, 1 on lesions
    header : the scan's NIfTI header, which says where in space the voxels lie
    lungs : (S, H, W) array of uint8, 1 in the lungs, or None
    """

    image: np.ndarray
    mask: np.ndarray
    header: nib.Nifti1Header
    lungs: np.ndarray | None = None


def read_pair(case, step=1):
    """Read a case's CT volume and lesion mask, upright, every `step`-th pixel of each slice.

    Everything that is wrong is said in one ValueError: files that are no whole 3D NIfTI volumes, NaN and infinite
    values, a blank image, intensities that are neither HU nor 0..255, masks that hold anything but whole labels of 0
    to `checks.HIGHEST_LABEL`, and masks (a lung mask too, where there is one) of another shape or place than the image.
    """
    files = [("mask", case.mask), *([("lung mask", case.lungs)] if case.lungs else [])]
    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(lambda: [_read_checked(what, path, step) for what, path in files])
        image, header, *wrong = _read_checked("image", case.image, step)
        masks = reading.result()
    for (what, _), (_, other, said) in zip(files, masks, strict=True):
        wrong += [said, checks.misfit(header, other, what) if header and other else ""]
    if any(wrong):
        raise ValueError("; ".join(filter(None, wrong)))
    mask, *lungs = ((array > 0).view(np.uint8) for array, _, _ in masks)
    return Pair(image, mask, header, *lungs)


def read_volume(path, step=1):
    """Read a NIfTI volume upright: (S, H, W) array, feet to head, front of the body on top, and its header.

    `step` keeps every step-th pixel of each slice, counted in the file's own order (report, Listing 2.1). A
    trailing axis of one is dropped. Raises ValueError for what is not a readable 3D NIfTI file.
    """
    header, array = _load(Path(path))
    return _upright(array, header, step), header


def _read_checked(what, path, step):
    """Return a volume as `read_volume` does, its header, and what is wrong with it ("" if nothing is)."""
    try:
        header, array = _load(path)
    except ValueError as error:
        return None, None, f"{what}: {error}"
    said = checks.problem(array, what)
    return _upright(array, header, step), header, said and f"{what} {path.name}: {said}"


def parse_header(data):
    """Return the NIfTI-1 or NIfTI-2 header that bytes begin with, None where they do not."""
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if kind.may_contain_header(data):
            return kind(data[: kind.template_dtype.itemsize])
    return None


def _load(path):
    """Return header and 3D array of a NIfTI file; a compressed one is unpacked by ISA-L, in a third of zlib's time."""
    try:
        packed = path.suffix == ".gz"
        data = _unpack(path.read_bytes()) if packed else np.memmap(path, np.uint8, "r")
    except EOFError as error:
        raise ValueError(f"{path.name} is cut off ({error}): download or copy it again") from error
    except (OSError, ValueError, isal_zlib.error) as error:
        raise ValueError(f"{path.name} cannot be read ({error}): download or copy it again") from error
    header = parse_header(bytes(data[:540]))
    if header is None:
        raise ValueError(f"{path.name} is not a NIfTI file: expected .nii or .nii.gz, convert the series to it")
    shape = header.get_data_shape()
    if len(shape) == 4 and shape[3] == 1:
        header.set_data_shape(shape[:3])
    elif len(shape) != 3 or 0 in shape:
        raise ValueError(f"{path.name} holds an array of shape {shape}: expected a 3D volume")
    try:
        array = np.ndarray(shape[:3], header.get_data_dtype(), data, header.get_data_offset(), order="F")
    except TypeError as error:
        raise ValueError(f"{path.name} is cut off: {shape} voxels do not fit in it; copy it again") from error
    slope, inter = header.get_slope_inter()
    return header, array if slope in (None, 1) and not inter else array * np.float32(slope) + np.float32(inter)


def _unpack(data):
    """Gunzip; in one piece where the last four bytes tell the size, as they do of a file of one part below 4 GB."""
    size = int.from_bytes(data[-4:], "little")
    if size < 1100 * len(data):  # gzip packs no tighter
        whole = isal_zlib.decompress(data, wbits=31, bufsize=size)
        if len(whole) == size:
            return whole
    return igzip.decompress(data)


def to_grey(image, window_hu=LUNG_WINDOW_HU):
    """Bring a CT volume to grey levels: uint8 in 0..255, any shape.

    Hounsfield units are cut to `window_hu` (low, high) and stretched to 0..255; a volume that lies in 0..255 was
    windowed already and passes. Raises ValueError for what is neither.

    Examples
    --------
    >>> to_grey(np.array([-2000, -1250, -500, 250, 3000]))
    array([  0,   0, 128, 255, 255], dtype=uint8)
    >>> to_grey(np.array([0, 128, 255]))
    array([  0, 128, 255], dtype=uint8)
    """
    if checks.intensities(np.min(image), np.max(image)) == "grey":
        return np.ascontiguousarray(image) if image.dtype == np.uint8 else np.round(image).astype(np.uint8)
    low, high = window_hu
    return np.round((np.clip(image, low, high) - low) * np.float32(255 / (high - low))).astype(np.uint8)


def write_mask(path, mask, like):
    """Write an upright mask as NIfTI in the space of a scan.

    Parameters
    ----------
    path : path ending in .nii or .nii.gz
    mask : (S, H, W) array, upright and of the scan's full size
    like : nibabel header of the scan, as `read_volume` returns it
    """
    to_file = nib.orientations.ornt_transform(UPRIGHT, nib.io_orientation(like.get_best_affine()))
    array = nib.apply_orientation(np.asarray(mask), to_file).astype(np.uint8)
    if array.shape != like.get_data_shape()[:3]:
        raise ValueError(f"a mask of {array.shape} does not fit a scan of {like.get_data_shape()}: expected its size")
    header = like.copy()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(array.shape)
    header.set_slope_inter(1, 0)
    with storage.atomic(path) as temporary:
        nib.save(nib.Nifti1Image(array, None, header), temporary)


def upright_shape(header):
    """Return (S, H, W) of the volume that a NIfTI header describes: slices, rows and columns of it upright."""
    return tuple(header.get_data_shape()[axis] for axis in np.argsort(_to_upright(header)[:, 0]))


def upright_zooms(header):
    """Return the distance in mm from one slice to the next, one row and one column, of the volume upright."""
    return tuple(header.get_zooms()[axis] for axis in np.argsort(_to_upright(header)[:, 0]))


def counted_from_end(header):
    """Return whether rows, and columns, of the volume upright run against the file's order, as (bool, bool)."""
    to_upright = _to_upright(header)
    return tuple(bool(to_upright[list(to_upright[:, 0]).index(axis), 1] < 0) for axis in (1, 2))


def _upright(array, header, step):
    """Turn a file's array upright, every `step`-th pixel of each slice, as an array of its own where it is less."""
    to_upright = _to_upright(header)
    kept = tuple(slice(None) if axis == 0 else slice(None, None, step) for axis in to_upright[:, 0])
    turned = nib.apply_orientation(array[kept], to_upright)
    return turned if step == 1 else np.ascontiguousarray(turned)


def _to_upright(header):
    return nib.orientations.ornt_transform(nib.io_orientation(header.get_best_affine()), UPRIGHT).astype(int)
