"""The data authors' folds, on a table of slices with the names of the record's 20 volumes."""

import numpy as np
import pandas as pd
import pytest
from conftest import find_cases, write_volume

from covseg_lib.data import benchmark, file_names, preprocessing, slicing, splits
from covseg_lib.data.slices import open_slices
from covseg_lib.evaluation import baselines, prediction, surfaces, tables
from covseg_lib.study import Study
from covseg_lib.training import recipes, trainer

FOLDS = benchmark.case_folds()


@pytest.fixture
def table():
    """Three slices of each volume, the middle one with a lesion."""
    names = np.repeat(sorted(FOLDS), 3)
    rows = {"case": names, "patient": [file_names.patient_name(name) for name in names]}
    lesions = [0, 5, 0] * len(FOLDS)
    return splits.add_splits(pd.DataFrame(rows).assign(lesion_pixels=lesions))


def _cases(table, split, fold):
    subset = splits.subsets(table, split, fold)
    return {name: set(table["case"][subset == name]) for name in ("train", "validation", "test")}


@pytest.mark.parametrize("fold", range(5))
def test_four_for_training_and_sixteen_for_testing_or_the_reverse(table, fold):
    of_fold = {case for case, number in FOLDS.items() if number == fold}
    assert len(of_fold) == 4
    few, many = (_cases(table, f"benchmark_{ratio}", fold) for ratio in ("4_16", "16_4"))
    assert few["train"] | few["validation"] == many["test"] == of_fold
    assert many["train"] | many["validation"] == few["test"] == FOLDS.keys() - of_fold
    assert (len(few["validation"]), len(many["validation"])) == (1, 4)
    assert not few["train"] & few["validation"]


def test_the_authors_folds_separate_a_patients_scans_and_the_corrected_do_not(table):
    scans = {"radiopaedia_10_85902_1", "radiopaedia_10_85902_3"}
    first = [_cases(table, "benchmark_16_4", fold)["test"] & scans for fold in range(5)]
    assert sorted(map(len, first)) == [0, 0, 0, 1, 1]
    for ratio in ("4_16", "16_4"):
        for fold in range(5):
            subset = splits.subsets(table, f"corrected_{ratio}", fold)
            of_test = set(table["patient"][subset == "test"])
            assert not of_test & set(table["patient"][subset != "test"])
            assert len(set(table["case"][subset == "test"])) in (4, 16)


def test_another_data_set_is_refused(table):
    without = table[table["case"] != "coronacases_001"]
    with pytest.raises(ValueError, match="missing coronacases_001, unknown none; set CASES"):
        splits.subsets(without, "benchmark_4_16")
    with pytest.raises(ValueError, match="there are folds 0 to 4"):
        splits.subsets(table, "corrected_4_16", 5)


def test_twenty_phantoms_are_scored_case_by_case(tmp_path):
    """Tiny volumes with the record's names, one epoch: Dice and NSD of all 16 test cases."""
    for number, name in enumerate(sorted(FOLDS)):
        image = np.random.default_rng(number).integers(-1000, -700, (20, 16, 5)).astype(np.int16)
        mask = np.zeros((20, 16, 5), np.uint8)
        mask[4:12, 4 : 8 + number % 4, 1:4] = 1
        image[mask > 0] += 600
        write_volume(tmp_path / "CT_scans" / f"{name}.nii.gz", image)
        write_volume(tmp_path / "Infection_Mask" / f"{name}.nii.gz", mask)
    study = Study(tmp_path / "study")
    options = {"source": "folder", "dataset": str(tmp_path), "step": 1, "base_filters": 2}
    study.create("demo", **options, batch_size=8)
    slicing.slice_cases(find_cases(tmp_path), study)
    preprocessing.preprocess(study, 16)
    chosen = {"split": "corrected_4_16", "fold": 2, "selection": "none", "epochs": 1}
    recipe = recipes.make_recipe(study, "dice", **chosen)
    assert recipe.run == "dice_corrected_4_16_fold2"
    prediction.predict_study(trainer.train(recipe, open_slices(study)), open_slices(study))
    baselines.predict_baselines(open_slices(study))
    by_case = tables.scores_by_case(study)["dice"].xs("dice_corrected_4_16", level="model")
    surface = surfaces.surface_table(open_slices(study))["nsd"]
    tested = [case for case, fold in benchmark.case_folds(corrected=True).items() if fold != 2]
    assert sorted(by_case.index.get_level_values("case")) == sorted(tested)
    assert len(surface) == 16
    assert surface.between(0, 1).all()
