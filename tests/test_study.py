import re

import pytest

from covseg_lib import files
from covseg_lib.settings import PROFILES
from covseg_lib.study import LAYOUT, Study
from covseg_lib.training import models, run_folder
from covseg_lib.training.recipes import Recipe
from covseg_lib.training.run_folder import RunFolder, RunState


def test_a_missing_file_names_the_notebook_that_makes_it(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no images\.npy in .*processed_data: run notebook 02 first"
    ):
        Study(tmp_path).need("images")


def test_an_override_wins_over_the_profile_and_none_does_not(tmp_path):
    study = Study(tmp_path)
    study.create("demo", seed=7, step=None)
    assert study.settings()["seed"] == 7
    assert study.settings()["step"] == PROFILES["demo"]["step"]
    assert study.settings(seed=8, size=None)["seed"] == 8


@pytest.mark.parametrize("call", [lambda s: s.create("big"), lambda s: s.create("demo", sized=3)])
def test_an_unknown_name_lists_the_known_ones(tmp_path, call):
    with pytest.raises(ValueError, match=r"demo, report|window_hu"):
        call(Study(tmp_path))


def test_a_listing_has_files_and_no_folders(tmp_path):
    study = Study(tmp_path)
    files.write_json(study.path("settings"), {})
    files.write_json(study.path("nifti", run="dice", case="a"), {})
    paths = study.listing("settings", "predictions")["file"].tolist()
    assert paths == ["study.json", "predictions/nifti/dice/a.nii.gz"]


def test_runs_trained_on_other_slices_are_stale(tmp_path):
    study = Study(tmp_path)
    files.write_json(study.path("preprocessing"), {"mean": 1})
    with pytest.raises(
        FileNotFoundError,
        match=r"no finished run of these slices .* run notebook 03, 04 or 05 first",
    ):
        models.load_runs(study)
    for run, objective, mean in (("b", "dice", 1), ("a", "iou", 1), ("c", "dice", 2)):
        recipe = Recipe(
            *(run, run, objective, "slice", 0, 1),
            {"mean": mean},
            *(2, 1, 8, 0.1, "auto", 0),
        )
        RunFolder.of(study, run).write(RunState(recipe, finished=True))
    assert list(run_folder.finished_runs(study)) == ["a", "b"]
    assert run_folder.stale_runs(study) == ["c"]


def test_drive_layout_names_every_path_and_its_notebook(project):
    rows = re.findall(
        r"^\| `study/(\S+)` \| (.+?) \|", (project / "drive_layout.md").read_text(), re.M
    )
    assert dict(rows) == dict(LAYOUT.values())


def test_what_makes_a_file_is_named_be_it_notebook_or_command(tmp_path):
    study = Study(tmp_path)
    for name, said in (
        ("report", "run the command `covseg run` first"),
        ("lungs", r"run notebook 02 \(if every case"),
    ):
        with pytest.raises(FileNotFoundError, match=said):
            study.need(name)


def test_a_relative_data_set_means_the_same_from_everywhere(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    Study(tmp_path / "study").create("demo", source="folder", dataset="mine")
    monkeypatch.chdir("/")
    assert Study(tmp_path / "study").dataset() == tmp_path / "mine"
