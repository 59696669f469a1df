"""From a trained run to masks: of the study's slices, and of whole volumes in their own space."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from covseg_lib import orientation, resizing, scores, slices, storage, volumes
from covseg_lib.study import LESION_FROM

BATCH = 8  # slices of a volume that go through the network at a time


def predict_slices(run, images, batch_size=16):
    """Return lesion probabilities (n, size, size, 1) float32 of standardised slices (n, size, size, 1)."""
    parts = [images[first : first + batch_size] for first in range(0, len(images), batch_size)]
    return np.concatenate([np.asarray(run.model.predict_on_batch(part), np.float32) for part in parts])


def predict_study(run, study):
    """Predict the study's slices with a run; write and return the test slices' probabilities.

    Writes predictions/<run>.npy, rows as the run's test rows of slices.csv, and predictions/<run>.csv, how many pixels
    of each slice, on all sides, it marks rightly and wrongly. Raises ValueError where the run was trained on another
    processed_data: its test slices may have been training slices there.
    """
    name = run.recipe.run
    if run.recipe.preprocessing != storage.read_json(study.need("preprocessing")):
        raise ValueError(
            f"run {name} was trained on another processed_data than {study.path('preprocessing').parent} holds now: "
            "train it again, or make the slices again with the settings in its recipe.json"
        )
    images, masks = slices.arrays(study)
    about, counted = slices.table(study)[["case", "patient", "slice"]], []
    for side in ("train", "validation", "test"):
        rows = slices.rows_of(study, side, split=run.recipe.split, fold=run.recipe.fold)
        probabilities = predict_slices(run, images[rows])
        counted.append(scores.with_counts(about.loc[rows].assign(side=side), masks[rows], probabilities >= LESION_FROM))
    storage.write_npy(study.path("prediction", run=name), probabilities)
    storage.write_csv(study.path("counts", run=name), pd.concat(counted))
    return probabilities


def predict_volume(run, path):
    """Predict the lesions of a whole CT volume, slice by slice.

    Parameters
    ----------
    run : Run
    path : path of a 3D NIfTI volume, in HU or in grey levels 0..255

    Returns
    -------
    mask (S, H, W) uint8 in {0, 1}, upright and of the scan's full size; the scan's NIfTI header, for
    `volumes.write_mask`
    """
    levels, header = predict_levels(run, path)
    return to_mask(levels), header


def predict_levels(run, path):
    """Predict as `predict_volume`, but return probabilities (S, H, W) uint8, of which 255 stands for 1.

    Beside the network a thread prepares the next slices and brings the last ones back to the scan's size. Nothing
    holds the volume in more than a byte a voxel. Batches are of one size, the last one filled up: the network is
    compiled once.
    """
    made_with = run.recipe.preprocessing
    size, step = made_with["size"], made_with["step"]
    grey, header = volumes.read_grey(path, step, made_with["window_hu"])
    levels = np.empty(orientation.shape(header), np.uint8)

    def prepare(first):
        rows = np.minimum(np.arange(first, first + BATCH), len(grey) - 1)
        images = np.stack([np.round(resizing.resize_image(grey[row], (size, size))) for row in rows])
        return resizing.standardise(images[..., None], made_with["mean"], made_with["std"])

    def put_back(first, probabilities):
        for level, probability in zip(levels[first : first + BATCH], probabilities[..., 0], strict=False):
            level[:] = to_scan(probability, header, step) * 255 + 0.5  # cut, so rounded
            bar.update()

    def beside_network(first, last_found):
        put_back(first - BATCH, last_found) if first else None
        return prepare(first + BATCH)

    with ThreadPoolExecutor(1) as pool, tqdm(total=len(levels), desc=Path(path).name, unit="slice") as bar:
        batch, found = prepare(0), None
        for first in range(0, len(levels), BATCH):
            job = pool.submit(beside_network, first, found)
            found, batch = predict_slices(run, batch), job.result()
        put_back(first, found)
    return levels, header


def to_mask(levels):
    """Return the mask uint8 in {0, 1} of probabilities uint8, of which 255 stands for 1.

    Rounding changed no pixel's side: 0.5 is 127.5, which went up to 128.
    """
    return (levels >= math.ceil(255 * LESION_FROM)).view(np.uint8)


def to_scan(image, header, step):
    """Bring a resized slice (size, size) back to the scan's own rows and columns, upright: (H, W) float32."""
    return resizing.enlarge(image, orientation.shape(header)[1:], step, orientation.counted_from_end(header))
