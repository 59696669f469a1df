"""On the report's five volumes, where COVSEG_DATASET names a folder that holds them."""

import os

import pytest

from covseg_lib import parallel
from covseg_lib.data import cases, preprocessing, slicing
from covseg_lib.data.slices import open_slices
from covseg_lib.settings import Reading
from covseg_lib.study import Study

FOLDER = os.environ.get("COVSEG_DATASET")


@pytest.mark.skipif(not FOLDER, reason="COVSEG_DATASET is not set")
def test_the_reports_661_slices(tmp_path):
    study = Study(tmp_path / "study")
    found, left_over = cases.pair_files(FOLDER, "report")
    study.create("report", source="folder", dataset=FOLDER)
    with parallel.executor() as pool:
        table, _ = slicing.slice_cases(found, study, Reading(step=2), pool, left_over=left_over)
    assert (int(table["slices"].sum()), int(table["lesion_slices"].sum())) == (661, 255)
    assert set(table["height"]) == set(table["width"]) == {315}
    built = preprocessing.preprocess(study, 256)
    assert built["slice_split"].value_counts().to_dict() == {
        "train": 476,
        "validation": 119,
        "test": 66,
    }
    images, masks = open_slices(study).subset("test")
    assert images.shape == masks.shape == (66, 256, 256, 1)
