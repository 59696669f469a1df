"""CT volumes on disk: read a NIfTI pair upright, bring it to grey levels, write a mask in the scan's own space."""

import gzip
import zlib
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from covseg_lib import storage
from covseg_lib.study import LUNG_WINDOW_HU

UPRIGHT = nib.orientations.axcodes2ornt("SPL")  # slices feet to head, rows front to back, columns right to left


@dataclass(frozen=True)
class Pair:
    """A CT volume and its lesion mask, both upright.

    image : (S, H, W) array in the file's own dtype, HU or grey levels
    mask : (S, H, W) array of uint8, 1 on lesions
    header : the scan's NIfTI header, which says where in space the voxels lie
    """

    image: np.ndarray
    mask: np.ndarray
    header: nib.Nifti1Header


def read_pair(case, step=1):
    """Read a case's CT volume and lesion mask, upright, every `step`-th pixel of each slice.

    Raises
    ------
    ValueError
        A file cannot be read as a 3D NIfTI volume, or shape or position of the two differ.
    """
    image, header = read_volume(case.image, step)
    mask, mask_header = read_volume(case.mask, step)
    if image.shape != mask.shape:
        raise ValueError(
            f"{case.name}: the image is {image.shape} and its mask {mask.shape} (slices, rows, columns): "
            "expected the same; the mask belongs to another volume"
        )
    if not np.allclose(header.get_best_affine(), mask_header.get_best_affine(), atol=1e-2):
        raise ValueError(
            f"{case.name}: image and mask lie in different places by their affines; "
            "resample the mask onto the image first"
        )
    return Pair(image, (mask > 0).astype(np.uint8), header)


def read_volume(path, step=1):
    """Read a NIfTI volume upright: (S, H, W) array, feet to head, front of the body on top, and its header.

    `step` keeps every step-th pixel of each slice, counted in the file's own order (report, Listing 2.1). A
    trailing axis of one is dropped. Raises ValueError for what is not a readable 3D NIfTI file.
    """
    try:
        file = nib.load(path)
        array = np.asanyarray(file.dataobj)
    except (nib.filebasedimages.ImageFileError, gzip.BadGzipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a whole NIfTI file ({error}): download or copy it again") from error
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"{path} holds an array of shape {array.shape}: expected a 3D volume")
    to_upright = _to_upright(file.header)
    stepped = [slice(None) if axis == 0 else slice(None, None, step) for axis in to_upright[:, 0]]
    return nib.apply_orientation(array[tuple(stepped)], to_upright), file.header


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
    found = float(np.min(image)), float(np.max(image))
    if found[0] >= 0 and found[1] <= 255:
        return np.round(image).astype(np.uint8)
    if not (found[0] <= -200 and found[1] <= 32767):  # air is -1000 HU, and every chest CT shows some
        raise ValueError(
            f"intensities from {found[0]:g} to {found[1]:g} are neither Hounsfield units (with air near -1000) "
            "nor grey levels 0..255: convert the volume to HU"
        )
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


def _to_upright(header):
    return nib.orientations.ornt_transform(nib.io_orientation(header.get_best_affine()), UPRIGHT).astype(int)
