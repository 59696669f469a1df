"""One case's slices in a file: Listing 2.1 of the report, put right.

sliced_data/<case>.npz holds images (S, H, W) uint8 in 0..255, masks (S, H, W) uint8 in {0, 1}, lungs alike where there
is a lung mask, the scan's NIfTI header as bytes, which is enough to write a mask back into its space, and what the
slices were made from.
"""

import hashlib
import json
import zipfile

import numpy as np

from covseg_lib import orientation, storage, volumes


def make(case, path, window_hu, step):
    """Slice one case into the file `path`; return what is wrong with the case, "" if nothing is.

    `window_hu` says what becomes 0 and 255; every `step`-th pixel is kept.
    """
    try:
        pair = volumes.read_pair(case, step)
    except ValueError as error:
        return str(error)
    images = volumes.to_grey(pair.image, window_hu)
    about = {
        "slices": len(images),
        "lesion_slices": int(pair.mask.any(axis=(1, 2)).sum()),
        "height": images.shape[1],
        "width": images.shape[2],
        "mm": orientation.zooms(pair.header),
        "image": str(case.image.absolute()),
        "mask": str(case.mask.absolute()),
        "lungs": str(case.lungs.absolute()) if case.lungs else "",
        "made_from": made_from(case.image, case.mask, case.lungs, window_hu, step),
    }
    header = np.frombuffer(pair.header.binaryblock, np.uint8)
    with storage.atomic(path) as temporary:
        arrays = {"images": images, "masks": pair.mask} | ({} if pair.lungs is None else {"lungs": pair.lungs})
        np.savez(temporary, **arrays, header=header, about=json.dumps(about))
    return ""


def about(path):
    """Return what a file says of its case, and a checksum of its pixels."""
    with storage.open_npz(path) as sliced:
        arrays = [name for name in sliced.zip.NameToInfo if name in ("images.npy", "masks.npy", "lungs.npy")]
        checksum = "-".join(f"{sliced.zip.getinfo(name).CRC:08x}" for name in arrays)
        return {"pixels": checksum} | json.loads(str(sliced["about"]))


def is_current(path, case, window_hu, step):
    """Tell whether a file holds, whole, a case sliced from the same files as they are now with the same settings."""
    if not (path.exists() and case.image.exists() and case.mask.exists()):
        return False
    try:
        before = about(path)["made_from"]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return False
    return before == made_from(case.image, case.mask, case.lungs, window_hu, step)


def made_from(image, mask, lungs, window_hu, step):
    """Return a short text that changes when the files (by size and time of change) or the settings do."""
    there = [path for path in (image, mask, lungs) if path and path.exists()]
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in there]
    return hashlib.sha256(json.dumps([files, list(window_hu), step]).encode()).hexdigest()[:16]
