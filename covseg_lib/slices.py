"""Volumes -> slices -> one size -> standardised: Listings 2.1 and 2.2 of the report, put right."""

import hashlib

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from skimage.transform import resize
from tqdm import tqdm

from covseg_lib import splits, storage, volumes
from covseg_lib.study import LUNG_WINDOW_HU


def slice_cases(cases, study, window_hu=LUNG_WINDOW_HU, step=2):
    """Slice every case into sliced_data/<case>.npz, one volume in memory at a time.

    A file holds images (S, H, W) uint8 in 0..255, masks (S, H, W) uint8 in {0, 1}, the patient, and the scan's
    NIfTI header as bytes, which is enough to write a mask back into its space. Files of cases that are not
    among `cases` are removed.

    Returns
    -------
    DataFrame, one row a case: case, patient, slices, lesion_slices, height, width
    """
    for stale in set(study.path("sliced_data").glob("*.npz")) - {study.path("sliced_case", case=c.name) for c in cases}:
        stale.unlink()
    rows = []
    for case in tqdm(cases, desc="slicing", unit="case"):
        pair = volumes.read_pair(case, step)
        images = volumes.to_grey(pair.image, window_hu)
        with storage.atomic(study.path("sliced_case", case=case.name)) as temporary:
            header = np.frombuffer(pair.header.binaryblock, np.uint8)
            np.savez(temporary, images=images, masks=pair.mask, patient=case.patient, header=header)
        lesions = int(pair.mask.any(axis=(1, 2)).sum())
        rows.append((case.name, case.patient, len(images), lesions, *images.shape[1:]))
    return pd.DataFrame(rows, columns=["case", "patient", "slices", "lesion_slices", "height", "width"])


def build(study, size=256, split="slice", seed=0):
    """Make processed_data of all sliced cases: resized, standardised and split.

    images.npy (N, size, size, 1) float32, masks.npy (N, size, size, 1) uint8 in {0, 1}, slices.csv with one row
    a slice, and preprocessing.json, written last. Mean and standard deviation are those of the training slices.

    Returns
    -------
    DataFrame, one row a slice: case, patient, slice, lesion_pixels, split
    """
    files = sorted(study.need("sliced_data").glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"no sliced case in {study.path('sliced_data')}: run notebook 01 first")
    study.path("preprocessing").unlink(missing_ok=True)
    with storage.atomic(study.path("images")) as image_file, storage.atomic(study.path("masks")) as mask_file:
        table = _resize_all(files, size, image_file, mask_file)
        table["split"] = _split(table, split, seed)
        images = open_memmap(image_file, "r+")
        train = images[table["split"] == "train"]
        mean, std = float(train.mean(dtype=np.float64)), float(train.std(dtype=np.float64))
        for row in range(len(images)):
            images[row] = standardise(images[row], mean, std)
        images.flush()
    storage.write_csv(study.path("slices"), table)
    about = {"size": size, "mean": mean, "std": std, "split": split, "seed": seed, "slices": len(table)}
    about |= {name: study.settings()[name] for name in ("window_hu", "step")}
    about["slices_sha256"] = hashlib.sha256(study.path("slices").read_bytes()).hexdigest()
    storage.write_json(study.path("preprocessing"), about)
    return table


def load(study, *names):
    """Return images (n, size, size, 1) float32 and masks (n, size, size, 1) uint8 of the splits so called."""
    rows = np.flatnonzero(table(study)["split"].isin(names))
    return tuple(np.load(study.need(name), mmap_mode="r")[rows] for name in ("images", "masks"))


def table(study):
    """Return slices.csv, one row a slice, as a DataFrame."""
    study.need("preprocessing")
    return pd.read_csv(study.need("slices"))


def resize_image(image, size):
    """Resize a slice (H, W) to `size` (rows, columns): bilinear with anti-aliasing, float32 grey levels."""
    return resize(image.astype(np.float32), size, order=1, anti_aliasing=True, preserve_range=True)


def resize_mask(mask, size):
    """Resize a mask (H, W) to `size`, binary before and after: uint8, 1 where lesion fills half a pixel or more."""
    return (resize_image(mask, size) >= 0.5).astype(np.uint8)


def standardise(image, mean, std):
    """Return (image - mean) / std as float32 (report, section 2.3.1)."""
    return ((image - mean) / std).astype(np.float32)


def _resize_all(files, size, image_file, mask_file):
    """Write all slices, resized, into two .npy files; return the table of them."""
    counts = [_count(file) for file in files]
    shape = (sum(counts), size, size, 1)
    images = open_memmap(image_file, "w+", np.float32, shape)
    masks = open_memmap(mask_file, "w+", np.uint8, shape)
    rows = []
    for file in tqdm(files, desc="resizing", unit="case"):
        with storage.open_npz(file) as sliced:
            pairs, patient = zip(sliced["images"], sliced["masks"], strict=True), str(sliced["patient"])
        for number, (image, mask) in enumerate(pairs):
            images[len(rows), ..., 0] = resize_image(image, (size, size))
            masks[len(rows), ..., 0] = resize_mask(mask, (size, size))
            rows.append((file.stem, patient, number, int(masks[len(rows)].sum())))
    images.flush(), masks.flush()
    return pd.DataFrame(rows, columns=["case", "patient", "slice", "lesion_pixels"])


def _count(file):
    with storage.open_npz(file) as sliced:
        return len(sliced["masks"])


def _split(table, protocol, seed):
    if protocol == "slice":
        return splits.slice_split(len(table), seed)
    if protocol == "patient":
        return splits.patient_split(table["patient"], seed, table["lesion_pixels"] > 0)
    raise ValueError(f'no split {protocol!r}: expected "slice" (the report\'s) or "patient"')
