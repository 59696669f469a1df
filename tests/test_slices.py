import numpy as np
import pytest

from covseg_lib import dataset, slices, storage, volumes
from covseg_lib.study import Study


def test_a_file_a_case_holds_what_the_volume_held(tiny_study, tiny_dataset):
    cases = dataset.find_cases(tiny_dataset)
    with storage.open_npz(tiny_study.path("sliced_case", case="scan_1")) as sliced:
        pair = volumes.read_pair(cases[0])
        assert (sliced["images"] == volumes.to_grey(pair.image)).all()
        assert (sliced["masks"] == pair.mask).all()

        assert sliced["header"].tobytes() == pair.header.binaryblock


def test_cases_that_are_gone_are_gone_from_sliced_data(tiny_study, tiny_dataset):
    table, _ = slices.slice_cases(dataset.find_cases(tiny_dataset)[:2], tiny_study, step=2)
    assert [file.stem for file in sorted(tiny_study.path("sliced_data").glob("*.npz"))] == ["scan_1", "scan_2"]
    assert table[["slices", "lesion_slices", "height", "width"]].to_numpy().tolist() == [[5, 3, 8, 10]] * 2


def test_processed_data_has_the_designs_shapes_and_types(tiny_study):
    images, masks = slices.load(tiny_study, "train", "validation", "test")
    assert (images.shape, images.dtype) == ((25, 16, 16, 1), np.float32)
    assert (masks.shape, masks.dtype) == ((25, 16, 16, 1), np.uint8)
    assert set(np.unique(masks)) == {0, 1}
    table = slices.table(tiny_study)
    assert list(table.columns) == ["case", "patient", "slice", "lesion_pixels", "split"]
    assert (table["lesion_pixels"] == masks.sum(axis=(1, 2, 3))).all()
    assert table["slice"].tolist() == [0, 1, 2, 3, 4] * 5


def test_training_slices_are_standardised(tiny_study):
    train, _ = slices.load(tiny_study, "train")
    assert train.mean() == pytest.approx(0, abs=1e-4)
    assert train.std() == pytest.approx(1, abs=1e-4)


def test_building_twice_gives_the_same_bytes(tiny_study):
    names = ("images", "masks", "slices", "preprocessing")
    before = [tiny_study.path(name).read_bytes() for name in names]
    slices.build(tiny_study, 16, "patient")
    assert before == [tiny_study.path(name).read_bytes() for name in names]


def test_nothing_sliced_names_notebook_01(tmp_path):
    with pytest.raises(FileNotFoundError, match="run notebook 01 first"):
        slices.build(Study(tmp_path))


def test_an_unknown_split_lists_the_known_ones(tiny_study):
    with pytest.raises(ValueError, match='expected "slice"'):
        slices.build(tiny_study, 16, "random")
    with pytest.raises(FileNotFoundError, match="run notebook 02 first"):
        slices.table(tiny_study)
