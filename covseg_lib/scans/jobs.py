"""Many scans: which files are read and written, and a table of what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from covseg_lib import files
from covseg_lib.data import file_names
from covseg_lib.images import nifti
from covseg_lib.settings import DEFAULT_READING, Reading

if TYPE_CHECKING:  # the command line checks its paths before it loads TensorFlow
    from covseg_lib.scans.segment import Segmentation
    from covseg_lib.scans.segmenters import Segmenter


@dataclass(frozen=True)
class ScanJob:
    """A scan and its lung mask, if there is one, to read; a mask and optional files to write."""

    scan: Path
    out: Path
    lungs: Path | None = None
    probabilities: Path | None = None
    preview: Path | None = None  # a PNG
    reading: Reading = DEFAULT_READING


def plan_scans(
    scan: Path,
    out: Path,
    lungs: Path | None = None,
    probabilities: Path | None = None,
    preview: Path | None = None,
    table: Path | None = None,
    reading: Reading = DEFAULT_READING,
) -> list[ScanJob]:
    """Return the job of a scan, or the jobs of a folder of scans.

    For a folder, the other paths are folders too, with files of the same names; `preview` is always
    a folder, and `table` a file. Raises ValueError or OSError before anything is computed: for an
    output name that does not end in .nii or .nii.gz, a folder that cannot be written, a scan that
    would be overwritten.
    """
    options = {"--out": out, "--lungs": lungs, "--probabilities": probabilities}
    for option, path in options.items():
        if path:
            _check_kind(option, path, scan)
    paths = nifti.list_files(scan) if scan.is_dir() else [scan]
    if not paths:
        raise FileNotFoundError(f"{nifti.no_files(scan)}: expected a folder of scans")

    def of_scan(path, place):
        return place and (place / path.name if scan.is_dir() else place)

    jobs = [
        ScanJob(
            path,
            of_scan(path, out),
            of_scan(path, lungs),
            of_scan(path, probabilities),
            preview and preview / f"{file_names.case_name(path)}.png",
            reading,
        )
        for path in paths
    ]
    written = [path for job in jobs for path in (job.out, job.probabilities, job.preview) if path]
    written += [table] if table else []
    read = {_identity(path) for job in jobs for path in (job.scan, job.lungs) if path}
    for path in written:
        if _identity(path) in read:
            raise ValueError(
                f"{path} is a scan or a lung mask and would be overwritten: choose another place"
            )
    places = Counter(map(_identity, written))
    twice = [path for path in written if places[_identity(path)] > 1]
    if twice:
        raise ValueError(
            f"two files would be written to {twice[0]}: choose two places, or rename a scan"
        )
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


def segment_job(segmenter: Segmenter, job: ScanJob) -> Segmentation:
    """Segment a scan, and write the files of its job.

    Raises ValueError or OSError, before anything is computed if the scan or its lung mask is wrong.
    """
    from covseg_lib.plots import volume_plots
    from covseg_lib.scans import segment

    if job.lungs and not job.lungs.exists():
        raise FileNotFoundError(f"no lung mask {job.lungs}: add it, or omit --lungs")
    found = segment.segment_scan(segmenter, job.scan, job.lungs, job.reading)
    by = f"by {segmenter.name}"
    if job.probabilities:
        levels = found.levels
        nifti.write_probabilities(
            job.probabilities, levels, found.header, f"lesion probability {by}"
        )
    if job.preview:
        picture = volume_plots.preview(job.scan, found.mask, found.lungs, job.reading)
        files.write_figure(job.preview, picture)
    nifti.write_mask(job.out, found.mask, found.header, f"lesion mask {by}")  # the last file
    return found


def segment_jobs(
    segmenter: Segmenter, jobs: Sequence[ScanJob], log: Callable[[str], None] = print
) -> pd.DataFrame:
    """Segment several scans. A scan that fails does not stop the others.

    Returns
    -------
    DataFrame, one row a scan: case; mask, the file; ml, the volume of the lesions; percent of the
    lungs; state, "done" or "failed"; message, the error or the warnings. `log` gets a line for
    each scan.
    """
    rows = []
    for job in jobs:
        row: dict = {"case": file_names.case_name(job.scan), "mask": ""}
        try:
            found = segment_job(segmenter, job)
        except (ValueError, OSError, MemoryError) as error:
            row |= {"ml": None, "percent": None, "state": "failed", "message": str(error)}
            log(f"{job.scan.name}: no mask: {error}")
        else:
            message = "; ".join(found.warnings)
            row |= {"mask": str(job.out)}
            row |= {"ml": round(found.ml, 2), "percent": round(found.percent, 2)}
            row |= {"state": "done", "message": message}
            log(f"{job.out}: lesions {found.ml:.1f} ml, {found.percent:.1f} % of the lungs")
            if message:
                log(f"WARNING: {job.scan.name}: {message}")
        rows.append(row)
    return pd.DataFrame(rows)


def _identity(path):
    """Return the same value for two paths of one file, also through links."""
    return (path.stat().st_dev, path.stat().st_ino) if path.exists() else path.resolve()
