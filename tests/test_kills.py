"""A cross-validation killed at any moment: run again, the study is the one of an undisturbed run.

It trains two folds without validation patients, lets each fold choose the rules of the other,
predicts, and trains the final model. Every file is compared: bytes, arrays and tables without the
seconds that were measured.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from unittest import mock

import h5py
import numpy as np
import pandas as pd

from covseg_lib.batch import folds
from covseg_lib.data.slices import open_slices
from covseg_lib.evaluation import prediction
from covseg_lib.study import Study

KILLS = int(os.environ.get("COVSEG_KILLS", 3))  # `make test-all` kills it twenty times
TIMES = ("first_epoch_s", "other_epochs_s", "total_s")

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_kills
from covseg_lib import files
from covseg_lib.training import batches
root, moment, count = Path(sys.argv[2]), int(sys.argv[3]), 0

def tick(half=None):
    global count
    count += 1
    if count == moment:
        if half:
            half()
        os.kill(os.getpid(), signal.SIGKILL)

def at_every_touch(event, arguments):
    touches = event in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate")
    if touches and str(root) in str(arguments[0]):
        tick()

def overwrite(path, data):
    tick(lambda: path.write_bytes(data[: len(data) // 2]))  # a backup that is written in part
    whole(path, data)

def read(self, number):
    tick()  # in an epoch
    return read_whole(self, number)

whole, files.overwrite = files.overwrite, overwrite
read_whole, batches.Batches.__getitem__ = batches.Batches.__getitem__, read
sys.addaudithook(at_every_touch)
test_kills.work(root)
print(count)
"""


def work(root):
    """Train, choose and predict, as notebook 08 does; return what the study holds."""
    slices = open_slices(Study(root))
    options = {"epochs": 3, "learning_rate": 1e-2, "selection": "none", "batch_size": 8}
    # backups are overwritten as well, and there are fewer networks to compile
    with mock.patch.object(folds, "BACKUP_EVERY", 1), mock.patch.object(prediction, "ZOOMS", [1.0]):
        made = folds.cross_validate(slices, "new", [0, 1], log=lambda line: None, **options)
        folds.train_final(slices, "final", made, log=lambda line: None, **options)
    return _contents(root)


def _killed(root, project, moment):
    command = [sys.executable, "-c", KILLED, str(project / "tests"), str(root), str(moment)]
    return subprocess.run(command, cwd=project, capture_output=True, text=True)


def _contents(root):
    """Return {file: what it holds}, but for the times that were measured."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not path.name.startswith("."):
            found[name] = _content(path)
    return found


def _content(path):
    if path.name == "run.json":
        state = json.loads(path.read_text())
        return state | {"timing": {k: v for k, v in state["timing"].items() if k not in TIMES}}
    if path.name == "history.csv":
        return pd.read_csv(path).drop(columns="seconds").to_csv()
    if path.name.endswith(".h5"):
        return _arrays_of_h5(path)
    if path.parent.name == "backup":
        with np.load(path) as arrays:
            content = {name: arrays[name].tobytes() for name in arrays.files}
        content["best_weights"] = _arrays_of_h5(io.BytesIO(content["best_weights"]))
        with np.load(path) as arrays:
            rows = json.loads(str(arrays["history"]))
        content["history"] = [row | {"seconds": 0} for row in rows]
        return content
    return path.read_bytes()


def _arrays_of_h5(file):
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[...].tobytes()

    with h5py.File(file) as opened:
        opened.visititems(note)
    return found


def _copy(made_once, root):
    return shutil.copytree(made_once / "study", root)


def test_killed_while_it_trains_chooses_and_predicts(made_once, tmp_path, project):
    expected = work(_copy(made_once, tmp_path / "whole"))
    assert {"models/final/run.json", "predictions/new_fold1.npy"} <= expected.keys()
    touches = int(_killed(_copy(made_once, tmp_path / "counted"), project, 0).stdout)
    moments = np.random.default_rng(0).integers(2, touches, KILLS)
    for moment in moments:
        root = _copy(made_once, tmp_path / f"killed_{moment}")
        assert _killed(root, project, moment).returncode == -signal.SIGKILL
        found = work(root)
        assert found.keys() == expected.keys(), f"killed at touch {moment} of {touches}"
        for name in expected:
            assert found[name] == expected[name], f"{name}, killed at touch {moment} of {touches}"
