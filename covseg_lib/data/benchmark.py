"""The data authors' benchmark: five folds of the 20 volumes of the Zenodo record.

Ma et al. (2021) train on the 4 volumes of a fold and test on the other 16, or the reverse, five
times. Their folds separate two scans of one patient: radiopaedia_10_85902_1 is in fold 2, and
radiopaedia_10_85902_3 in fold 4. The corrected folds have both in fold 2, and move
radiopaedia_29_86491_1 to fold 4, so that each fold still has four volumes.

"A Deep-Learning Based COVID-19 Lung and Infection Segmentation Dataset", Medical Physics 48(3).
"""

from pathlib import Path

import numpy as np
import pandas as pd

from covseg_lib import files
from covseg_lib.data.file_names import case_name

FOLDS = Path(__file__).with_name("benchmark_folds.csv")
CORRECTED = {"radiopaedia_10_85902_3": 2, "radiopaedia_29_86491_1": 4}
# split: whether the folds are corrected, and whether a fold is the training set or the test set
SPLITS = {
    "benchmark_4_16": (False, "train"),
    "benchmark_16_4": (False, "test"),
    "corrected_4_16": (True, "train"),
    "corrected_16_4": (True, "test"),
}
COUNT = 5


def case_folds(corrected: bool = False) -> dict[str, int]:
    """Return {case: fold} of the 20 volumes; `corrected` keeps the scans of a patient together."""
    table = files.read_csv(FOLDS)
    folds = dict(zip(table["case"].map(case_name), table["fold"].astype(int), strict=True))
    return folds | CORRECTED if corrected else folds


def slice_subsets(table: pd.DataFrame, split: str, fold: int) -> np.ndarray:
    """Return each slice's subset, (n,) array of str, as `splits.subsets` does.

    In training and validation together are the 4 (or 16) volumes; validation is the last quarter of
    them by name. To train on all of them, as the authors do, a recipe has `selection` "none".

    Raises
    ------
    ValueError
        The study does not have the 20 volumes, or has others.
    """
    corrected, role = SPLITS[split]
    folds, found = case_folds(corrected), set(table["case"])
    if found != folds.keys():
        missing, others = sorted(folds.keys() - found), sorted(found - folds.keys())
        raise ValueError(
            f"the {split} split is of the 20 volumes of the Zenodo record: missing "
            f"{', '.join(missing) or 'none'}, unknown {', '.join(others) or 'none'}; set CASES to "
            '"all" in notebook 01, with the whole record'
        )
    of_fold = table["case"].map(folds) == fold
    trained = of_fold if role == "train" else ~of_fold
    names = sorted(table["case"][trained].unique())
    validation = table["case"].isin(names[-(len(names) // 4) :])
    return np.select([~trained, validation], ["test", "validation"], "train")
