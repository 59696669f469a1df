"""What file names and patients.csv say: the case and the patient of a file."""

import contextlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

# what MosMedData, the COVID-19-20 challenge, BIDS and others add to the name of a case
ADDITIONS = re.compile(
    r"([_-](ct|image|img|mask|seg|dseg|label|lesions?|infection|lungs?|lung_mask))+$", re.I
)
CHANNEL = "_0000"  # what nnU-Net adds to the names of all images: the number of the channel
SCANS_OF_PATIENTS = re.compile(r"(radiopaedia_\d+_\d+|phantom_\d+)_\d+")  # patient_scan
KAGGLE_NAMES = {"radiopaedia_29_86490_1": "radiopaedia_30_86490_1"}  # Kaggle's: Zenodo's


def case_name(path: str | Path) -> str:
    """Return a file's case name: without .nii or .nii.gz, and spelled as in the Zenodo record.

    >>> case_name("ct_scans/radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm.nii")
    'radiopaedia_10_85902_1'
    """
    name = re.sub(r"\.nii(\.gz)?$", "", Path(path).name, flags=re.I)
    name = unicodedata.normalize("NFC", name)  # macOS writes é as e and an accent
    name = name.replace("_org_", "_").replace("covid-19-pneumonia-", "").removesuffix("-dcm")
    return KAGGLE_NAMES.get(name, name)


def patient_name(case: str) -> str:
    """Return the patient of a case, as far as the case's name tells.

    Only the names of known data sets are read: the last number of radiopaedia_10_85902_1 and of
    phantom_01_2 is the scan's. Any other case counts as a different patient.

    >>> patient_name("radiopaedia_10_85902_1"), patient_name("covid_19_001")
    ('radiopaedia_10_85902', 'covid_19_001')
    """
    known = SCANS_OF_PATIENTS.fullmatch(case)
    return known.group(1) if known else case


def without_addition(name: str) -> str:
    """Return the name of a case without what other programs add at its end.

    >>> without_addition("study_0255_mask"), without_addition("covid19-A-0000_ct")
    ('study_0255', 'covid19-A-0000')
    """
    return ADDITIONS.sub("", name) or name


def match_names(*folders: dict[str, Path]) -> list[dict[str, Path]]:
    """Let names without a partner lose what other programs add to them, if they stay unique.

    Zeros at the end are nnU-Net's channel only as `_0000`, and only if all names of a folder have
    them; else they are a number.

    Parameters
    ----------
    folders : {case: path} for each folder
        The first two are partners, as images and masks.

    Returns
    -------
    The same files, under the names that fit together

    Examples
    --------
    >>> match_names({"ct_1_0000": "image"}, {"ct_1": "mask"})
    [{'ct_1': 'image'}, {'ct_1': 'mask'}]
    """
    paired = folders[0].keys() & folders[1].keys()
    shorter = [_shorten(paths, paired, without_addition) for paths in folders]
    paired = shorter[0].keys() & shorter[1].keys()
    for number, paths in enumerate(folders):
        if all(name.endswith(CHANNEL) for name in paths):
            shorter[number] = _shorten(shorter[number], paired, _without_channel)
    return shorter


def _without_channel(name):
    return without_addition(name.removesuffix(CHANNEL))


def _shorten(paths, paired, shorten):
    """Return {name: path} with names that are not in `paired` shortened, if they stay unique."""
    shorter = {name: shorten(name) for name in paths if name not in paired}
    counts = Counter(shorter.values())
    taken = {old: new for old, new in shorter.items() if counts[new] == 1 and new not in paths}
    return {taken.get(name, name): path for name, path in paths.items()}


def read_patients(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return {case: patient} of the folder's patients.csv; {} if there is no such file.

    Raises ValueError for rows of cases that are not among `names`, or of a case with two patients.
    """
    path = folder / "patients.csv"
    if not path.exists():
        return {}
    table = _read_table(path)
    if not {"case", "patient"} <= set(table.columns):
        raise ValueError(
            f"{path} has the columns {', '.join(table.columns)}: expected case and patient, with "
            "commas or semicolons between"
        )
    table = table[["case", "patient"]].apply(lambda column: column.str.strip())
    table["case"] = table["case"].map(case_name)
    table = table[table["patient"] != ""].drop_duplicates()
    unknown = sorted(set(table["case"]) - set(names))
    if unknown:
        raise ValueError(
            f"{path} lists cases that do not exist: {', '.join(unknown)}. The cases are "
            f"{', '.join(sorted(names))}: write the names exactly so, or remove these rows"
        )
    twice = sorted(table.loc[table["case"].duplicated(), "case"].unique())
    if twice:
        raise ValueError(f"{path} gives two patients for {', '.join(twice)}: keep one row each")
    return dict(zip(table["case"], table["patient"], strict=True))


def _read_table(path):
    """Return patients.csv as text, as Excel may have saved it: in UTF-8, UTF-16 or Windows-1252."""
    data = path.read_bytes()
    encodings = ["utf-16"] if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ["utf-8-sig", "cp1252"]
    for encoding in encodings:
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(encoding)
            break
    separator = max(",;\t", key=text.split("\n")[0].count)
    try:
        table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except ValueError as error:  # EmptyDataError and ParserError are ValueErrors
        raise ValueError(f"{path} cannot be read as a table ({error})") from error
    return table.rename(columns=lambda name: name.strip().lower())
