"""All slices of a study as arrays on disk, larger than memory if need be: resized, then standardised."""

import numpy as np
from numpy.lib.format import open_memmap
from tqdm import tqdm

from covseg_lib import parallel, resizing, storage


def resize_all(study, cases, size, key):
    """Return grey levels and masks of all slices, as memory maps of files that outlive an interruption."""
    mask_file = storage.part_of(study.path("masks"))
    grey_file, progress = mask_file.with_name(".part-grey.npy"), mask_file.with_name(".part-progress.json")
    state = storage.read_json(progress) if progress.exists() else {}
    done = state.get("done", 0) if state.get("key") == [key, size] and mask_file.exists() else 0
    if done:
        grey, masks = open_memmap(grey_file, "r+"), open_memmap(mask_file, "r+")
    else:
        progress.unlink(missing_ok=True)
        shape = (int(cases["slices"].sum()), size, size, 1)
        grey, masks = (storage.create_npy(file, np.uint8, shape) for file in (grey_file, mask_file))
    ends = cases["slices"].cumsum()

    def resize_case(number):
        with storage.open_npz(study.path("sliced_case", case=cases["case"][number])) as arrays:
            pairs = zip(arrays["images"], arrays["masks"], strict=True)
        for row, (image, mask) in enumerate(pairs, start=ends[number] - cases["slices"][number]):
            grey[row, ..., 0] = np.round(resizing.resize_image(image, (size, size)))
            masks[row, ..., 0] = resizing.resize_mask(mask, (size, size))
        for array in (grey, masks):
            array.flush()
            storage.release(array)
        return number + 1

    with parallel.executor() as pool:
        for count in tqdm(pool.map(resize_case, range(done, len(cases))), desc="resizing", total=len(cases) - done):
            storage.write_json(progress, {"key": [key, size], "done": count})
    return grey, masks


def standardise_all(study, grey, mean, std):
    """Write images.npy of the grey levels of all slices."""
    with storage.atomic(study.path("images")) as temporary, parallel.executor() as pool:
        images = storage.create_npy(temporary, np.float32, grey.shape)

        def standardise_part(first):
            part = slice(first, first + storage.CHUNK)
            images[part] = resizing.standardise(grey[part], mean, std)
            storage.release(images), storage.release(grey)

        list(pool.map(standardise_part, range(0, len(grey), storage.CHUNK)))
