import pytest

from covseg_lib import dataset


def _touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_image_mask_and_lungs_meet_by_name(tmp_path):
    _touch(tmp_path / "CT_scans", "b.nii.gz", "a.nii")
    _touch(tmp_path / "Mask_scans", "a.nii.gz", "b.nii.gz")
    _touch(tmp_path / "Lung_Mask", "a.nii.gz")
    first, second = dataset.find_cases(tmp_path)
    assert (first.name, first.image.name, first.mask.name) == ("a", "a.nii", "a.nii.gz")
    assert first.lungs.name == "a.nii.gz"
    assert second.lungs is None


def test_an_image_without_mask_is_an_error(tmp_path):
    _touch(tmp_path / "CT_scans", "a.nii", "b.nii")
    _touch(tmp_path / "Infection_Mask", "a.nii")
    with pytest.raises(ValueError, match="no mask for b"):
        dataset.find_cases(tmp_path)


def test_a_mask_without_image_is_an_error(tmp_path):
    _touch(tmp_path / "CT_scans", "a.nii")
    _touch(tmp_path / "Infection_Mask", "a.nii", "b.nii")
    with pytest.raises(ValueError, match="no image for b"):
        dataset.find_cases(tmp_path)


def test_two_files_of_one_case_are_an_error(tmp_path):
    _touch(tmp_path / "CT_scans", "a.nii", "a.nii.gz")
    _touch(tmp_path / "Infection_Mask", "a.nii")
    with pytest.raises(ValueError, match=r"two files of case a .*a\.nii and a\.nii\.gz"):
        dataset.find_cases(tmp_path)


def test_no_folder_and_an_empty_folder_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected one of CT_scans"):
        dataset.find_cases(tmp_path)
    _touch(tmp_path / "CT_scans")
    with pytest.raises(FileNotFoundError, match="put the data set's files there"):
        dataset.find_cases(tmp_path)
