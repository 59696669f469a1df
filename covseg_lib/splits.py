"""Who is trained on and who is tested on. Two protocols that answer two different questions."""

import numpy as np


class TooFewPatientsError(ValueError):
    """There are too few patients with lesions for a patient split."""


def slice_split(n, seed=0):
    """Split shuffled slices as the report does: 10 % for testing, then 20 % of the rest for validation.

    Slices of one patient fall on all sides: a test slice's neighbour, a millimetre away, is trained on. The
    scores tell how well the network fills in slices of patients it knows; they say nothing about a new patient.

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
    Report, section 2.5. The test set is int(0.1 n); Keras' validation_split keeps int(0.8 m) of the other m for
    training. Of 661 slices these are 66, 119 and 476 (the report prints 61, 119 and 467, which do not add up).

    Examples
    --------
    >>> {str(name): int(count) for name, count in zip(*np.unique(slice_split(661), return_counts=True))}
    {'test': 66, 'train': 476, 'validation': 119}
    """
    if n < 10:
        raise ValueError(f"{n} slices cannot be split into train, validation and test: expected at least 10")
    rest, test = _draw(np.arange(n), int(0.1 * n), seed)
    _, validation = _draw(rest, len(rest) - int(0.8 * len(rest)), seed)
    return _named(n, validation, test)


def patient_folds(patients, seed=0, has_lesion=None, folds=5):
    """Deal whole patients into folds for cross-validation: each fold is tested on once, by a network without it.

    Parameters
    ----------
    patients : (n,) sequence of str
        The patient of each slice.
    seed : int
    has_lesion : (n,) sequence of bool, optional
        Every fold gets slices with lesions.
    folds : int
        3 or more; fewer are made where there are fewer patients with lesions.

    Returns
    -------
    (n,) int array, the fold of each slice, from 0 on

    Raises
    ------
    TooFewPatientsError
        Fewer than three patients with lesions: train, validation and test each need one.

    Notes
    -----
    Patients are shuffled here, as StratifiedGroupKFold(shuffle=True) of newer releases does it: on Colab's scikit-learn
    1.6 that draws folds without regard to lesions.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    patients = np.asarray(patients)
    lesions = np.ones(len(patients), bool) if has_lesion is None else np.asarray(has_lesion, bool)
    ill = np.isin(patients, patients[lesions])
    count = min(folds, len(np.unique(patients[ill])))
    if count < 3:
        raise TooFewPatientsError(
            f"a patient split needs three patients with lesions at least, found {len(np.unique(patients[ill]))}: add "
            'volumes of other patients, or use SPLIT = "slice" and read what it means'
        )
    names, patient = np.unique(patients, return_inverse=True)
    drawn = np.argsort(np.random.RandomState(seed).permutation(len(names)))[patient]  # each slice's patient's turn
    fold = np.empty(len(patients), int)
    for number, (_, dealt) in enumerate(StratifiedGroupKFold(count).split(patients, ill, drawn)):
        fold[dealt] = number
    return fold


def sides_of_fold(folds, fold=0):
    """Return who is on which side when one fold is tested on: the next fold validates, all others train.

    Parameters
    ----------
    folds : (n,) int array, as `patient_folds` gives it
    fold : int

    Returns
    -------
    (n,) array of str, each "train", "validation" or "test"

    Examples
    --------
    >>> sides_of_fold([0, 0, 1, 2, 3], fold=3).tolist()
    ['validation', 'validation', 'train', 'train', 'test']
    """
    folds = np.asarray(folds)
    count = folds.max() + 1
    check("patient", fold, count)
    return _named(len(folds), folds == (fold + 1) % count, folds == fold)


def patient_split(patients, seed=0, has_lesion=None):
    """Split whole patients: no patient is on two sides, so the scores are those of a new patient.

    About a fifth of the patients for testing and a fifth for validation: fold 0 of `patient_folds`, which says more.

    Returns
    -------
    (n,) array of str, each "train", "validation" or "test"
    """
    return sides_of_fold(patient_folds(patients, seed, has_lesion))


def add_to(table, folds=5, seed=0):
    """Return a table of slices (columns patient, lesion_pixels) with both splits in it: slice_split, patient_fold.

    Where there are too few patients to split them, patient_fold is -1.
    """
    if folds < 3:
        raise ValueError(f"FOLDS is {folds}: expected 3 or more, for train, validation and test each need one")
    try:
        fold = patient_folds(table["patient"], seed, table["lesion_pixels"] > 0, folds)
    except TooFewPatientsError:
        fold = -1
    return table.assign(slice_split=slice_split(len(table), seed), patient_fold=fold)


def all_sides(table):
    """Return the sides of the splits that a table of slices can have: {"slice": (n,) str, "patient": the same}."""
    possible = ["slice", "patient"] if (table["patient_fold"] >= 0).all() else ["slice"]
    return {split: sides(table, split) for split in possible}


def sides(table, split, fold=0):
    """Return the side of each slice in a table as slices.csv, (n,) array of str.

    `split` is "slice" (then there is fold 0 only) or "patient"; ValueError for another, and for a fold that is not
    there.
    """
    folds = table["patient_fold"].max() + 1
    if split == "patient" and not folds:
        patient_folds(table["patient"], has_lesion=table["lesion_pixels"] > 0)  # says how many patients it found
    check(split, fold, folds)
    return sides_of_fold(table["patient_fold"], fold) if split == "patient" else table["slice_split"].to_numpy(str)


def without_lesion(table):
    """Return a sentence for each split and side that has no slice with a lesion: a list of str."""
    found = []
    for split, side in all_sides(table).items():
        for name in ("train", "validation", "test"):
            if not (table["lesion_pixels"][side == name] > 0).any():
                consequence = {
                    "train": "nothing can be learned from it",
                    "validation": "no epoch can be chosen by it",
                    "test": "its scores say nothing about lesions",
                }[name]
                found.append(
                    f"no {name} slice of the {split} split has a lesion: {consequence}. Add cases with lesions, or set "
                    "another SEED in this notebook"
                )
    return found


def check(split, fold, folds):
    """Raise ValueError for a split that does not exist, or a fold that it has not; the patient split has `folds`."""
    if split not in ("slice", "patient"):
        raise ValueError(f'no split {split!r}: expected "slice" (the report\'s) or "patient"')
    count = folds if split == "patient" else 1  # shuffled slices are split once
    if not count:
        raise ValueError("no patient split of this study: it needs three patients with lesions at least")
    if fold not in range(count):
        raise ValueError(f"no fold {fold!r} of the {split} split: there are folds 0 to {count - 1}")


def _draw(rows, count, seed):
    """Return `rows` without `count` of them, and those, drawn as scikit-learn's train_test_split draws them.

    (Importing scikit-learn takes half a second, as long as all the rest of notebook 02.)
    """
    shuffled = rows[np.random.RandomState(seed).permutation(len(rows))]
    return shuffled[count:], shuffled[:count]


def _named(n, validation, test):
    names = np.full(n, "train", dtype="U10")
    names[validation] = "validation"
    names[test] = "test"
    return names
