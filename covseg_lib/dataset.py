"""Finding a data set's cases: which image belongs to which mask, and to which patient."""

import re
from dataclasses import dataclass
from pathlib import Path

IMAGE_FOLDERS = ("CT_scans", "COVID-19-CT-Seg_20cases", "ct_scans", "images")
MASK_FOLDERS = ("Infection_Mask", "Mask_scans", "infection_mask", "masks")
LUNG_FOLDERS = ("Lung_Mask", "lung_mask")


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
        Holds a folder of images (any name of `IMAGE_FOLDERS`), a folder of lesion masks (`MASK_FOLDERS`) and
        perhaps a folder of lung masks (`LUNG_FOLDERS`), all of .nii or .nii.gz files.

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
    images = _files_by_case(_first_folder(folder, IMAGE_FOLDERS))
    masks = _files_by_case(_first_folder(folder, MASK_FOLDERS))
    alone = sorted(set(images) ^ set(masks))
    if alone:
        raise ValueError(
            f"in {folder}: no {'mask' if alone[0] in images else 'image'} for {', '.join(alone)}; "
            "every image needs a mask of the same case name: add the missing file or move the other away"
        )
    lung_folders = [Path(folder, name) for name in LUNG_FOLDERS if Path(folder, name).is_dir()]
    lungs = _files_by_case(lung_folders[0]) if lung_folders else {}
    return [Case(name, patient_of(name), images[name], masks[name], lungs.get(name)) for name in sorted(images)]


def case_of(path):
    """Return a file's case name: without .nii or .nii.gz, and as the Zenodo record spells it.

    >>> case_of("ct_scans/radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm.nii")
    'radiopaedia_10_85902_1'
    """
    name = re.sub(r"\.nii(\.gz)?$", "", Path(path).name)
    return name.replace("_org_", "_").replace("covid-19-pneumonia-", "").removesuffix("-dcm")


def patient_of(case):
    """Return the patient of a case: a case name that ends in two numbers ends in the number of the scan.

    >>> patient_of("radiopaedia_10_85902_1"), patient_of("radiopaedia_10_85902_3"), patient_of("coronacases_001")
    ('radiopaedia_10_85902', 'radiopaedia_10_85902', 'coronacases_001')
    """
    return re.sub(r"(_\d+)_\d+$", r"\1", case)


def _first_folder(folder, names):
    for name in names:
        if Path(folder, name).is_dir():
            return Path(folder, name)
    raise FileNotFoundError(
        f"no folder of {'images' if names is IMAGE_FOLDERS else 'masks'} in {folder}: expected one of "
        f"{', '.join(names)}; put the NIfTI files there (drive_layout.md shows where) or set SOURCE to 'phantom'"
    )


def _files_by_case(folder):
    files = {}
    for path in sorted(path for path in folder.iterdir() if path.name.endswith((".nii", ".nii.gz"))):
        other = files.setdefault(case_of(path), path)
        if other != path:
            raise ValueError(f"two files of case {case_of(path)} in {folder}: {other.name} and {path.name}; keep one")
    if not files:
        raise FileNotFoundError(f"no .nii or .nii.gz file in {folder}: put the data set's files there")
    return files
