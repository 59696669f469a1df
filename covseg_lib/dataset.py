"""Finding a data set's cases: which image belongs to which mask, and to which patient."""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from covseg_lib import nifti, storage

FOLDERS = {  # names that owners give to folders: Zenodo and the report, Kaggle, MedSeg, anybody
    "image": ("CT_scans", "COVID-19-CT-Seg_20cases", "ct_scans", "rp_im", "images", "imagesTr"),
    "mask": ("Infection_Mask", "Mask_scans", "infection_mask", "rp_msk", "masks", "labels", "labelsTr"),
    "lungs": ("Lung_Mask", "lung_mask", "rp_lung_msk", "lungs"),
}
SCANS_OF_PATIENTS = re.compile(r"(radiopaedia_\d+_\d+|phantom_\d+)_\d+")  # a patient's name, then the scan's number
KAGGLE_NAMES = {"radiopaedia_29_86490_1": "radiopaedia_30_86490_1"}  # one volume of the Zenodo record, renamed there

REPORT_CASES = (  # 418 + 93 + 66 + 42 + 42 = the report's 661 slices
    "radiopaedia_10_85902_3",
    "radiopaedia_27_86410_0",
    "radiopaedia_29_86491_1",
    "radiopaedia_30_86490_1",
    "radiopaedia_40_86625_0",
)


@dataclass(frozen=True)
class Case:
    """One CT volume with its lesion mask, and where there is one its lung mask (paths of NIfTI files)."""

    name: str
    patient: str
    image: Path
    mask: Path
    lungs: Path | None = None


def find_cases(folder):
    """Pair the images and masks of a data set by case name.

    Parameters
    ----------
    folder : path
        Holds a folder of images and one of lesion masks (any name in `FOLDERS`, or two folders of which one is
        named after masks, labels or segmentations), perhaps one of lung masks, all of .nii or .nii.gz files; and
        perhaps patients.csv with columns case and patient, which overrides what the names say.

    Returns
    -------
    list of Case, sorted by name

    Raises
    ------
    FileNotFoundError
        A folder is missing or holds no NIfTI file.
    ValueError
        An image has no mask or a mask no image, or two files are of one case.
    """
    cases, left_over = pair(folder)
    if left_over:
        raise ValueError(f"in {folder}: {'; '.join(left_over.values())}")
    return cases


def pair(folder, wanted="all"):
    """Pair as `find_cases`, and return what could not be paired beside the cases: {case: why}.

    `wanted` is "all", "report" (the five cases that make its 661 slices) or a list of case names; ValueError names
    those that are not there.
    """
    folder = Path(folder)
    left_over = {}
    files = {what: _files_by_case(place, left_over) for what, place in _folders(folder).items()}
    for name in sorted((set(files["image"]) ^ set(files["mask"])) - set(left_over)):
        has, lacks = ("image", "mask") if name in files["image"] else ("mask", "image")
        left_over[name] = f"no {lacks} for {has} {files[has][name].name}: add it or move the {has} away"
    names = _wanted(wanted, sorted(set(files["image"]) | set(files["mask"])))
    patients = _patients(folder)
    cases = [
        Case(n, patients.get(n, patient_of(n)), files["image"][n], files["mask"][n], files["lungs"].get(n))
        for n in names
        if n not in left_over
    ]
    return cases, {name: why for name, why in left_over.items() if name in names}


def pairing(cases, left_over):
    """Return what `pair` found as a table: case, patient, image, mask, lungs, and why a case is left over."""
    rows = [(c.name, c.patient, c.image.name, c.mask.name, c.lungs.name if c.lungs else "", "") for c in cases]
    rows += [(name, "", "", "", "", why) for name, why in sorted(left_over.items())]
    return pd.DataFrame(rows, columns=["case", "patient", "image", "mask", "lungs", "left_over"])


def case_of(path):
    """Return a file's case name: without .nii or .nii.gz, and as the Zenodo record spells it.

    >>> case_of("ct_scans/radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm.nii")
    'radiopaedia_10_85902_1'
    """
    name = re.sub(r"\.nii(\.gz)?$", "", Path(path).name)
    name = name.replace("_org_", "_").replace("covid-19-pneumonia-", "").removesuffix("-dcm")
    return KAGGLE_NAMES.get(name, name)


def patient_of(case):
    """Return the patient of a case, as far as its name says it.

    Only names of data sets that we know are read: the second number of radiopaedia_10_85902_1 and of phantom_01_2 is
    the scan's. Any other case is a patient of its own, unless patients.csv says otherwise.

    >>> patient_of("radiopaedia_10_85902_1"), patient_of("radiopaedia_10_85902_3"), patient_of("covid_19_001")
    ('radiopaedia_10_85902', 'radiopaedia_10_85902', 'covid_19_001')
    """
    known = SCANS_OF_PATIENTS.fullmatch(case)
    return known.group(1) if known else case


def patients_hint(cases):
    """Return a sentence on cases whose names suggest one patient and that count as several; "" if there are none."""
    alike = {}
    for case in cases:
        if case.patient == case.name and re.fullmatch(r".*\d.*[_-]\d+", case.name):
            alike.setdefault(re.sub(r"[_-]\d+$", "", case.name), []).append(case.name)
    several = [names for names in alike.values() if len(names) > 1]
    if not several:
        return ""
    return (
        f"{sum(map(len, several))} cases count as patients of their own although their names differ in the last number "
        f"only, such as {several[0][0]} and {several[0][1]}. If some are scans of one patient, say so in a file "
        "patients.csv beside the folders, with the columns case and patient"
    )


def find_image(study, case):
    """Return the file of a sliced case's volume: where it was sliced, or in the data set's folder; None if it is gone.

    A study that was copied to another machine may have been copied without its volumes.
    """
    cases = storage.read_csv(study.need("cases"), "case")
    sliced_from = Path(cases.loc[case, "image"])
    if sliced_from.exists():
        return sliced_from
    folder = _folders_there(study.dataset())["image"]
    return _files_by_case(folder, {}).get(case) if folder else None


def missing_volumes(study):
    """Return the names of the sliced cases whose volumes are not found, as `find_image` looks for them."""
    return [case for case in storage.read_csv(study.need("cases"))["case"] if not find_image(study, case)]


def _wanted(wanted, there):
    """Return the case names wanted; ValueError for those that are not among those `there`."""
    if isinstance(wanted, str) and wanted not in ("all", "report"):
        raise ValueError(f'CASES is {wanted!r}: expected "report", "all" or a list of case names')
    names = there if wanted == "all" else REPORT_CASES if wanted == "report" else list(wanted)
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(
            f'no case {", ".join(missing)}: there are {", ".join(there)}; name some, or set CASES to "all"'
        )
    return names


def _folders(folder):
    """Return {"image", "mask", "lungs": folder}; lungs may be None, FileNotFoundError where one of the others is."""
    found = _folders_there(folder)
    for what in ("image", "mask"):
        if not found[what]:
            there = ", ".join(sorted(_subfolders(folder))) or "no folder"
            raise FileNotFoundError(
                f"no folder of {what}s in {folder}: expected one of {', '.join(FOLDERS[what])}, found {there}; put the "
                "NIfTI files there (drive_layout.md shows where), set DATASET to another folder, or SOURCE to 'phantom'"
            )
    return found


def _folders_there(folder):
    """Return {"image", "mask", "lungs": folder}, None for what is not there."""
    there = _subfolders(folder)
    found = {what: next((there[name] for name in names if name in there), None) for what, names in FOLDERS.items()}
    if not found["image"] and not found["mask"] and len(there) == 2:
        masks = [path for name, path in there.items() if re.search("mask|label|seg|lesion", name, re.I)]
        images = [path for path in there.values() if path not in masks]
        if len(masks) == 1:
            found |= {"image": images[0], "mask": masks[0]}
    return found


def _subfolders(folder):
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name: path for path in there if path.is_dir() and not path.name.startswith(".")}


def _files_by_case(folder, left_over):
    """Return {case: file} of a folder; cases of which there are two files go to `left_over` instead."""
    files = {}
    for path in nifti.files(folder) if folder else []:
        other = files.setdefault(case_of(path), path)
        if other != path:
            left_over[case_of(path)] = f"two files in {folder.name}: {other.name} and {path.name}; keep one"
    if folder and not files:
        raise FileNotFoundError(f"no .nii or .nii.gz file in {folder}: put the data set's files there")
    return files


def _patients(folder):
    """Return {case: patient} of the folder's patients.csv, if there is one."""
    path = folder / "patients.csv"
    if not path.exists():
        return {}
    table = storage.read_csv(path)
    if not {"case", "patient"} <= set(table.columns):
        raise ValueError(f"{path} has the columns {', '.join(table.columns)}: expected case and patient")
    table = table[table["patient"] != ""]
    return dict(zip(table["case"].map(case_of), table["patient"], strict=True))
