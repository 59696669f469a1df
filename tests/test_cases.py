import pytest
from conftest import find_cases

from covseg_lib.data import cases


def _touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_image_mask_and_lungs_meet_by_name(tmp_path):
    _touch(tmp_path / "CT_scans", "b.nii.gz", "a.nii")
    _touch(tmp_path / "Mask_scans", "a.nii.gz", "b.nii.gz")
    _touch(tmp_path / "Lung_Mask", "a.nii.gz")
    first, second = find_cases(tmp_path)
    assert (first.name, first.image.name, first.mask.name) == ("a", "a.nii", "a.nii.gz")
    assert first.lungs.name == "a.nii.gz"
    assert second.lungs is None


def test_an_image_without_mask_is_an_error(tmp_path):
    _touch(tmp_path / "CT_scans", "a.nii", "b.nii")
    _touch(tmp_path / "Infection_Mask", "a.nii")
    with pytest.raises(ValueError, match="no mask for image b"):
        find_cases(tmp_path)


def test_a_mask_without_image_is_an_error(tmp_path):
    _touch(tmp_path / "CT_scans", "a.nii")
    _touch(tmp_path / "Infection_Mask", "a.nii", "b.nii")
    with pytest.raises(ValueError, match="no image for mask b"):
        find_cases(tmp_path)


def test_two_files_of_one_case_are_an_error(tmp_path):
    _touch(tmp_path / "CT_scans", "a.nii", "a.nii.gz")
    _touch(tmp_path / "Infection_Mask", "a.nii")
    with pytest.raises(ValueError, match=r"two files in CT_scans: a\.nii and a\.nii\.gz"):
        find_cases(tmp_path)


def test_no_folder_and_an_empty_folder_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected one of CT_scans"):
        find_cases(tmp_path)
    _touch(tmp_path / "CT_scans")
    _touch(tmp_path / "masks", "a.nii")
    with pytest.raises(FileNotFoundError, match="put the data set's files there"):
        find_cases(tmp_path)


KAGGLE = ("coronacases_org_001.nii", "radiopaedia_org_covid-19-pneumonia-29_86490_1-dcm.nii")
LAYOUTS = {
    "zenodo": (
        "COVID-19-CT-Seg_20cases",
        "Infection_Mask",
        ["coronacases_001.nii.gz", "radiopaedia_10_85902_3.nii.gz"],
    ),
    "report": (
        "CT_scans",
        "Mask_scans",
        ["coronacases_001.nii.gz", "radiopaedia_10_85902_3.nii.gz"],
    ),
    "medseg": ("rp_im", "rp_msk", ["1.nii.gz", "2.nii.gz"]),
    "plain": ("scans", "segmentations", ["a.nii", "b.nii"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_their_owners_are_paired(tmp_path, layout):
    images, masks, names = LAYOUTS[layout]
    _touch(tmp_path / images, *names)
    _touch(tmp_path / masks, *names)
    found = find_cases(tmp_path)
    assert [case.image.name for case in found] == names
    assert [case.mask.parent.name for case in found] == [masks] * 2


def test_kaggles_names_are_zenodos_cases(tmp_path):
    _touch(tmp_path / "ct_scans", *KAGGLE)
    _touch(tmp_path / "infection_mask", "coronacases_001.nii", "radiopaedia_29_86490_1.nii")
    _touch(tmp_path / "lung_mask", "coronacases_001.nii", "radiopaedia_29_86490_1.nii")
    _touch(
        tmp_path / "lung_and_infection_mask", "coronacases_001.nii", "radiopaedia_29_86490_1.nii"
    )
    found = find_cases(tmp_path)
    assert [case.name for case in found] == ["coronacases_001", "radiopaedia_30_86490_1"]
    assert all(case.lungs.parent.name == "lung_mask" for case in found)


def test_cases_can_be_chosen(tmp_path):
    for folder in ("CT_scans", "Infection_Mask"):
        _touch(
            tmp_path / folder,
            *(f"{name}.nii.gz" for name in (*cases.REPORT_CASES, "coronacases_001")),
        )
    (tmp_path / "CT_scans" / "alone.nii").touch()
    found, left_over = cases.pair_files(tmp_path, "report")
    assert ([case.name for case in found], left_over) == (list(cases.REPORT_CASES), {})
    assert [case.name for case in cases.pair_files(tmp_path, ["coronacases_001"])[0]] == [
        "coronacases_001"
    ]
    assert list(cases.pair_files(tmp_path)[1]) == ["alone"]
    with pytest.raises(ValueError, match="no case nobody: there are alone, coronacases_001"):
        cases.pair_files(tmp_path, ["nobody"])
    with pytest.raises(ValueError, match='expected "report", "all"'):
        cases.pair_files(tmp_path, "some")


def test_patients_csv_overrides_the_names(tmp_path):
    for folder in ("CT_scans", "Infection_Mask"):
        _touch(tmp_path / folder, "a.nii.gz", "b.nii.gz", "c_1_2.nii.gz")
    (tmp_path / "patients.csv").write_text("case,patient\na,007\nb.nii.gz,007\n")
    assert [case.patient for case in find_cases(tmp_path)] == ["007", "007", "c_1_2"]
    (tmp_path / "patients.csv").write_text("case,patient\na,\nb,NA\n")
    assert [case.patient for case in find_cases(tmp_path)] == ["a", "NA", "c_1_2"]
    (tmp_path / "patients.csv").write_text("")
    with pytest.raises(ValueError, match=r"patients\.csv cannot be read as a table"):
        find_cases(tmp_path)
    (tmp_path / "patients.csv").write_text("name,patient\na,007\n")
    with pytest.raises(ValueError, match="expected case and patient"):
        find_cases(tmp_path)


def test_the_table_says_what_is_left_over_and_why(tmp_path):
    _touch(tmp_path / "CT_scans", "a.nii", "b.nii")
    _touch(tmp_path / "Infection_Mask", "a.nii")
    table = cases.pairing_table(*cases.pair_files(tmp_path)).set_index("case")
    assert table.loc["a", "left_over"] == ""
    assert table.loc["b", "left_over"].startswith("no mask for image b.nii")


CHALLENGE = "volume-covid19-A"
ADDED = {  # images, masks, and the cases that they are
    "the challenge": (
        [f"{CHALLENGE}-0000_ct", f"{CHALLENGE}-0003_ct"],
        [f"{CHALLENGE}-0000_seg", f"{CHALLENGE}-0003_seg"],
        [f"{CHALLENGE}-0000", f"{CHALLENGE}-0003"],
    ),
    "the challenge's first case": (
        [f"{CHALLENGE}-0000_ct"],
        [f"{CHALLENGE}-0000_seg"],
        [f"{CHALLENGE}-0000"],
    ),
    "nnU-Net": (["ct_001_0000", "ct_002_0000"], ["ct_001", "ct_002"], ["ct_001", "ct_002"]),
    "nnU-Net, one case": (["ct_001_0000"], ["ct_001"], ["ct_001"]),
    "nnU-Net, with more": (["a_ct_0000", "b_ct_0000"], ["a_seg", "b_seg"], ["a", "b"]),
    "both with the channel": (["a_0000", "b_0000"], ["a_0000", "b_0000"], ["a_0000", "b_0000"]),
    "the mask's name added to it": (
        ["a_0000", "b_0000"],
        ["a_0000_seg", "b_0000_seg"],
        ["a_0000", "b_0000"],
    ),
    "numbers from 0": (
        ["case_0000", "case_0001"],
        ["case_0000_mask", "case_0001_mask"],
        ["case_0000", "case_0001"],
    ),
    "numbers with a hyphen": (
        ["ct-0000", "ct-0001"],
        ["ct-0000", "ct-0001"],
        ["ct-0000", "ct-0001"],
    ),
}


@pytest.mark.parametrize("kind", ADDED)
def test_what_programs_add_to_names_is_taken_off_and_a_number_of_zeros_is_not(tmp_path, kind):
    images, masks, names = ADDED[kind]
    _touch(tmp_path / "images", *(f"{name}.nii.gz" for name in images))
    _touch(tmp_path / "masks", *(f"{name}.nii.gz" for name in masks))
    found = find_cases(tmp_path)
    assert [case.name for case in found] == names
    assert [case.image.name for case in found] == [f"{name}.nii.gz" for name in images]
    assert [case.mask.name for case in found] == [f"{name}.nii.gz" for name in masks]


@pytest.mark.parametrize(
    ("images", "masks", "alone"),
    [
        (["a_0000", "b"], ["a", "b"], ["a", "a_0000"]),  # one such name is not nnU-Net's
        (["a-0000", "b-0000"], ["a", "b"], ["a", "a-0000", "b", "b-0000"]),
        (["a_0000", "a_0001"], ["a"], ["a", "a_0000", "a_0001"]),  # two channels
    ],
)
def test_zeros_at_the_end_are_a_channel_only_as_nnunet_writes_it(tmp_path, images, masks, alone):
    _touch(tmp_path / "images", *(f"{name}.nii.gz" for name in images))
    _touch(tmp_path / "masks", *(f"{name}.nii.gz" for name in masks))
    assert sorted(cases.pair_files(tmp_path)[1]) == alone


def test_lung_masks_with_nnunets_channel_are_those_of_the_cases(tmp_path):
    _touch(tmp_path / "imagesTr", "a_0000.nii.gz", "b_0000.nii.gz")
    _touch(tmp_path / "labelsTr", "a.nii.gz", "b.nii.gz")
    _touch(tmp_path / "lungs", "a_0000.nii.gz", "b_0000.nii.gz")
    assert [case.lungs.name for case in find_cases(tmp_path)] == ["a_0000.nii.gz", "b_0000.nii.gz"]


def test_hidden_files_and_folders_are_not_the_owners(tmp_path):
    for folder in ("scans", "my_masks"):
        _touch(tmp_path / folder, "a.nii.gz", "._a.nii.gz")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert [case.name for case in find_cases(tmp_path)] == ["a"]


def test_names_that_end_in_two_numbers_are_patients_of_their_own(tmp_path):
    """covid_19_001 and covid_19_002 were one patient, covid_19; so were case_2020_017 and
    case_2020_018.
    """
    names = [
        "case_2020_017",
        "case_2020_018",
        "covid_19_001",
        "covid_19_002",
        "site_1_0001",
        "site_1_0002",
    ]
    known = ["phantom_01_1", "phantom_01_2", "radiopaedia_10_85902_1", "radiopaedia_10_85902_3"]
    for folder in ("CT_scans", "Infection_Mask"):
        _touch(tmp_path / folder, *(f"{name}.nii.gz" for name in names + known))
    found = find_cases(tmp_path)
    assert {case.name for case in found if case.patient == case.name} == set(names)
    assert {case.patient for case in found} - set(names) == {"phantom_01", "radiopaedia_10_85902"}
    hint = cases.same_patient_hint(found)
    assert hint.startswith("6 cases count as different patients")
    assert "such as case_2020_017 and case_2020_018" in hint
    assert "patients.csv" in hint
    (tmp_path / "patients.csv").write_text(
        "case,patient\n" + "".join(f"{name},{name[:6]}\n" for name in names)
    )
    assert cases.same_patient_hint(find_cases(tmp_path)) == ""
    assert cases.same_patient_hint([case for case in found if case.name in known]) == ""
