import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from covseg_lib.data import splits
from covseg_lib.data.splits import patient_folds, slice_split, subsets_of_fold


def patient_split(patients, seed=0, has_lesion=None):
    """Return each slice's subset in the patient split that tests on fold 0."""
    return subsets_of_fold(patient_folds(patients, seed, has_lesion))


def test_661_slices_are_the_reports_476_119_66():
    names, counts = np.unique(slice_split(661), return_counts=True)
    assert dict(zip(names, counts, strict=True)) == {"train": 476, "validation": 119, "test": 66}


@pytest.mark.parametrize("seed", range(3))
def test_the_slices_drawn_are_scikit_learns(seed):
    rest, test = train_test_split(np.arange(661), test_size=66, random_state=seed)
    train, validation = train_test_split(rest, train_size=476, random_state=seed)
    split = slice_split(661, seed)
    for name, rows in (("train", train), ("validation", validation), ("test", test)):
        assert set(np.flatnonzero(split == name)) == set(rows)


def test_a_seed_gives_the_same_split_and_another_seed_another():
    assert (slice_split(100, seed=1) == slice_split(100, seed=1)).all()
    assert (slice_split(100, seed=1) != slice_split(100, seed=2)).any()


def test_too_few_slices_are_an_error():
    with pytest.raises(ValueError, match="9 slices"):
        slice_split(9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("patients", [3, 4, 11])
def test_a_patient_is_on_one_side_only(patients, seed):
    of_slice = np.repeat([f"p{number}" for number in range(patients)], 7)
    split = patient_split(of_slice, seed)
    assert all(len(set(split[of_slice == patient])) == 1 for patient in set(of_slice))
    assert set(split) == {"train", "validation", "test"}


@pytest.mark.parametrize("seed", range(5))
def test_every_side_has_lesions(seed):
    of_slice, lesion = np.repeat(list("abcdefgh"), 5), np.repeat([1, 1, 0, 0, 1, 0, 0, 0], 5)
    split = patient_split(of_slice, seed, lesion)
    assert all(lesion[split == side].any() for side in ("train", "validation", "test"))


@pytest.mark.parametrize("seed", range(5))
def test_every_patient_is_tested_on_once_and_every_fold_has_lesions(seed):
    of_slice, lesion = (
        np.repeat(list("abcdefgh"), [60, 5, 9, 5, 20, 5, 5, 3]),
        np.repeat([1, 0, 1, 1, 0, 1, 0, 1], [60, 5, 9, 5, 20, 5, 5, 3]),
    )
    folds = patient_folds(of_slice, seed, lesion)
    tested = np.zeros(len(folds), int)
    for fold in range(5):
        sides = subsets_of_fold(folds, fold)
        tested += sides == "test"
        assert all(lesion[sides == side].any() for side in ("train", "validation", "test"))
        assert all(len(set(sides[of_slice == patient])) == 1 for patient in "abcdefgh")
    assert (tested == 1).all()


def test_folds_are_the_same_in_every_release_of_scikit_learn():
    of_slice, lesion = list("aabbbcddefgh"), [1, 0, 0, 1, 1, 1, 1, 0, 1, 1, 0, 1]
    assert patient_folds(of_slice, 3, lesion, 4).tolist() == [1, 1, 0, 0, 0, 3, 2, 2, 1, 3, 2, 3]


def test_too_few_patients_are_an_error():
    with pytest.raises(ValueError, match="found 2"):
        patient_split(["a", "b", "b"])
    with pytest.raises(ValueError, match="at least three patients with lesions, found 2"):
        patient_split(["a", "b", "c"], has_lesion=[1, 1, 0])


def test_only_too_few_patients_mean_no_fold_and_other_errors_are_seen(monkeypatch):
    table = pd.DataFrame({"patient": ["a", "b"] * 5, "lesion_pixels": 1})
    assert (splits.add_splits(table)["patient_fold"] == -1).all()

    def broken(*_):
        raise ValueError("another cause")

    monkeypatch.setattr(splits, "patient_folds", broken)
    with pytest.raises(ValueError, match="another cause"):
        splits.add_splits(table)


def test_sides_without_a_lesion_are_named():
    table = pd.DataFrame({"patient": list("abcde") * 4, "lesion_pixels": 1})
    table = splits.add_splits(table)
    assert splits.subsets_without_lesions(table) == []
    table.loc[table["slice_split"] == "test", "lesion_pixels"] = 0
    (warning,) = splits.subsets_without_lesions(table)
    assert warning.startswith(
        "no test slice of the slice split has a lesion: its scores say nothing about lesions"
    )
