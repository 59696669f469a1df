"""Scans on disk to lesion masks on disk, one or a folder of them: what is written where, and how much lesion it is."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from covseg_lib import nifti, prediction, storage, volumes


@dataclass(frozen=True)
class Job:
    """One scan, the mask to write, perhaps a probability map to write and a lung mask to read (paths)."""

    scan: Path
    out: Path
    probabilities: Path | None = None
    lungs: Path | None = None


@dataclass(frozen=True)
class Lesions:
    """How much of a scan is marked, in ml; and where there is a lung mask, how many percent of the lungs are."""

    ml: float
    percent: float | None = None

    def __str__(self):
        lungs = "" if self.percent is None else f", {self.percent:.1f} % of the lungs"
        return f"lesions {self.ml:.1f} ml{lungs}"


def plan(scan, out, probabilities=None, lungs=None):
    """Return the Jobs of a scan; or of a folder of scans, where the other paths are folders too.

    Files in a folder are called as the scans are. Raises ValueError or OSError for what cannot be, before anything is
    computed: names that are no NIfTI file's, a place that cannot be written, a scan that would be overwritten.
    """
    places = {"--out": out, "--probabilities": probabilities, "--lungs": lungs}
    places = {option: place for option, place in places.items() if place}
    if scan.is_dir():
        folders = (out, probabilities, lungs)
        jobs = [Job(path, *(folder and folder / path.name for folder in folders)) for path in _in(scan)]
        wrong = [option for option, place in places.items() if place.is_file() or place.name.endswith(nifti.ENDINGS)]
        expected = f"{scan} is a folder, so a folder too"
    else:
        jobs = [Job(scan, out, probabilities, lungs)]
        wrong = [option for option, place in places.items() if place.is_dir() or not place.name.endswith(nifti.ENDINGS)]
        expected = "a file whose name ends in .nii or .nii.gz"
    if wrong:
        raise ValueError(f"{wrong[0]} is {places[wrong[0]]}: expected {expected}")
    made = [path for job in jobs for path in (job.out, job.probabilities) if path]
    read = {_identity(path): path for job in jobs for path in (job.scan, job.lungs) if path}
    for path in made:
        if _identity(path) in read:
            raise ValueError(f"{path} is a scan or a lung mask and would be overwritten: choose another place")
    if len({_identity(path) for path in made}) < len(made):
        raise ValueError(f"--out and --probabilities are both {out}: choose two places")
    for place in {path.parent: path for path in made}.values():
        storage.require_writable(place)
    return jobs


def predict(run, job):
    """Predict one scan's lesions, write the files of its Job, and return its Lesions.

    The percentage is of the lungs' voxels, those that are marked; lesions outside of them count in ml only. Raises
    ValueError or OSError, before anything is computed where the scan or its lung mask is wrong.
    """
    if job.lungs and not job.lungs.exists():
        raise FileNotFoundError(f"no lung mask {job.lungs}: add it, or leave --lungs out")
    lungs = volumes.read_lungs(job.lungs, nifti.read_header(job.scan)) if job.lungs else None
    levels, header = prediction.predict_levels(run, job.scan)
    by_run = f"by run {run.recipe.run}"
    if job.probabilities:
        volumes.write_probabilities(job.probabilities, levels, header, f"lesion probability {by_run}")
    mask = prediction.to_mask(levels)
    volumes.write_mask(job.out, mask, header, f"lesion mask {by_run}")
    ml = np.count_nonzero(mask) * voxel_ml(header)
    return Lesions(ml, None if lungs is None else 100 * np.count_nonzero(mask[lungs]) / np.count_nonzero(lungs))


def voxel_ml(header):
    """Return the volume of a voxel in ml, as the header's affine and unit say."""
    return float(abs(np.linalg.det(header.get_best_affine()[:3, :3])) * nifti.unit_mm(header) ** 3 / 1000)


def _in(folder):
    found = nifti.files(folder)
    if not found:
        raise FileNotFoundError(f"no .nii or .nii.gz file in {folder}: expected a folder of scans")
    return found


def _identity(path):
    """Return what is equal for two paths of one file, also by a link or on a disk that takes a for A."""
    return (path.stat().st_dev, path.stat().st_ino) if path.exists() else path.resolve()
