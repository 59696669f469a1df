"""Masks for scans outside of a study: which files to read and write, and volumes in ml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from covseg_lib import files
from covseg_lib.data import nifti, volumes
from covseg_lib.evaluation import prediction

if TYPE_CHECKING:  # the command line checks its paths before it loads TensorFlow
    from covseg_lib.training.models import Run


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
    levels, header = prediction.predict_probabilities(run, job.scan, job.lungs)
    by_run = f"by run {run.recipe.run}"
    if job.probabilities:
        nifti.write_probabilities(job.probabilities, levels, header, f"lesion probability {by_run}")
    mask = prediction.levels_to_mask(levels, run.postprocessing, nifti.voxel_ml(header))
    nifti.write_mask(job.out, mask, header, f"lesion mask {by_run}")
    ml = np.count_nonzero(mask) * nifti.voxel_ml(header)
    if lungs is None:
        return LesionVolume(ml)
    return LesionVolume(ml, 100 * np.count_nonzero(mask[lungs]) / np.count_nonzero(lungs))


def _identity(path):
    """Return the same value for two paths of one file, also through links."""
    return (path.stat().st_dev, path.stat().st_ino) if path.exists() else path.resolve()
