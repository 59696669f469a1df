"""NIfTI files: one way to read them, and one way to write masks."""

import contextlib
import gzip
import io
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.arrayproxy import ArrayProxy

from covseg_lib import files
from covseg_lib.images import geometry, headers

ENDINGS = (".nii", ".nii.gz")
HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348


def list_files(folder: Path) -> list[Path]:
    """Return the NIfTI files of a folder by name, without hidden files (macOS adds some)."""
    paths = sorted(folder.iterdir())
    return [path for path in paths if is_nifti_name(path.name) and path.name[0] != "."]


def no_files(folder: Path) -> str:
    """Describe that a folder has no NIfTI file; for pairs and DICOM, with what converts them."""
    found = f"no .nii or .nii.gz file in {folder}"
    if halves := sorted(folder.glob("*.img")):
        return f"{found}, but {headers.half_of_a_pair(halves[0])}"
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


def misnamed(path: Path) -> list[str]:
    """Return a warning if a file is compressed and its name says it is not, or the reverse."""
    with Path(path).open("rb") as file:
        zipped = _is_gzip(file.peek(2))
    if zipped == path.name.lower().endswith(".gz"):
        return []
    return [
        f"{path.name} is {'' if zipped else 'not '}compressed, though its name says otherwise: "
        "covseg reads it, other programs may not; rename it"
    ]


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
    array = geometry.to_file_order(array, like)
    shape = like.get_data_shape()[:3]
    if array.shape != shape:
        raise ValueError(
            f"a mask of {array.shape} does not fit a scan of {shape}: expected its size"
        )
    header = like.copy()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(array.shape)
    header["descrip"] = f"covseg, not a medical device: {description}".encode()[:79]
    header["aux_file"] = b""
    header["cal_min"] = header["cal_max"] = 0  # the display window of the scan
    kind = nib.Nifti2Image if isinstance(like, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(array, None, header)
    image.header.set_slope_inter(slope, 0)
    data = image.to_bytes()  # nib.save would write another name if the ending has capitals
    if Path(path).name.lower().endswith(".gz"):
        data = gzip.compress(data, 1, mtime=0)
    files.write_bytes(path, data)
