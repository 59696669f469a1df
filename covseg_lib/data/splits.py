"""Two protocols that split slices into training, validation and test set: by slice, by patient.

They answer two different questions: how well a network segments further slices of patients that
it knows, and how well it segments a new patient.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from covseg_lib.data import benchmark


class TooFewPatientsError(ValueError):
    """There are too few patients with lesions for a patient split."""


def slice_split(n: int, seed: int = 0) -> np.ndarray:
    """Split shuffled slices as the report does: 10 % for the test, then 20 % for validation.

    The slices of a patient are in all subsets: the neighbour of a test slice, a millimetre away,
    is a training slice. The scores are therefore no estimate for a new patient.

    Parameters
    ----------
    n : int
        Number of slices, at least 10.
    seed : int

    Returns
    -------
    (n,) array of str, each "train", "validation" or "test"

    Raises
    ------
    ValueError
        Fewer than 10 slices.

    Notes
    -----
    Report, section 2.5. The test set is int(0.1 n); Keras' validation_split keeps int(0.8 m) of the
    other m for training. Of 661 slices these are 66, 119 and 476 (the report prints 61, 119 and
    467, which do not add up).

    Examples
    --------
    >>> names, counts = np.unique(slice_split(661), return_counts=True)
    >>> dict(zip(names.tolist(), counts.tolist()))
    {'test': 66, 'train': 476, 'validation': 119}
    """
    if n < 10:
        raise ValueError(
            f"{n} slices cannot be split into train, validation and test: expected at least 10"
        )
    rest, test = _draw(np.arange(n), int(0.1 * n), seed)
    _, validation = _draw(rest, len(rest) - int(0.8 * len(rest)), seed)
    return _named(n, validation, test)


def patient_folds(
    patients: Sequence[str] | np.ndarray | pd.Series,
    seed: int = 0,
    has_lesion: Sequence[bool] | np.ndarray | pd.Series | None = None,
    folds: int = 5,
) -> np.ndarray:
    """Assign whole patients to folds for cross-validation: each fold is the test set once.

    Parameters
    ----------
    patients : (n,) sequence of str
        The patient of each slice.
    seed : int
    has_lesion : (n,) sequence of bool, optional
        Whether each slice has a lesion. Every fold gets slices with lesions.
    folds : int
        At least 3. With fewer patients with lesions than folds, there are fewer folds.

    Returns
    -------
    (n,) int array, the fold of each slice, counted from 0

    Raises
    ------
    TooFewPatientsError
        Fewer than three patients with lesions: train, validation and test each need one.

    Notes
    -----
    Patients are shuffled here, as StratifiedGroupKFold(shuffle=True) of newer scikit-learn releases
    does it: the release on Colab, 1.6, would ignore lesions when it shuffles.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    patients = np.asarray(patients)
    lesions = np.ones(len(patients), bool) if has_lesion is None else np.asarray(has_lesion, bool)
    of_lesion_patient = np.isin(patients, patients[lesions])
    found = len(np.unique(patients[of_lesion_patient]))
    count = min(folds, found)
    if count < 3:
        raise TooFewPatientsError(
            f"a patient split needs at least three patients with lesions, found {found}: add "
            'volumes of other patients, or use SPLIT = "slice" and read what it means'
        )
    names, patient = np.unique(patients, return_inverse=True)
    turns = np.argsort(np.random.RandomState(seed).permutation(len(names)))
    splitter = StratifiedGroupKFold(count).split(patients, of_lesion_patient, turns[patient])
    fold = np.empty(len(patients), int)
    for number, (_, rows) in enumerate(splitter):
        fold[rows] = number
    return fold


def subsets_of_fold(folds: Sequence[int] | np.ndarray | pd.Series, fold: int = 0) -> np.ndarray:
    """Return each slice's subset if one fold is the test set: the next one is for validation.

    Parameters
    ----------
    folds : (n,) int array
        The fold of each slice, as from `patient_folds`.
    fold : int
        The test set.

    Returns
    -------
    (n,) array of str, each "train", "validation" or "test"

    Examples
    --------
    >>> subsets_of_fold([0, 0, 1, 2, 3], fold=3).tolist()
    ['validation', 'validation', 'train', 'train', 'test']
    """
    folds = np.asarray(folds)
    count = folds.max() + 1
    check_fold("patient", fold, count)
    return _named(len(folds), folds == (fold + 1) % count, folds == fold)


def add_splits(table: pd.DataFrame, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Return a table of slices with both splits added: columns slice_split and patient_fold.

    The table has the columns patient and lesion_pixels. With too few patients for a patient split,
    patient_fold is -1. Raises ValueError for fewer than 3 folds or 10 slices.
    """
    if folds < 3:
        raise ValueError(
            f"FOLDS is {folds}: expected at least 3, one each for train, validation and test"
        )
    try:
        fold = patient_folds(table["patient"], seed, table["lesion_pixels"] > 0, folds)
    except TooFewPatientsError:
        fold = np.full(len(table), -1)
    return table.assign(slice_split=slice_split(len(table), seed), patient_fold=fold)


def all_subsets(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return {split: each slice's subset, (n,) str} for the splits that a table of slices has."""
    possible = ["slice", "patient"] if (table["patient_fold"] >= 0).all() else ["slice"]
    return {split: subsets(table, split) for split in possible}


def subsets(table: pd.DataFrame, split: str, fold: int = 0) -> np.ndarray:
    """Return each slice's subset, (n,) array of str.

    Parameters
    ----------
    table : DataFrame
        As slices.csv, see `add_splits`.
    split : "slice", "patient", "all", or one of `benchmark.SPLITS`
        "all" has no test set: the first fold of patients is for validation, the others for
        training.
    fold : int
        The fold that is the test set. The splits "slice" and "all" have only fold 0.

    Raises
    ------
    ValueError
        An unknown split or fold; a patient split with too few patients.
    """
    folds = table["patient_fold"].max() + 1
    if (
        split in ("patient", "all") and not folds
    ):  # raise TooFewPatientsError with the number of patients
        patient_folds(table["patient"], has_lesion=table["lesion_pixels"] > 0)
    check_fold(split, fold, folds)
    if split == "patient":
        return subsets_of_fold(table["patient_fold"], fold)
    if split in benchmark.SPLITS:
        return benchmark.slice_subsets(table, split, fold)
    if split == "all":
        return _named(len(table), table["patient_fold"] == 0, False)
    return table["slice_split"].to_numpy(str)


def subsets_without_lesions(table: pd.DataFrame) -> list[str]:
    """Return a warning for each split and subset that has no slice with a lesion."""
    consequences = {
        "train": "the network cannot learn from it",
        "validation": "it cannot select the best epoch",
        "test": "its scores say nothing about lesions",
    }
    return [
        f"no {name} slice of the {split} split has a lesion: {consequence}. Add cases with "
        "lesions, or set another SEED in this notebook"
        for split, subset in all_subsets(table).items()
        for name, consequence in consequences.items()
        if not (table["lesion_pixels"][subset == name] > 0).any()
    ]


def check_fold(split: str, fold: int, folds: int) -> None:
    """Raise ValueError for an unknown split or fold; the patient split has `folds` folds."""
    counts = {"slice": 1, "patient": folds, "all": min(folds, 1)}
    counts |= dict.fromkeys(benchmark.SPLITS, benchmark.COUNT)
    if split not in counts:
        raise ValueError(
            f'no split {split!r}: expected "slice" (the report\'s), "patient", "all", or '
            f"{', '.join(benchmark.SPLITS)}"
        )
    if not counts[split]:
        raise ValueError(
            "this study has no patient split: it needs at least three patients with lesions"
        )
    if fold not in range(counts[split]):
        last = counts[split] - 1
        raise ValueError(f"no fold {fold!r} of the {split} split: there are folds 0 to {last}")


def _draw(rows, count, seed):
    """Split `rows` in two, with `count` in the second, as scikit-learn's train_test_split does.

    Importing scikit-learn takes half a second, as long as the rest of notebook 02.
    """
    shuffled = rows[np.random.RandomState(seed).permutation(len(rows))]
    return shuffled[count:], shuffled[:count]


def _named(n, validation, test):
    names = np.full(n, "train", dtype="U10")
    names[validation] = "validation"
    names[test] = "test"
    return names
