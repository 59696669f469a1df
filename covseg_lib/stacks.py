"""All slices of a study as arrays on disk, larger than memory if need be: resized, then standardised."""

import mmap
import threading

import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

from covseg_lib import parallel, resizing, storage

CHUNK = 64  # slices handled at a time


def resize_all(study, cases, size, key):
    """Return all slices resized, {"grey", "masks", "lungs": (N, size, size, 1) uint8}, as memory maps.

    Their files outlive an interruption. Without "lungs" where a case has no lung mask.
    """
    names = ["grey", "masks", "lungs"] if cases["lungs"].all() else ["grey", "masks"]
    files = {name: storage.part_of(study.path("masks")).with_name(f".part-{name}.npy") for name in names}
    progress = files["grey"].with_name(".part-progress.json")
    state = storage.read_json(progress) if progress.exists() else {}
    known = state.get("key") == [key, size] and all(file.exists() for file in files.values())
    done = state.get("done", 0) if known else 0
    if done:
        arrays = {name: open_memmap(file, "r+") for name, file in files.items()}
    else:
        progress.unlink(missing_ok=True)
        shape = (int(cases["slices"].sum()), size, size, 1)
        arrays = {name: storage.create_npy(file, np.uint8, shape) for name, file in files.items()}
    ends, one_reads = cases["slices"].cumsum(), threading.Lock()  # NumPy parses headers by ast: not for two threads

    def resize_case(number):
        first = ends[number] - cases["slices"][number]
        with one_reads, storage.open_npz(study.path("sliced_case", case=cases["case"][number])) as file:
            case = {name: file[name] for name in ("images", *names[1:])}
        for row, image in enumerate(case["images"], start=first):
            arrays["grey"][row, ..., 0] = np.round(resizing.resize_image(image, (size, size)))
        for name in names[1:]:
            for row, mask in enumerate(case[name], start=first):
                arrays[name][row, ..., 0] = resizing.resize_mask(mask, (size, size))
        for array in arrays.values():
            array.flush()
            release(array)
        return number + 1

    with parallel.executor() as pool:
        for count in tqdm(pool.map(resize_case, range(done, len(cases))), desc="resizing", total=len(cases) - done):
            storage.write_json(progress, {"key": [key, size], "done": count})
    return arrays


def mean_and_std(grey):
    """Return mean and standard deviation of grey slices (N, ...) uint8.

    Exactly, from counts of the 256 grey levels, in the memory of a few slices; `grey` is a memory map.
    """
    counts = sum(np.bincount(part.ravel(), minlength=256) for _, part in chunks(grey))
    levels = np.arange(256)
    mean = float((counts * levels).sum() / counts.sum())
    return mean, float(np.sqrt((counts * (levels - mean) ** 2).sum() / counts.sum()))


def standardise_all(study, grey, mean, std):
    """Write images.npy of the grey levels of all slices."""
    with storage.atomic(study.path("images")) as temporary, parallel.executor() as pool:
        images = storage.create_npy(temporary, np.float32, grey.shape)

        def standardise_part(first):
            part = slice(first, first + CHUNK)
            images[part] = resizing.standardise(grey[part], mean, std)
            release(images), release(grey)

        list(pool.map(standardise_part, range(0, len(grey), CHUNK)))


def release(array):
    """Give the pages of a memory map back to the system (which writes them), so that memory does not grow with it."""
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        array._mmap.madvise(mmap.MADV_DONTNEED)


def chunks(array):
    """Yield a memory map part by part, as (first row, part of `CHUNK` rows); what was read is released."""
    for first in range(0, len(array), CHUNK):
        yield first, array[first : first + CHUNK]
        release(array)
