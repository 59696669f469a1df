"""Notebook 01: volumes become slices (the report's Listing 2.1).

sliced_data/<case>.npz holds images (S, H, W) uint8 in 0..255, masks (S, H, W) uint8 in {0, 1},
lungs alike if the case has a lung mask, the bytes of the scan's NIfTI header, which are enough to
write a mask in the scan's space, and `about`: sizes, spacing, and a fingerprint of the input.
"""

import hashlib
import json
import os
import shutil
import zipfile
from concurrent.futures import Executor
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd

from covseg_lib import files, parallel
from covseg_lib.data.pairs import Case, read_pair
from covseg_lib.images import geometry, intensities, nifti
from covseg_lib.settings import DEFAULT_READING, Reading
from covseg_lib.study import Study

MOST_LESION, MOST_OF_LUNGS = 0.1, 0.8  # shares that lesions hardly exceed


def slice_cases(
    cases: list[Case],
    study: Study,
    reading: Reading = DEFAULT_READING,
    pool: Executor | None = None,
    left_over: dict[str, str] | None = None,
    strict: bool = True,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Check and slice every case into sliced_data/<case>.npz, and list them in cases.csv.

    New files are first written to .part-sliced_data and moved when all cases are known to be right.
    cases.csv is written last. Cases that were sliced before, from the same files with the same
    settings, are not sliced again, also after an interruption. Files of other cases are removed.

    Parameters
    ----------
    cases : list of Case
    study : Study
    reading : Reading
    pool : concurrent.futures executor, optional
        Each worker holds a volume in memory. Default: one case after the other.
    left_over : dict, optional
        {case: reason} of cases that could not be paired.
    strict : bool
        Whether a wrong case stops everything. If not, the other cases are sliced.

    Returns
    -------
    DataFrame, one row a case: case, patient, slices, lesion_slices, height, width, pixels (their
    checksum), image and mask (the files), made_from, warning; and {case: reason} of cases left out

    Raises
    ------
    ValueError
        One message with the problems of all cases, as `pairs.read_pair` finds them. The study
        stays as it was.
    """
    with study.locked("slicing"):
        return _slice_cases(cases, study, reading, pool, dict(left_over or {}), strict)


def _slice_cases(cases, study, reading, pool, left_over, strict):
    staging = files.staging_path(study.path("sliced_data"))
    made, jobs = _plan(cases, study, staging, reading)
    problems = parallel.run_jobs(pool, slice_case, jobs, "slicing")
    wrong = {job[0].name: text for job, text in zip(jobs, problems, strict=True) if text}
    wrong = left_over | wrong
    about = {case.name: read_about(made[case.name]) for case in cases if case.name not in wrong}
    wrong |= _same_voxels(cases, about)
    good = [case for case in cases if case.name not in wrong]
    error = ""
    if not good or (wrong and strict):
        error = _describe(wrong, len(cases) + len(left_over))
    elif not any(about[case.name]["lesion_slices"] for case in good):
        error = (
            f"none of the {len(good)} masks has a lesion, so there is nothing to learn or to test; "
            "the study is unchanged. Look at the masks in a viewer: are they empty?"
        )
    if error:
        shutil.rmtree(staging, ignore_errors=True)
        raise ValueError(error)
    _move_into_study(good, staging, study)
    rows = [_row(case, about[case.name]) for case in good]
    return files.write_csv(study.path("cases"), pd.DataFrame(rows)), wrong


def _plan(cases, study, staging, reading):
    """Return {case: its file, in the study or in `staging`}, and jobs for those that are not there.

    What an interrupted call left in `staging` is removed if it would now take the place of a case
    that is right in the study, or is of a case that is not wanted any more.
    """
    files.remove_temporary_files(study.path("sliced_data"))
    made = {}
    jobs = []
    for case in sorted(cases, key=_file_size, reverse=True):  # the largest first
        path = study.path("sliced_case", case=case.name)
        if not is_current(path, case, reading):
            path = staging / path.name
            if not is_current(path, case, reading):
                jobs.append((case, path, reading))
        made[case.name] = path
    for path in staging.glob("*"):
        if path not in made.values():
            path.unlink()
    return made, jobs


def _row(case, about):
    """Return a case's row of cases.csv; its files may have moved since it was sliced."""
    return {
        "case": case.name,
        "patient": case.patient,
        **about,
        "image": str(case.image.absolute()),
        "mask": str(case.mask.absolute()),
        "lungs": str(case.lungs.absolute()) if case.lungs else "",
    }


def _same_voxels(cases, about):
    """Return {case: reason} of cases with the voxels of an earlier case of another patient.

    Otherwise a patient split would test on a scan that it trained on.
    """
    first = {}
    twins = {}
    for case in cases:
        if case.name not in about:
            continue
        voxels = about[case.name]["pixels"].split("-")[0]  # of the image
        other = first.setdefault(voxels, case)
        if other.patient != case.patient:
            twins[case.name] = (
                f"has the same voxels as {other.name}: remove one of them, or list both with one "
                "patient in patients.csv"
            )
    return twins


def _file_size(case):
    return case.image.stat().st_size if case.image.exists() else 0


def _describe(wrong, count):
    """Return a message that lists the wrong cases, of `count` cases in all."""
    if not wrong:
        return "no case to slice: the list of cases is empty"
    lines = "\n".join(f"  {name}: {reason}" for name, reason in sorted(wrong.items()))
    others = ", or set STRICT = False to continue without them" if len(wrong) < count else ""
    return (
        f"{len(wrong)} of {count} cases cannot be used, the study is unchanged:\n{lines}\n"
        f"Fix these files{others}."
    )


def _move_into_study(cases, staging, study):
    """Move new files into the study, and remove files of other cases."""
    names = {case.name for case in cases}
    folder = study.path("sliced_data")
    new = [path for path in staging.glob("*.npz") if path.stem in names]
    stale = [path for path in folder.glob("*.npz") if path.stem not in names]
    if new or stale:
        study.path("cases").unlink(missing_ok=True)
    for path in stale:
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        os.replace(path, folder / path.name)
    shutil.rmtree(staging, ignore_errors=True)


def slice_case(case: Case, path: Path, reading: Reading) -> str:
    """Slice one case into the file `path`; return what is wrong with it, or ""."""
    made_from = fingerprint(case.image, case.mask, case.lungs, reading)  # before they can change
    try:
        pair = read_pair(case, reading)
    except ValueError as error:
        return str(error)
    header = pair.header
    read = filter(None, (case.image, case.mask, case.lungs))
    warnings = [warning for path in read for warning in nifti.misnamed(path)]
    warnings += geometry.doubts(header) + intensities.unusual_slope(header) + _unlikely_mask(pair)
    about = {
        "slices": len(pair.image),
        "lesion_slices": int(pair.mask.any(axis=(1, 2)).sum()),
        "height": pair.image.shape[1],
        "width": pair.image.shape[2],
        "mm": geometry.spacing_mm(header),
        "made_from": made_from,
        "warning": "; ".join(warnings),
    }
    arrays = {"images": pair.image, "masks": pair.mask}
    arrays |= {} if pair.lungs is None else {"lungs": pair.lungs}
    arrays |= {"header": np.frombuffer(header.binaryblock, np.uint8)}
    arrays |= {"about": np.array(json.dumps(about))}
    with files.atomic(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
    return ""


def _unlikely_mask(pair):
    """Return a warning if a mask is hardly one of lesions; [] otherwise."""
    of_all, of_lungs = pair.mask.mean(), 0.0
    if pair.lungs is not None and pair.lungs.any():
        of_lungs = pair.mask[pair.lungs > 0].mean()
    if of_all <= MOST_LESION and of_lungs <= MOST_OF_LUNGS:
        return []
    share = f"{of_lungs:.0%} of the lungs" if of_lungs else f"{of_all:.0%} of the scan"
    return [
        f"the mask covers {share}: is it a mask of the lungs, or does it have labels for lungs and "
        "lesions? LESION_LABELS chooses the labels that are lesion"
    ]


def read_about(path: Path) -> dict:
    """Return what a file of a case stores about it, and a checksum of its pixels."""
    with files.open_npz(path) as sliced, zipfile.ZipFile(path) as archive:
        members = {member.filename: member.CRC for member in archive.infolist()}
        names = [name for name in members if name in ("images.npy", "masks.npy", "lungs.npy")]
        checksum = "-".join(f"{members[name]:08x}" for name in names)
        return {"pixels": checksum} | json.loads(str(sliced["about"]))


def is_current(path: Path, case: Case, reading: Reading) -> bool:
    """Return whether a file holds a case as it would be sliced now."""
    if not (path.exists() and case.image.exists() and case.mask.exists()):
        return False
    try:
        before = read_about(path)["made_from"]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return False
    return before == fingerprint(case.image, case.mask, case.lungs, reading)


def fingerprint(image: Path, mask: Path, lungs: Path | None, reading: Reading) -> str:
    """Return a short text that changes if the files (size, time of change) or settings change."""
    paths = [path for path in (image, mask, lungs) if path and path.exists()]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps([stats, astuple(reading)]).encode()).hexdigest()[:16]


def checksum_of_cases(cases: pd.DataFrame) -> str:
    """Return a checksum of the cases, patients and pixels in a table as cases.csv."""
    text = cases[["case", "patient", "pixels"]].to_csv(index=False)
    return hashlib.sha256(text.encode()).hexdigest()
