"""Headers of NIfTI files: read, and checked for what cannot be right."""

import contextlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.spatialimages import HeaderDataError

FARTHEST_OFFSET = 2**40  # bytes


def parse_header(data: bytes, check: bool = True) -> nib.Nifti1Header | None:
    """Return the NIfTI-1 or NIfTI-2 header that `data` starts with, or None.

    Without `check`, what is wrong in it is not corrected.
    """
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        if kind.may_contain_header(data):
            with LoggingOutputSuppressor():  # nibabel prints what it corrects
                return kind(data[: kind.template_dtype.itemsize], check=check)
    return None


def checked_header(path: Path, data: bytes) -> nib.Nifti1Header:
    """Return the header that `data` starts with; ValueError if it is not of a 3D volume.

    Axes of length one after the third are dropped.
    """
    try:
        header, stored = parse_header(data), parse_header(data, check=False)
    except (HeaderDataError, OverflowError) as error:  # e.g. an unknown type of numbers
        raise _wrong(path, error) from error
    if header is None or stored is None or _is_half_of_a_pair(path, header, data):
        raise _other_format(path, header, data)
    if not 0 <= stored["vox_offset"] < FARTHEST_OFFSET:
        raise _wrong(path, f"vox_offset is {stored['vox_offset']:g}")
    if header["vox_offset"] < header.single_vox_offset:  # voxels cannot begin inside the header
        header["vox_offset"] = header.single_vox_offset
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    if len(shape) > 3 and set(shape[3:]) == {1}:
        header.set_data_shape(shape[:3])
    elif len(shape) != 3 or 0 in shape:
        raise ValueError(f"{path.name} holds an array of shape {shape}: expected a 3D volume")
    if dtype.kind not in "iuf":
        raise ValueError(f"{path.name} holds voxels of {dtype}: expected one number a voxel")
    if stored["bitpix"] not in (0, 8 * dtype.itemsize):
        raise _wrong(path, f"{dtype} numbers of {stored['bitpix']} bits")
    if header["scl_slope"] == 1 and not np.isfinite(header["scl_inter"]):
        header["scl_inter"] = 0
    try:
        affine, _ = header.get_best_affine(), header.get_slope_inter()
        header.get_qform(coded=True)  # other programs take it, even beside an sform
    except (ValueError, HeaderDataError) as error:  # e.g. a wrong quaternion
        raise _wrong(path, error) from error
    pixdim = stored["pixdim"][1:4]  # nibabel would correct it in silence
    if (pixdim < 0).any() or not (header["sform_code"] or (pixdim > 0).all()):
        spacing = " x ".join(f"{mm:g}" for mm in pixdim)
        raise ValueError(
            f"{path.name} has a spacing of {spacing} mm: expected three numbers above 0, because "
            "the volume in ml follows from them; write the right ones into the header (pixdim)"
        )
    if not abs(np.linalg.det(affine)) > 0:
        raise ValueError(f"{path.name} has an affine that is flat or NaN: convert the series again")
    return header


def _other_format(path, header, data):
    """Return the error for a file that is not a NIfTI file, or only the half of one."""
    if header is None and is_dicom(path):
        return ValueError(
            f"{path.name} is a DICOM file: convert its series with dcm2niix, "
            f"dcm2niix -z y -f %i_%s -o OUT {path.parent}"
        )
    if _is_half_of_a_pair(path, header, data):
        return ValueError(half_of_a_pair(path))
    return ValueError(
        f"{path.name} is not a NIfTI file: expected .nii or .nii.gz, convert the series to it"
    )


def half_of_a_pair(path: Path) -> str:
    """Describe that a file is one half of a pair, with the line of Python that converts it."""
    text = (
        f"{path.name} is one half of a pair of files, .hdr and .img (NIfTI or Analyze): make one "
        f'file of them in Python, nib.save(nib.load("{path.stem}.img"), "{path.stem}.nii.gz")'
    )
    if path.with_suffix(".img").exists():
        return text
    return f"{text}; {path.stem}.img is not here, so find it or export the scan again as .nii"


def is_dicom(path: Path) -> bool:
    """Return whether a file is of the DICOM format, by its content."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
    return False


def _wrong(path, what):
    return ValueError(f"{path.name} has a wrong NIfTI header ({what}): convert the series again")


def _is_half_of_a_pair(path, header, data):
    """Return whether a file is the header, or the voxels, of a NIfTI or Analyze pair."""
    if path.suffix.lower() in (".hdr", ".img"):
        return True
    if header is None:
        return nib.AnalyzeHeader.may_contain_header(data)
    return header["magic"].item()[:2] == b"ni"
