"""The notebooks from end to end on the phantom study: under nbval every time, by papermill in `make
test-all`.
"""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import answers

from covseg_lib.batch import notebooks
from covseg_lib.data.slices import open_slices
from covseg_lib.study import LAYOUT, Study

NBVAL = [
    "pytest",
    "-p",
    "no:cacheprovider",
    "--override-ini",
    "addopts=",
    "--nbval-lax",
    "--nbval-current-env",
    "--nbval-kernel-startup-timeout=600",
]


def _run(command, study, cwd):
    environment = os.environ | {"COVSEG_STUDY": str(study.root)}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, env=environment, capture_output=True, text=True
    )


def _asserted(answer):
    """Return the code of an answer; if its last line is a check, it must say that it is right."""
    *lines, check = answer.rstrip().splitlines()
    if not check.startswith("exercises."):
        return answer
    return "\n".join([*lines, f"said = {check}", "assert said.startswith('Right:'), said"])


@pytest.fixture(scope="module")
def walk(tmp_path_factory, project):
    """All notebooks and the answers to their exercises, under nbval against the committed outputs:
    each check must find its answer right.

    A study, and what nbval said.
    """
    folder = tmp_path_factory.mktemp("walk")
    study = Study(folder / "study")
    (folder / "notebooks").mkdir()
    for path in notebooks.find_notebooks():
        notebook = nbformat.read(path, as_version=4)
        notebook.cells += [nbformat.v4.new_code_cell(_asserted(code)) for code in answers(notebook)]
        nbformat.write(notebook, folder / "notebooks" / path.name)
    return study, _run([*NBVAL, str(folder / "notebooks")], study, project)


@pytest.fixture(scope="module")
def demo(walk):
    """The demo study; `covseg run` goes through the notebooks once more that have nothing left to
    train.
    """
    study, done = walk
    assert done.returncode == 0, done.stdout[-6000:]
    before = {path: path.stat().st_mtime_ns for path in study.path("sliced_data").rglob("*.np*")}
    notebooks.run_notebooks(study, {"PROFILE": "demo"}, ["01", "06"])
    assert {
        path: path.stat().st_mtime_ns for path in study.path("sliced_data").rglob("*.np*")
    } == before
    return study


def test_outputs_hold_and_answers_are_right(walk):
    _, done = walk
    assert done.returncode == 0, done.stdout[-6000:]


def test_the_whole_study_is_there(demo):
    for name, (path, maker) in LAYOUT.items():
        if name in ("downloads", "tensorboard", "scans"):
            continue  # the demo downloads, logs and uploads nothing
        if maker == "notebook 08":  # with phantoms it has a study of its own
            path = f"new_patients/{path}"
        pattern = (
            path.replace("{run}", "*").replace("{case}", "*").replace("{name}", "dice_overlays")
        )
        assert list(demo.root.glob(pattern)), path
    assert not list(demo.root.rglob(".part-*"))


def test_the_report_is_one_page_that_fetches_nothing(demo):
    page = demo.path("report").read_text()
    assert "not a medical device" in page
    assert all(said in page for said in ("Settings and versions", "run dice", "keras 3"))
    fetched = re.findall(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"'](?!data:)([^\"']*)|<link[^>]*href=[\"']([^\"']*)",
        page,
    )
    assert not [address for found in fetched for address in found if address]
    assert not re.findall(r"url\(\s*[\"']?https?:|@import", page)


def test_the_dice_model_finds_lesions_of_patients_it_has_not_seen(demo):
    table = open_slices(demo).table
    assert (table.groupby("patient")["patient_fold"].nunique() == 1).all()
    scores = pd.read_csv(demo.path("scores")).set_index("model")
    assert (scores["split"] == "patient").all()
    assert scores.loc["dice", "dice"] > 0.8
    assert scores.loc["(intensity range)", "dice"] < scores.loc["dice", "dice"] - 0.1
    assert scores.loc["(empty mask)", "dice"] == 0
    assert scores.loc["(empty mask)", "accuracy"] > 0.95


def test_the_ladder_rises_on_phantoms_it_has_not_seen(demo):
    scores = pd.read_csv(demo.root / "new_patients/scores/new_patients.csv")
    dice = scores[scores["split"] == "patient"].set_index("model")["dice_by_case"]
    models = sorted(name for name in dice.index if name.startswith("new_"))
    assert (models[0], models[-1]) == ("new_0_report", "new_9_selection")
    assert dice[models[-1]] > dice[models[0]] + 0.05
    assert dice[models[-1]] > dice["(mean lesion map)"] + 0.1


@pytest.mark.slow
def test_make_demo_has_the_same_scores_and_executed_copies(demo, tmp_path):
    again = Study(tmp_path / "study")
    notebooks.run_notebooks(again, {"PROFILE": "demo"})
    first, second = (
        pd.read_csv(study.path("scores"), index_col=["split", "model"]) for study in (demo, again)
    )
    assert np.allclose(first.loc[second.index], second, atol=1e-6), f"{first}\n{second}"
    executed = sorted(path.name[:2] for path in again.path("notebooks").glob("[0-9]*"))
    assert executed == [f"{number:02d}" for number in range(10)]


def test_06_draws_the_volumes_again_in_a_study_that_was_copied_without_them(demo, tmp_path):
    study = Study(shutil.copytree(demo.root, tmp_path / "copied"))
    shutil.rmtree(study.path("dataset"))
    cases = pd.read_csv(study.path("cases"))
    elsewhere = "/gone/CT_scans/" + cases["case"] + ".nii.gz"
    cases.assign(image=elsewhere).to_csv(study.path("cases"), index=False)
    shutil.rmtree(study.path("predictions"))
    (made,) = notebooks.run_notebooks(study, {}, ["06"])
    assert "volumes not found: none" in made.read_text()
    assert list(study.path("predictions").joinpath("nifti").glob("*/*.nii.gz"))
    assert study.path("cases_scores").exists()


@pytest.mark.slow
def test_a_notebook_alone_under_plain_papermill_and_06_finds_its_run(demo, project, tmp_path):
    study = Study(tmp_path / "study")
    shutil.copytree(demo.root, study.root)
    out = tmp_path / "out.ipynb"
    notebook = "notebooks/03_train_accuracy.ipynb"
    parameters = ["-p", "EPOCHS", "1", "-p", "RUN", "accuracy_e1", "-p", "SPLIT", "slice"]
    done = _run(["papermill", notebook, str(out), *parameters], study, project)
    assert done.returncode == 0, done.stderr[-3000:]
    assert any(
        "injected-parameters" in cell.metadata.get("tags", [])
        for cell in nbformat.read(out, 4).cells
    )
    assert len(pd.read_csv(study.path("history", run="accuracy_e1"))) == 1
    notebooks.run_notebooks(study, numbers=["06"])
    assert pd.read_csv(study.path("table"))["model"].tolist()[:4] == [
        "accuracy_e1",
        "accuracy",
        "iou",
        "dice",
    ]


def test_01_stops_at_a_bad_first_case_or_goes_on_without_it(tiny_dataset, tmp_path):
    (tiny_dataset / "CT_scans" / "scan_1.nii.gz").write_text("no volume")
    study = Study(tmp_path / "study")
    parameters = {"DATASET": str(tiny_dataset), "STEP": 1}
    with pytest.raises(notebooks.NotebookFailed, match=r"1 of 5 cases cannot be used"):
        notebooks.run_notebooks(study, parameters, ["01"])
    assert [path.name for path in study.root.iterdir() if path.name != ".study.lock"] == [
        "notebooks"
    ]
    notebooks.run_notebooks(study, parameters | {"STRICT": False}, ["01"])
    assert pd.read_csv(study.path("cases"))["case"].tolist() == [
        "scan_2",
        "scan_3",
        "scan_4",
        "scan_5",
    ]
