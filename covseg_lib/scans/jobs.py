"""Many scans: which files are read and written, and a table of what was found."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
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

COLUMNS = ("case", "mask", "ml", "percent", "state", "message", "made_from", "checksum")
NO_MEMORY = re.compile(
    "out.of.memory|OOM when allocating|RESOURCE_EXHAUSTED|cannot allocate memory", re.I
)
# lines with which errors of Keras and TensorFlow begin, before the one that says what is wrong
OPENING = re.compile(
    'Graph execution error|Exception encountered|Detected at node|File "|<stack traces'
)
FORMATTING = re.compile(r"\x1b\[\d*m")  # Keras' messages have bold words


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
    output name that does not end in .nii or .nii.gz, a folder that cannot be written, a scan or
    another table that would be overwritten.
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
    _read_done(table)
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
    """Segment a scan, and write the files of its job: the mask first, which nothing else may cost.

    Raises ValueError or OSError, before anything is computed if the scan or its lung mask is wrong.
    """
    from covseg_lib.plots import volume_plots
    from covseg_lib.scans import segment

    if job.lungs and not job.lungs.exists():
        raise FileNotFoundError(f"no lung mask {job.lungs}: add it, or omit --lungs")
    found = segment.segment_scan(segmenter, job.scan, job.lungs, job.reading)
    by = f"by {segmenter.name}"
    nifti.write_mask(job.out, found.mask, found.header, f"lesion mask {by}")
    if job.probabilities:
        about = f"lesion probability {by}"
        nifti.write_probabilities(job.probabilities, found.levels, found.header, about)
    if job.preview:
        try:
            job.preview.unlink(missing_ok=True)  # it shows an earlier mask
            picture = volume_plots.preview(job.scan, found.mask, found.lungs, job.reading)
            files.write_figure(job.preview, picture)
        except Exception as error:  # a picture is no reason to lose the row of a mask
            warning = f"the mask is written, but no preview: {explain(error)}"
            found = replace(found, warnings=[*found.warnings, warning])
    return found


def segment_jobs(
    segmenter: Segmenter,
    jobs: Sequence[ScanJob],
    log: Callable[[str], None] = print,
    table: Path | None = None,
) -> pd.DataFrame:
    """Segment several scans. A scan that fails does not stop the others.

    Parameters
    ----------
    segmenter : Segmenter
    jobs : sequence of ScanJob, from `plan_scans`
    log : function of str
        Gets a line for each scan.
    table : path, optional
        A CSV that is written after each scan. Scans that it says are done are not segmented again
        if model, scan, lung mask and options are the same and the files are there as they were
        written: a call that was interrupted can be repeated.

    Returns
    -------
    DataFrame, one row a scan: case; mask, the file; ml, the volume of the lesions; percent of the
    lungs; state, "done" or "failed"; message, the error or the warnings; made_from, a checksum of
    model, scan, lung mask and options; checksum, of the files that were written

    Raises
    ------
    ValueError
        There is another table in that place.
    OSError
        The table cannot be written. The masks are.
    """
    if table is None:
        return _segment_all(segmenter, jobs, log)
    with files.locked(table.with_name(f".{table.name}.lock"), f"writing {table}"):
        return _segment_all(segmenter, jobs, log, table)


def _segment_all(segmenter, jobs, log, table=None):
    before = _read_done(table)
    rows = {}  # by place in `jobs`
    for place, job in enumerate(jobs):
        row = before.get(_made_from(segmenter, job))
        if row and row["checksum"] and row["checksum"] == _checksum(job):
            rows[place] = row | {"mask": str(job.out)}
    if rows:
        _say(log, f"{len(rows)} of {len(jobs)} scans are done already, see {table}")
    for place, job in enumerate(jobs):
        if place not in rows:
            rows[place] = _segment_one(segmenter, job, log)
            try:
                _write_rows(rows, table)
            except OSError as error:  # the next scan may do without
                _say(log, f"WARNING: {error}")
    return _write_rows(rows, table)


def _segment_one(segmenter, job, log):
    """Segment a scan, log what came out, and return its row."""
    row = dict.fromkeys(COLUMNS, "")
    row["case"] = file_names.case_name(job.scan)
    row["ml"] = None
    row["percent"] = None
    row["made_from"] = _made_from(segmenter, job)
    try:
        found = segment_job(segmenter, job)
    except Exception as error:  # TensorFlow's for lack of memory is of a class of its own
        row["state"] = "failed"
        row["message"] = explain(error)
        _say(log, f"{job.scan.name}: no mask: {row['message']}")
        return row
    _say(log, f"{job.out}: lesions {found.ml:.1f} ml, {found.percent:.1f} % of the lungs")
    row["state"] = "done"
    row["message"] = "; ".join(found.warnings)
    if row["message"]:
        _say(log, f"WARNING: {job.scan.name}: {row['message']}")
    row["mask"] = str(job.out)
    row["ml"] = round(found.ml, 2)
    row["percent"] = round(found.percent, 2)
    row["checksum"] = _checksum(job)
    return row


def _made_from(segmenter, job):
    """Return a short text that changes if the model, the scan, its lungs or the options change."""
    inputs = []
    for path in (job.scan, job.lungs):
        if path and path.exists():
            about = path.stat()
            inputs.append((path.name, about.st_size, about.st_mtime_ns))
    wanted = bool(job.probabilities), bool(job.preview)
    text = json.dumps([segmenter.checksum, inputs, astuple(job.reading), wanted])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checksum(job):
    """Return a checksum of the files that a job writes; "" if one is missing.

    Another model, or another threshold, may have written them since, with a table of its own.
    """
    found = hashlib.sha256()
    try:
        for path in (job.out, job.probabilities, job.preview):
            if path:
                found.update(path.read_bytes())
    except OSError:
        return ""
    return found.hexdigest()[:16]


def _say(log, line):
    """Log a line. A closed terminal, or a name that it cannot show, costs no mask."""
    with contextlib.suppress(OSError, ValueError):
        log(line.encode(errors="backslashreplace").decode())


def _read_done(table):
    """Return {made_from: row} of the scans that a table says are done.

    Raises ValueError if it has other columns: a table of something else, or one with notes.
    """
    if table is None or not table.exists():
        return {}
    found = files.read_csv(table)
    if tuple(found) != COLUMNS:
        raise ValueError(
            f"{table} has the columns {', '.join(found)}, and would be overwritten: expected a "
            f"table of segmented scans ({', '.join(COLUMNS)}). Choose another place, or move it"
        )
    done = found[found["state"] == "done"]
    return {row["made_from"]: row for row in done.to_dict("records")}


def _write_rows(rows, table):
    """Return the rows as a table in the order of the scans; write it if there is a place."""
    found = pd.DataFrame([rows[place] for place in sorted(rows)], columns=COLUMNS)
    return files.write_csv(table, found) if table else found


def explain(error: Exception) -> str:
    """Return what a user can do about an error of one scan, in one line."""
    text = FORMATTING.sub("", str(error))
    kind = type(error).__name__
    no_memory = isinstance(error, MemoryError) or kind == "ResourceExhaustedError"
    if no_memory or NO_MEMORY.search(text):
        return (
            f"not enough memory ({kind}): close other programs, or take a machine with more memory "
            "(in Colab: Runtime > Change runtime type), then run this again"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    useful = [line for line in lines if not OPENING.match(line)] or lines
    if not useful:
        return kind
    if isinstance(error, (ValueError, OSError)):  # as the library raises them
        return useful[0]
    return f"{kind}: {useful[0]}"


def _identity(path):
    """Return the same value for two paths of one file, also through links."""
    return (path.stat().st_dev, path.stat().st_ino) if path.exists() else path.resolve()
