"""From a trained run to masks: of the study's slices, and of whole volumes in their own space."""

import numpy as np
import pandas as pd

from covseg_lib import resizing, scores, slices, storage, volumes
from covseg_lib.study import LESION_FROM


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
    made_with = run.recipe.preprocessing
    scan, header = volumes.read_volume(path, made_with["step"])
    grey = volumes.to_grey(scan, made_with["window_hu"])
    mask = np.zeros(volumes.upright_shape(header), np.uint8)
    for first in range(0, len(mask), 16):
        images = [resizing.resize_image(image, (made_with["size"],) * 2) for image in grey[first : first + 16]]
        batch = resizing.standardise(np.stack(images)[..., None], made_with["mean"], made_with["std"])
        for number, probability in enumerate(predict_slices(run, batch)[..., 0]):
            mask[first + number] = to_scan(probability, header, made_with["step"]) >= LESION_FROM
    return mask, header


def to_scan(image, header, step):
    """Bring a resized slice (size, size) back to the scan's own rows and columns, upright: (H, W) float32."""
    return resizing.enlarge(image, volumes.upright_shape(header)[1:], step, volumes.counted_from_end(header))
