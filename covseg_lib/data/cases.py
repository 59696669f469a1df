"""The cases of a data set: which image belongs to which mask, and to which patient."""

import re
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

import pandas as pd

from covseg_lib import files
from covseg_lib.data import file_names, sources
from covseg_lib.data.pairs import Case
from covseg_lib.images import nifti
from covseg_lib.study import Study

FOLDERS = {  # folder names of the Zenodo record, the report, Kaggle, MedSeg and other data sets
    "image": ("CT_scans", "COVID-19-CT-Seg_20cases", "ct_scans", "rp_im", "images", "imagesTr"),
    "mask": (
        *("Infection_Mask", "Mask_scans", "infection_mask", "rp_msk"),
        *("masks", "labels", "labelsTr"),
    ),
    "lungs": ("Lung_Mask", "lung_mask", "rp_lung_msk", "lungs"),
}

REPORT_CASES = (  # 418 + 93 + 66 + 42 + 42 = the report's 661 slices
    "radiopaedia_10_85902_3",
    "radiopaedia_27_86410_0",
    "radiopaedia_29_86491_1",
    "radiopaedia_30_86490_1",
    "radiopaedia_40_86625_0",
)


def pair_files(
    folder: Path, wanted: str | Sequence[str] = "all"
) -> tuple[list[Case], dict[str, str]]:
    """Pair the images and masks of a data set by case name.

    Parameters
    ----------
    folder : path
        Holds a folder of images and a folder of lesion masks, and optionally a folder of lung
        masks, all of .nii or .nii.gz files. The names are those in `FOLDERS`; two folders with
        other names work too if one of them is named after masks, labels or segmentations.
        An optional file patients.csv (columns case, patient) overrides `file_names.patient_name`.
    wanted : "all", "report" or list of str
        "report" means the five cases with the report's 661 slices; a list holds case names.

    Returns
    -------
    list of Case; {case: reason} of the cases that could not be paired

    Raises
    ------
    FileNotFoundError
        A folder is missing or has no NIfTI file.
    ValueError
        A wanted case does not exist, or patients.csv has other columns.
    """
    folder = Path(folder)
    left_over: dict[str, str] = {}
    found = {what: _files_by_case(place, left_over) for what, place in _folders(folder).items()}
    images, masks, lungs = file_names.match_names(*found.values())
    for name in sorted((set(images) ^ set(masks)) - set(left_over)):
        has, lacks = ("image", "mask") if name in images else ("mask", "image")
        file = (images if name in images else masks)[name].name
        left_over[name] = f"no {lacks} for {has} {file}: add it or move the {has} away"
    names = _select(wanted, sorted(set(images) | set(masks)))
    patients = file_names.read_patients(folder, set(images) | set(masks))
    cases = [
        Case(n, patients.get(n, file_names.patient_name(n)), images[n], masks[n], lungs.get(n))
        for n in names
        if n not in left_over
    ]
    return cases, {name: reason for name, reason in left_over.items() if name in names}


def pairing_table(cases: Sequence[Case], left_over: dict[str, str]) -> pd.DataFrame:
    """Return the result of `pair_files` as a table, one row a case.

    The columns are case, patient, image, mask, lungs (file names) and left_over (the reason).
    """
    rows = [
        (c.name, c.patient, c.image.name, c.mask.name, c.lungs.name if c.lungs else "", "")
        for c in cases
    ]
    rows += [(name, "", "", "", "", reason) for name, reason in sorted(left_over.items())]
    return pd.DataFrame(rows, columns=["case", "patient", "image", "mask", "lungs", "left_over"])


def same_patient_hint(cases: Sequence[Case]) -> str:
    """Return a warning if cases count as different patients but may be of one; "" otherwise."""
    similar: dict[str, list[str]] = {}
    for case in cases:
        if case.patient == case.name and re.fullmatch(r".*\d.*[_-]\d+", case.name):
            similar.setdefault(re.sub(r"[_-]\d+$", "", case.name), []).append(case.name)
    groups = [names for names in similar.values() if len(names) > 1]
    if not groups:
        return ""
    return (
        f"{sum(map(len, groups))} cases count as different patients although their names differ "
        f"only in the last number, such as {groups[0][0]} and {groups[0][1]}. If some are scans "
        "of the same patient, list them in a file patients.csv beside the folders, with the "
        "columns case and patient"
    )


def find_image(study: Study, case: str) -> Path:
    """Return the CT volume of a sliced case, as `find_images` does.

    Raises FileNotFoundError, which says where it was, if it is not found.
    """
    found, not_found = find_images(study, [case])
    if not_found:
        raise FileNotFoundError(
            f"volumes not found: {not_found}, or set SCANS to a folder of scans"
        )
    return found[case]


def find_images(study: Study, names: Sequence[str] = ()) -> tuple[dict[str, Path], str]:
    """Find the CT volumes of sliced cases, also on a machine that did not slice them.

    A volume is searched for where it was when it was sliced, then by its name in the data set that
    the study was made from. If that is gone, it is drawn or fetched again.

    Parameters
    ----------
    study : Study
    names : sequence of str
        The cases. Default: all.

    Returns
    -------
    {case: its volume}; a text that says which cases are not found and why, "" if all are found
    """
    listed = files.read_csv(study.need("cases"), "case")["image"]
    sliced = {name: listed[name] for name in names or listed.index}
    found = {name: Path(image) for name, image in sliced.items() if Path(image).exists()}
    if len(found) == len(sliced):
        return found, ""
    before = {name: PureWindowsPath(image) for name, image in sliced.items()}  # reads any path
    places, why = _places(study)
    for place in places:
        images = _images_in(place, {path.parent.name for path in before.values()})
        for name, path in before.items():
            image = images.get(file_names.case_name(path.name))
            if image:
                found.setdefault(name, image)
    missing = [name for name in sliced if name not in found]
    if not missing:
        return found, ""
    folders = sorted({str(Path(sliced[name]).parent) for name in missing})
    return found, (
        f"{', '.join(missing)}. They were in {', '.join(folders)} when they were sliced, and "
        f"{why}. Run notebook 01 again, with DATASET if they lie in a folder of yours"
    )


def _places(study):
    """Return the folders in which a study's volumes may be, and why they are not found elsewhere.

    The volumes are drawn or fetched if necessary.
    """
    settings = study.settings()
    source = settings["source"]
    if source == "folder":
        places = list(dict.fromkeys([study.dataset(settings), study.path("dataset")]))
    else:
        try:
            places = [sources.prepare_volumes(study, settings)]
        except Exception as error:  # pooch, requests and zipfile have errors of their own
            why = f"the source {source!r} cannot give them again"
            return [], f"{why} ({type(error).__name__}: {error})"
    return places, f"are not in {' or '.join(map(str, places))}"


def _images_in(place, names):
    """Return {case: image} of a data set's folder of images, or else of its folders `names`."""
    known = _existing_folders(place)["image"]
    folders = [known] if known else [place / name for name in names]
    images = {}
    for folder in filter(Path.is_dir, folders):
        for path in nifti.list_files(folder):
            images[file_names.case_name(path)] = path
    return images


def _select(wanted, existing):
    """Return the wanted case names; ValueError for those that are not in `existing`."""
    if isinstance(wanted, str) and wanted not in ("all", "report"):
        raise ValueError(f'CASES is {wanted!r}: expected "report", "all" or a list of case names')
    names = existing if wanted == "all" else REPORT_CASES if wanted == "report" else list(wanted)
    missing = [name for name in names if name not in existing]
    if missing:
        raise ValueError(
            f"no case {', '.join(missing)}: there are {', '.join(existing)}; choose among these, "
            'or set CASES to "all"'
        )
    return names


def _folders(folder):
    """Return what `_existing_folders` does; FileNotFoundError without images or masks."""
    found = _existing_folders(folder)
    for what in ("image", "mask"):
        if not found[what]:
            names = ", ".join(sorted(_subfolders(folder))) or "no folder"
            raise FileNotFoundError(
                f"no folder of {what}s in {folder}: expected one of {', '.join(FOLDERS[what])}, "
                f"found {names}; put the NIfTI files there (drive_layout.md shows where), "
                "set DATASET to another folder, or SOURCE to 'phantom'"
            )
    return found


def _existing_folders(folder):
    """Return {"image": folder, "mask": folder, "lungs": folder}, None for a missing folder."""
    existing = _subfolders(folder)
    found = {
        what: next((existing[name] for name in names if name in existing), None)
        for what, names in FOLDERS.items()
    }
    if not found["image"] and not found["mask"] and len(existing) == 2:
        masks = [name for name in existing if re.search("mask|label|seg|lesion", name, re.I)]
        if len(masks) == 1:
            found["mask"] = existing.pop(masks[0])
            (found["image"],) = existing.values()
    return found


def _subfolders(folder):
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name: path for path in paths if path.is_dir() and not path.name.startswith(".")}


def _files_by_case(folder, left_over):
    """Return {case: file} of a folder, and add cases with two files to `left_over`."""
    paths = {}
    for path in nifti.list_files(folder) if folder else []:
        name = file_names.case_name(path)
        other = paths.setdefault(name, path)
        if other != path:
            left_over[name] = f"two files in {folder.name}: {other.name} and {path.name}; keep one"
    if folder and not paths:
        raise FileNotFoundError(f"{nifti.no_files(folder)}: put the data set's files there")
    return paths
