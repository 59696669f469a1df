"""Scores of masks against true masks, whichever program made them."""

from pathlib import Path

import numpy as np
import pandas as pd

from covseg_lib.data import file_names
from covseg_lib.evaluation import metrics, statistics, surfaces
from covseg_lib.images import geometry, nifti, volumes

SCORES = ["dice", "nsd", "hd95_mm", "error_ml"]


def pair_masks(masks: Path, truth: Path) -> dict[str, tuple[Path, Path]]:
    """Pair predicted and true masks by name: two files, or two folders.

    Returns
    -------
    {case: (predicted, true)}

    Raises
    ------
    FileNotFoundError
        A folder has no NIfTI file.
    ValueError
        One is a file and the other a folder; or masks of a folder have no partner, or two.
    """
    if masks.is_dir() != truth.is_dir():
        raise ValueError(f"{masks} and {truth}: expected two files or two folders")
    if not masks.is_dir():
        return {file_names.case_name(truth): (masks, truth)}
    found, problems = [], []
    for folder in (masks, truth):
        of_folder: dict[str, Path] = {}
        for path in nifti.list_files(folder):
            other = of_folder.setdefault(file_names.case_name(path), path)
            if other != path:
                problems.append(f"{other.name} and {path.name} in {folder} are of one case")
        if not of_folder:
            raise FileNotFoundError(f"{nifti.no_files(folder)}: expected masks")
        found.append(of_folder)
    predicted, true = file_names.match_names(*found)
    problems += [f"no mask for {name}" for name in sorted(true.keys() - predicted.keys())]
    problems += [f"no true mask for {name}" for name in sorted(predicted.keys() - true.keys())]
    if problems:
        raise ValueError(
            f"{masks} and {truth} do not fit together: {'; '.join(problems)}. Expected one file "
            "with the same name in each folder for each case"
        )
    return {name: (predicted[name], true[name]) for name in sorted(true)}


def evaluate_masks(
    pairs: dict[str, tuple[Path, Path]], tolerance_mm: float = surfaces.TOLERANCE_MM
) -> pd.DataFrame:
    """Score masks case by case.

    Parameters
    ----------
    pairs : dict, from `pair_masks`
        NIfTI masks; the labels 1 to 3 are lesion.
    tolerance_mm : float
        Of the NSD.

    Returns
    -------
    DataFrame, index case: patient, dice, nsd and hd95_mm (see `surfaces.surface_scores`), true_ml,
    predicted_ml, error_ml

    Raises
    ------
    ValueError
        One message with all problems: files that are not masks, or of another shape or place than
        the true mask.
    """
    rows, problems = {}, []
    for case, (mask, true) in pairs.items():
        try:
            rows[case] = _score(mask, true, tolerance_mm)
        except ValueError as error:
            problems.append(f"{case}: {error}")
    if problems:
        raise ValueError("; ".join(problems))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("case")


def _score(mask_path, true_path, tolerance_mm):
    """Return the scores of a mask as a dictionary."""
    predicted, header = volumes.read_mask(mask_path)
    true, true_header = volumes.read_mask(true_path, "true mask")
    problem = geometry.mismatch(true_header, header, "predicted mask", of="true mask")
    if problem:
        raise ValueError(problem)
    nsd, hd95 = surfaces.surface_scores(
        true, predicted, geometry.spacing_mm(true_header), tolerance_mm
    )
    true_ml, predicted_ml = (
        np.count_nonzero(array) * geometry.voxel_ml(true_header) for array in (true, predicted)
    )
    return {
        "patient": file_names.patient_name(file_names.case_name(true_path)),
        "dice": metrics.dice(true, predicted),
        "nsd": nsd,
        "hd95_mm": hd95,
        "true_ml": true_ml,
        "predicted_ml": predicted_ml,
        "error_ml": predicted_ml - true_ml,
    }


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of each score over cases, with its 95 % interval over patients.

    HD95 is infinite for a case with one empty mask; its mean is over the other cases.
    """
    finite = table[SCORES].replace(np.inf, np.nan).assign(patient=table["patient"])
    return statistics.mean_scores(finite, SCORES)
