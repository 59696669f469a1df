"""The scripts in benchmarks/, tried with tiny sizes."""

import ast
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import papermill
import pytest
from click.testing import CliRunner

from covseg_lib import files
from covseg_lib.batch import folds, notebooks
from covseg_lib.data import preprocessing
from covseg_lib.data.slices import open_slices
from covseg_lib.study import Study
from covseg_lib.training import recipes
from covseg_lib.training.run_folder import RunFolder, RunState

BENCHMARKS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


def _run(project, *arguments):
    """Run a script in benchmarks/; return what it printed."""
    command = [sys.executable, str(project / "benchmarks" / arguments[0]), *arguments[1:]]
    environment = os.environ | {"PYTHONPATH": str(project), "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def benchmarks_can_import_each_other(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS[0].parent)


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_exists(path):
    assert "main" in runpy.run_path(str(path), run_name="imported")


def test_phantoms_of_the_gpu_script_become_a_study(project, tmp_path):
    script = runpy.run_path(str(project / "benchmarks" / "gpu.py"), run_name="imported")
    study = script["make_study"](tmp_path, tiny=True)
    assert len(open_slices(study).table) == sum(script["TINY_VOLUMES"])


@pytest.mark.slow
def test_every_way_of_training_is_measured(project):
    printed = _run(project, "gpu.py", "--tiny")
    table = printed[printed.index("first epoch") :]
    for way in ("ours", "ours_batch_32", "ours_steps", "keras_fit"):
        assert f"\n{way} " in table
    assert ("\ntorch_compiled " in table) != ("PyTorch is not installed" in printed)


@pytest.mark.slow
def test_every_way_of_predicting_is_measured(tiny_dataset, project):
    scan = tiny_dataset / "CT_scans" / "scan_1.nii.gz"
    printed = _run(project, "prediction.py", str(scan), "--rounds", "1")
    for way in ("ours", "plain", "plain_untuned"):
        assert f"\n| 1 | {way} | " in printed


@pytest.mark.slow
def test_the_study_is_trained_scored_and_packed_once(tiny_study, project, tmp_path):
    out = tmp_path / "results"
    _run(project, "report_study.py", str(tiny_study.root), str(out), "--epochs", "1")
    again = _run(project, "report_study.py", str(tiny_study.root), str(out), "--epochs", "1")
    assert again.count("has finished after 1 epochs: loaded, not trained again") == 3
    table = files.read_csv(out / "scores" / "table_2_1.csv")
    assert len(table) == 3
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"models/dice/history.csv", "predictions/probabilities.npz", "seconds.json"} <= names
    assert {"figures/leak.png", "figures/iou_curves.png"} <= names
    assert not [name for name in names if name.endswith(".weights.h5") or "backup" in name]


@pytest.mark.slow
def test_both_recipes_are_trained_on_every_fold(project, tmp_path, monkeypatch):
    study = Study(tmp_path / "study")
    study.create("demo", source="varied_phantoms", step=1, base_filters=4, depth=1)
    preprocessing.prepare_study(study, size=16, folds=3)

    def train_lungs(slices, model, tested, *_, **__):  # one epoch would find no lungs
        for fold in tested:
            recipe = recipes.make_recipe(
                study, "dice", model, fold=fold, split="patient", target="lungs"
            )
            state = RunState(recipe, finished=True)
            made = {"predicted_lungs": state.checksum}
            RunFolder.of(study, recipe.run).write(replace(state, made=made))
            files.write_npy(study.path("predicted_lungs", run=recipe.run), slices.lungs)
        return pd.Series({"varied_1": 1.0})

    monkeypatch.setattr(folds, "train_lungs", train_lungs)
    script = runpy.run_path(str(project / "benchmarks" / "new_patients.py"), run_name="imported")
    arguments = [str(study.root), "--epochs", "1", "--filters", "4"]
    done = CliRunner().invoke(script["main"], arguments, catch_exceptions=False)
    assert done.output.count("by the other folds") == 3
    for model in ("report", "ours"):
        assert f"\n{model} " in done.output[done.output.index("mean of the cases") :]
    again = CliRunner().invoke(script["main"], arguments, catch_exceptions=False)
    assert ": trained in " in done.output
    assert ": trained in " not in again.output


def test_the_recipe_of_the_script_is_that_of_notebook_08(project):
    script = runpy.run_path(str(project / "benchmarks" / "new_patients.py"), run_name="imported")
    (path,) = notebooks.find_notebooks(["08"])
    defaults = papermill.inspect_notebook(str(path))
    for name, value in script["OURS"].items():
        assert ast.literal_eval(defaults[name.upper()]["default"]) == value
