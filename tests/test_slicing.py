from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
from conftest import find_cases, write_volume

from covseg_lib import files
from covseg_lib.data import preprocessing, slicing
from covseg_lib.data.pairs import read_pair
from covseg_lib.data.slices import open_slices
from covseg_lib.images import volumes
from covseg_lib.settings import Reading
from covseg_lib.study import Study


def test_a_file_a_case_holds_what_the_volume_held(tiny_study, tiny_dataset):
    found = find_cases(tiny_dataset)
    with files.open_npz(tiny_study.path("sliced_case", case="scan_1")) as sliced:
        pair = read_pair(found[0])
        assert (sliced["images"] == volumes.to_grey(pair.image)).all()
        assert (sliced["masks"] == pair.mask).all()

        assert sliced["header"].tobytes() == pair.header.binaryblock


def test_cases_that_are_gone_are_gone_from_sliced_data(tiny_study, tiny_dataset):
    table, _ = slicing.slice_cases(find_cases(tiny_dataset)[:2], tiny_study, Reading(step=2))
    assert [file.stem for file in sorted(tiny_study.path("sliced_data").glob("*.npz"))] == [
        "scan_1",
        "scan_2",
    ]
    assert (
        table[["slices", "lesion_slices", "height", "width"]].to_numpy().tolist()
        == [[5, 3, 8, 10]] * 2
    )


def test_a_data_set_that_moved_is_not_sliced_again_and_is_listed_where_it_is_now(
    tiny_study, tiny_dataset, tmp_path, monkeypatch
):
    moved = tiny_dataset.rename(tmp_path / "moved")
    monkeypatch.setattr(slicing, "read_pair", lambda *_: pytest.fail("a case was sliced again"))
    table, _ = slicing.slice_cases(find_cases(moved), tiny_study, tiny_study.reading())
    assert table["image"][0] == str(moved / "CT_scans" / "scan_1.nii.gz")
    assert table["mask"][0] == str(moved / "Infection_Mask" / "scan_1.nii.gz")
    assert set(table["lungs"]) == {""}


def test_processed_data_has_the_designs_shapes_and_types(tiny_study):
    images, masks = open_slices(tiny_study).subset("train", "validation", "test")
    assert (images.shape, images.dtype) == ((25, 16, 16, 1), np.float32)
    assert (masks.shape, masks.dtype) == ((25, 16, 16, 1), np.uint8)
    assert set(np.unique(masks)) == {0, 1}
    table = open_slices(tiny_study).table
    assert list(table.columns) == [
        "case",
        "patient",
        "slice",
        "lesion_pixels",
        "slice_split",
        "patient_fold",
    ]
    assert (table["lesion_pixels"] == masks.sum(axis=(1, 2, 3))).all()
    assert table["slice"].tolist() == [0, 1, 2, 3, 4] * 5


def test_slices_are_standardised(tiny_study):
    images, _ = open_slices(tiny_study).subset("train", "validation", "test")
    assert images.mean() == pytest.approx(0, abs=1e-4)
    assert images.std() == pytest.approx(1, abs=1e-4)


def test_lung_masks_come_along_where_every_case_has_one(tiny_dataset, tmp_path):
    for file in sorted((tiny_dataset / "Infection_Mask").iterdir()):
        mask = nib.load(file)
        lungs = 2 * np.ones(mask.shape, np.uint8)
        lungs[:10] = 0
        write_volume(tiny_dataset / "Lung_Mask" / file.name, lungs, mask.affine)
    study = Study(tmp_path / "study")
    study.create("demo", source="folder", dataset=str(tiny_dataset), step=1)
    slicing.slice_cases(find_cases(tiny_dataset), study)
    preprocessing.preprocess(study, 16)
    assert open_slices(study).lungs.mean(axis=(0, 1, 3)).round().tolist() == [0] * 8 + [1] * 8
    next((tiny_dataset / "Lung_Mask").iterdir()).unlink()
    slicing.slice_cases(find_cases(tiny_dataset), study)
    preprocessing.preprocess(study, 16)
    assert not study.path("lungs").exists()


def test_building_twice_gives_the_same_bytes(tiny_study):
    names = ("images", "masks", "slices", "preprocessing")
    before = [tiny_study.path(name).read_bytes() for name in names]
    preprocessing.preprocess(tiny_study, 16)
    assert before == [tiny_study.path(name).read_bytes() for name in names]


def test_nothing_sliced_names_notebook_01(tmp_path):
    with pytest.raises(FileNotFoundError, match="run notebook 01 first"):
        preprocessing.preprocess(Study(tmp_path))


@pytest.mark.parametrize(
    ("split", "fold", "said"),
    [
        ("random", 0, 'expected "slice"'),
        ("patient", 5, "folds 0 to 4"),
        ("slice", 1, "folds 0 to 0"),
    ],
)
def test_a_split_or_fold_that_is_not_there(tiny_study, split, fold, said):
    with pytest.raises(ValueError, match=said):
        open_slices(tiny_study).subset("train", split=split, fold=fold)


def test_two_folds_are_too_few(tiny_study):
    with pytest.raises(ValueError, match="expected at least 3"):
        preprocessing.preprocess(tiny_study, 16, folds=2)


def test_two_patients_can_be_split_by_slices_only(tiny_study, tiny_dataset):
    slicing.slice_cases(find_cases(tiny_dataset)[:2], tiny_study)
    preprocessing.preprocess(tiny_study, 16)
    assert len(open_slices(tiny_study).rows("test", split="slice")) == 1
    with pytest.raises(ValueError, match="needs at least three patients with lesions, found 2"):
        open_slices(tiny_study).subset("test", split="patient")


def test_masks_without_any_lesion_are_refused_where_they_first_appear(tiny_dataset, tmp_path):
    for file in (tiny_dataset / "Infection_Mask").iterdir():
        write_volume(file, np.zeros((20, 16, 5), np.uint8))
    study = Study(tmp_path / "study")
    with pytest.raises(
        ValueError, match="none of the 5 masks has a lesion, so there is nothing to learn"
    ):
        slicing.slice_cases(find_cases(tiny_dataset), study)
    assert not study.root.exists()


def test_lesions_that_vanish_when_resized_are_named(tiny_dataset, tmp_path):
    for file in (tiny_dataset / "Infection_Mask").iterdir():
        mask = np.zeros((20, 16, 5), np.uint8)
        mask[3, 3, 2] = 1
        write_volume(file, mask)
    study = Study(tmp_path / "study")
    study.create("demo", source="folder", dataset=str(tiny_dataset), step=1)
    slicing.slice_cases(find_cases(tiny_dataset), study)
    with pytest.raises(
        ValueError, match="no slice has a lesion at 8 x 8 pixels: choose a larger SIZE"
    ):
        preprocessing.preprocess(study, 8)


def test_two_copies_of_01_and_02_at_once_make_one_sound_study(tiny_dataset, tmp_path):
    study = Study(tmp_path / "study")
    study.create("demo", source="folder", dataset=str(tiny_dataset), step=1)

    def both(_):
        slicing.slice_cases(find_cases(tiny_dataset), study)
        return preprocessing.preprocess(study, 16)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(both, range(2))
    assert first.table.equals(second.table)
    assert not list(study.root.rglob(".part-*"))
    assert open_slices(study).images.shape == (25, 16, 16, 1)
