"""The two scripts that measure on a GPU, tried with tiny sizes."""

import os
import subprocess
import sys

import pytest

from covseg_lib import files


def _run(project, *arguments):
    """Run a script in benchmarks/; return what it printed."""
    command = [sys.executable, str(project / "benchmarks" / arguments[0]), *arguments[1:]]
    environment = os.environ | {"PYTHONPATH": str(project), "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_way_of_training_is_measured(project):
    printed = _run(project, "gpu.py", "--tiny")
    table = printed[printed.index("first epoch") :]
    for way in ("ours", "ours_batch_32", "ours_steps", "keras_fit"):
        assert f"\n{way} " in table
    assert ("\ntorch_compiled " in table) != ("PyTorch is not installed" in printed)


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
