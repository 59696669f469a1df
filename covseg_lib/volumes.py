"""CT volumes on disk: read a NIfTI pair upright, bring it to grey levels, write a mask in the scan's own space."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from covseg_lib import checks, nifti, orientation, storage
from covseg_lib.study import LUNG_WINDOW_HU


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
    header, array = nifti.load(Path(path))
    return orientation.upright(array, header, step), header


def _read_checked(what, path, step):
    """Return a volume as `read_volume` does, its header, and what is wrong with it ("" if nothing is)."""
    try:
        header, array = nifti.load(path)
    except ValueError as error:
        return None, None, f"{what}: {error}"
    said = checks.problem(array, what)
    return orientation.upright(array, header, step), header, said and f"{what} {path.name}: {said}"


def read_grey(path, step=1, window_hu=LUNG_WINDOW_HU):
    """Read a CT volume upright as grey levels: `to_grey` of what `read_volume` reads, in less memory.

    Read plane by plane (twice, where it does not hold bytes) it needs a byte a voxel, whatever numbers the file holds.

    Returns
    -------
    (S, H, W) uint8 array of every `step`-th pixel of each slice; the scan's header

    Raises
    ------
    ValueError
        The file is no readable 3D NIfTI volume, or no CT volume: blank, NaN, neither HU nor 0..255.
    """
    path = Path(path)
    header = nifti.read_header(path)
    ends = []
    for plane in nifti.planes(path, header):
        ends.append((plane.min(), plane.max()))
        if plane.dtype == np.uint8 and np.ptp(ends):
            break  # bytes are 0..255, and these are not blank
    low, high = np.min(ends), np.max(ends)
    said = checks.problem(np.array([[[low, high]]]), "image")
    if said:
        raise ValueError(f"{path.name}: {said}")
    grey = np.empty(header.get_data_shape(), np.uint8, order="F")
    for number, plane in enumerate(nifti.planes(path, header)):
        grey[..., number] = _grey(plane, window_hu, checks.intensities(low, high))
    return orientation.upright(grey, header, step), header


def read_lungs(path, like):
    """Read a scan's lung mask upright: (S, H, W) bool, True in the lungs.

    Raises ValueError where it does not lie where the scan with the header `like` does, or is no mask of lungs.
    """
    header = nifti.read_header(path)
    said = checks.misfit(like, header, "lung mask")
    lungs = np.zeros(header.get_data_shape(), bool, order="F")
    for number, plane in enumerate(nifti.planes(path, header)):
        said = said or checks.problem(plane[..., None], "lung mask")
        if said:
            raise ValueError(f"lung mask {path.name}: {said}")
        lungs[..., number] = plane > 0
    if not lungs.any():
        raise ValueError(f"lung mask {path.name} is empty: expected labels above 0 in the lungs")
    return orientation.upright(lungs, header)


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
    return _grey(image, window_hu, checks.intensities(np.min(image), np.max(image)))


def _grey(image, window_hu, kind):
    """Bring a volume, or a plane of one, to grey levels; `kind` says what the whole volume holds, "grey" or "HU"."""
    if kind == "grey":
        return np.ascontiguousarray(image) if image.dtype == np.uint8 else np.round(image).astype(np.uint8)
    low, high = window_hu
    return np.round((np.clip(image, low, high) - low) * np.float32(255 / (high - low))).astype(np.uint8)


def write_mask(path, mask, like, description="lesion mask"):
    """Write an upright mask as NIfTI in the space of a scan.

    The file has the scan's shape, affine, qform, sform and units, and is NIfTI-1 or NIfTI-2 as the scan is.

    Parameters
    ----------
    path : path ending in .nii or .nii.gz
    mask : (S, H, W) array, upright and of the scan's full size
    like : nibabel header of the scan, as `read_volume` returns it
    description : str
        What the header's `descrip` (79 bytes) says after "covseg, not a medical device: ".
    """
    _write(path, np.asarray(mask).astype(np.uint8, copy=False), like, 1, description)


def write_probabilities(path, levels, like, description="lesion probability"):
    """Write upright probabilities, (S, H, W) uint8 of which 255 stands for 1, as NIfTI in the space of a scan.

    Stored a byte a voxel with a scl_slope of 1/255: what reads NIfTI shows 0 to 1.
    """
    _write(path, levels, like, 1 / 255, description)


def _write(path, array, like, slope, description):
    array = orientation.as_in_file(array, like)
    if array.shape != like.get_data_shape()[:3]:
        raise ValueError(f"a mask of {array.shape} does not fit a scan of {like.get_data_shape()}: expected its size")
    header = like.copy()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(array.shape)
    header["descrip"] = f"covseg, not a medical device: {description}".encode()[:79]
    header["cal_min"] = header["cal_max"] = 0  # the window in which the scan is shown
    kind = nib.Nifti2Image if isinstance(like, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(array, None, header)
    image.header.set_slope_inter(slope, 0)
    with storage.atomic(path) as temporary:
        nib.save(image, temporary)
