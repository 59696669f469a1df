"""Who is trained on and who is tested on. Two protocols that answer two different questions."""

import numpy as np


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


def patient_split(patients, seed=0, has_lesion=None):
    """Split whole patients: no patient is on two sides, so the scores are those of a new patient.

    About a fifth of the slices for testing and a fifth of the rest for validation, as nearly as whole patients
    allow; where `has_lesion` is given, every side has slices with lesions.

    Parameters
    ----------
    patients : (n,) sequence of str
        The patient of each slice, three different ones at least.
    seed : int
    has_lesion : (n,) sequence of bool, optional

    Returns
    -------
    (n,) array of str, each "train", "validation" or "test"

    Raises
    ------
    ValueError
        Fewer than three patients, or than three with lesions.
    """
    patients = np.asarray(patients)
    lesions = np.ones(len(patients), bool) if has_lesion is None else np.asarray(has_lesion, bool)
    if len(np.unique(patients)) < 3:
        raise ValueError(
            f"a patient split needs three patients at least, found {len(np.unique(patients))}: "
            'add volumes of other patients, or use SPLIT = "slice" and read what it means'
        )
    if len(np.unique(patients[lesions])) < 3:
        raise ValueError("fewer than three patients have lesions: train, validation and test each need one")
    rest, test = _hold_out(np.arange(len(patients)), patients, lesions, seed, leave=2)
    _, validation = _hold_out(rest, patients, lesions, seed, leave=1)
    return _named(len(patients), validation, test)


def split(table, protocol, seed=0):
    """Split a table of slices (columns patient, lesion_pixels) by "slice" or "patient"; ValueError for another."""
    if protocol == "slice":
        return slice_split(len(table), seed)
    if protocol == "patient":
        return patient_split(table["patient"], seed, table["lesion_pixels"] > 0)
    raise ValueError(f'no split {protocol!r}: expected "slice" (the report\'s) or "patient"')


def _draw(rows, count, seed):
    """Return `rows` without `count` of them, and those, drawn as scikit-learn's train_test_split draws them.

    (Importing scikit-learn takes half a second, as long as all the rest of notebook 02.)
    """
    shuffled = rows[np.random.RandomState(seed).permutation(len(rows))]
    return shuffled[count:], shuffled[:count]


def _hold_out(rows, patients, lesions, seed, leave):
    """Return `rows` without a fifth of them, and that fifth: whole patients, with lesions in it.

    At least `leave` patients with lesions stay among the others.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    folds = StratifiedGroupKFold(min(5, len(np.unique(patients[rows]))), shuffle=True, random_state=seed)
    for kept, held_out in folds.split(rows, lesions[rows], patients[rows]):
        left = np.unique(patients[rows[kept]][lesions[rows[kept]]])
        if lesions[rows[held_out]].any() and len(left) >= leave:
            return rows[kept], rows[held_out]
    raise ValueError("no split into whole patients gives every side lesions: try another seed, or add patients")


def _named(n, validation, test):
    names = np.full(n, "train", dtype="U10")
    names[validation] = "validation"
    names[test] = "test"
    return names
