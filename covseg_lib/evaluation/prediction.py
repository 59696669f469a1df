"""From a trained run to masks: of the study's slices, and of whole scans in their own space."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import pandas as pd
from tqdm import tqdm

from covseg_lib import files
from covseg_lib.data import nifti, preprocessing, resizing, volumes
from covseg_lib.evaluation import metrics
from covseg_lib.study import LESION_THRESHOLD, Study

if TYPE_CHECKING:  # the command line checks its paths before it loads TensorFlow
    from covseg_lib.training.trainer import Run

BATCH = 8  # slices of a volume that are predicted at a time


def predict_slices(run: Run, images: np.ndarray, batch_size: int = 16) -> np.ndarray:
    """Return lesion probabilities (n, size, size, 1) float32 of standardised slices."""
    starts = range(0, len(images), batch_size)
    batches = [images[start : start + batch_size] for start in starts]
    predicted = [run.model.predict_on_batch(batch) for batch in batches]
    return np.concatenate([np.asarray(part, np.float32) for part in predicted])


def predict_study(run: Run, study: Study) -> np.ndarray:
    """Predict the study's slices with a run; write and return the test slices' probabilities.

    Writes predictions/<run>.npy, one entry for each test slice of the run, and
    predictions/<run>.csv, the counts of pixels of each slice of all subsets. Raises ValueError if
    the run was trained on another processed_data, because its test slices may have been training
    slices there.
    """
    name, recipe = run.recipe.run, run.recipe
    if recipe.preprocessing != files.read_json(study.need("preprocessing")):
        raise ValueError(
            f"run {name} was trained on other slices than {study.path('preprocessing').parent} "
            "holds now: train it again, or make the slices again with the settings in recipe.json"
        )
    images, masks = preprocessing.open_arrays(study)
    table, counts = preprocessing.slice_table(study)[["case", "patient", "slice"]], []
    for subset in ("train", "validation", "test"):
        rows = preprocessing.subset_rows(study, subset, split=recipe.split, fold=recipe.fold)
        probabilities = predict_slices(run, images[rows])
        of_subset = table.loc[rows].assign(subset=subset)
        predicted = probabilities >= LESION_THRESHOLD
        counts.append(metrics.add_counts(of_subset, masks[rows], predicted))
    files.write_npy(study.path("prediction", run=name), probabilities)
    files.write_csv(study.path("counts", run=name), pd.concat(counts))
    return probabilities


def predict_volume(run: Run, path: Path) -> tuple[np.ndarray, nib.Nifti1Header]:
    """Predict the lesions of a CT volume (3D NIfTI, in HU or grey levels), slice by slice.

    Returns
    -------
    mask (S, H, W) uint8 in {0, 1}, upright and of the scan's full size; the scan's NIfTI header,
    for `nifti.write_mask`
    """
    levels, header = predict_probabilities(run, path)
    return threshold_mask(levels), header


def predict_probabilities(run: Run, path: Path) -> tuple[np.ndarray, nib.Nifti1Header]:
    """Predict as `predict_volume`, but return probabilities (S, H, W) uint8, where 255 means 1.

    While the network predicts a batch, a thread prepares the next one and resizes the last one to
    the scan. All batches have the same size, so the network is compiled only once.
    """
    made_with = run.recipe.preprocessing
    size, step = made_with["size"], made_with["step"]
    grey, header = volumes.read_grey(path, step, made_with["window_hu"])
    levels = np.empty(nifti.upright_shape(header), np.uint8)

    def prepare(first):
        rows = np.minimum(np.arange(first, first + BATCH), len(grey) - 1)
        images = [np.round(resizing.resize_image(grey[row], (size, size))) for row in rows]
        stack = np.stack(images)[..., None]
        return resizing.standardise(stack, made_with["mean"], made_with["std"])

    def store(first, probabilities):
        places = levels[first : first + BATCH]
        for place, probability in zip(places, probabilities[..., 0], strict=False):
            place[:] = to_scan(probability, header, step) * 255 + 0.5  # + 0.5 rounds
            bar.update()

    def work_of_thread(first, previous):
        if first:
            store(first - BATCH, previous)
        return prepare(first + BATCH)

    bar = tqdm(total=len(levels), desc=Path(path).name, unit="slice")
    with ThreadPoolExecutor(1) as pool, bar:
        batch, predicted = prepare(0), None
        for first in range(0, len(levels), BATCH):
            job = pool.submit(work_of_thread, first, predicted)
            predicted, batch = predict_slices(run, batch), job.result()
        store(first, predicted)
    return levels, header


def threshold_mask(levels: np.ndarray) -> np.ndarray:
    """Return the mask, uint8 in {0, 1}, of probabilities as uint8, where 255 means 1.

    It is the same as without rounding: 0.5 is 127.5, which was rounded up to 128.
    """
    return (levels >= math.ceil(255 * LESION_THRESHOLD)).view(np.uint8)


def to_scan(image: np.ndarray, header: nib.Nifti1Header, step: int) -> np.ndarray:
    """Resize a prediction (size, size) to the scan's upright slice: (H, W) float32."""
    shape, flipped = nifti.upright_shape(header)[1:], nifti.flipped_axes(header)
    return resizing.resize_to_scan(image, shape, step, flipped)


@dataclass(frozen=True)
class ScanJob:
    """A scan to read, the mask to write, and optionally a probability map and a lung mask."""

    scan: Path
    out: Path
    probabilities: Path | None = None
    lungs: Path | None = None


@dataclass(frozen=True)
class LesionVolume:
    """The volume of the predicted lesions in ml, and its share of the lungs in percent."""

    ml: float
    percent: float | None = None

    def __str__(self):
        lungs = "" if self.percent is None else f", {self.percent:.1f} % of the lungs"
        return f"lesions {self.ml:.1f} ml{lungs}"


def plan_scans(
    scan: Path, out: Path, probabilities: Path | None = None, lungs: Path | None = None
) -> list[ScanJob]:
    """Return the job of a scan, or the jobs of a folder of scans.

    For a folder, the other paths are folders too, with files of the same names. Raises ValueError
    or OSError before anything is computed: for a name that is not a NIfTI file's, a folder that
    cannot be written, a scan that would be overwritten.
    """
    options = {"--out": out, "--probabilities": probabilities, "--lungs": lungs}
    if scan.is_dir():
        jobs = [
            ScanJob(
                path,
                out / path.name,
                probabilities and probabilities / path.name,
                lungs and lungs / path.name,
            )
            for path in nifti.list_files(scan)
        ]
        if not jobs:
            raise FileNotFoundError(
                f"no .nii or .nii.gz file in {scan}: expected a folder of scans"
            )
    else:
        jobs = [ScanJob(scan, out, probabilities, lungs)]
    for option, path in options.items():
        if path:
            _check_kind(option, path, scan)
    written = [path for job in jobs for path in (job.out, job.probabilities) if path]
    read = {_identity(path) for job in jobs for path in (job.scan, job.lungs) if path}
    for path in written:
        if _identity(path) in read:
            raise ValueError(
                f"{path} is a scan or a lung mask and would be overwritten: choose another place"
            )
    if len({_identity(path) for path in written}) < len(written):
        raise ValueError(f"--out and --probabilities are both {out}: choose two places")
    for path in {path.parent: path for path in written}.values():
        files.check_writable(path)
    return jobs


def _check_kind(option, path, scan):
    """Raise ValueError if an option is a file where a folder is needed, or the reverse."""
    is_file_name = path.name.endswith(nifti.ENDINGS)
    if scan.is_dir():
        wrong, expected = path.is_file() or is_file_name, f"{scan} is a folder, so a folder too"
    else:
        wrong = path.is_dir() or not is_file_name
        expected = "a file whose name ends in .nii or .nii.gz"
    if wrong:
        raise ValueError(f"{option} is {path}: expected {expected}")


def predict_scan(run: Run, job: ScanJob) -> LesionVolume:
    """Predict the lesions of a scan, write the files of its job, and return the lesions' volume.

    The percentage is the share of lung voxels that are predicted; lesions outside of the lungs
    count in ml only. Raises ValueError or OSError, before anything is computed if the scan or its
    lung mask is wrong.
    """
    if job.lungs and not job.lungs.exists():
        raise FileNotFoundError(f"no lung mask {job.lungs}: add it, or omit --lungs")
    lungs = volumes.read_lung_mask(job.lungs, nifti.read_header(job.scan)) if job.lungs else None
    levels, header = predict_probabilities(run, job.scan)
    by_run = f"by run {run.recipe.run}"
    if job.probabilities:
        nifti.write_probabilities(job.probabilities, levels, header, f"lesion probability {by_run}")
    mask = threshold_mask(levels)
    nifti.write_mask(job.out, mask, header, f"lesion mask {by_run}")
    ml = np.count_nonzero(mask) * nifti.voxel_ml(header)
    if lungs is None:
        return LesionVolume(ml)
    return LesionVolume(ml, 100 * np.count_nonzero(mask[lungs]) / np.count_nonzero(lungs))


def _identity(path):
    """Return the same value for two paths of one file, also through links."""
    return (path.stat().st_dev, path.stat().st_ino) if path.exists() else path.resolve()
