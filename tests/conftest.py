import contextlib
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault(
    "TF_NUM_INTRAOP_THREADS", "1"
)  # two workers share two cores, and tiny networks need no more

import nibabel as nib
import numpy as np
import pytest

from covseg_lib.data import cases, preprocessing
from covseg_lib.data.slices import open_slices
from covseg_lib.study import Study

LPS = np.diag([-1.0, -1.0, 2.0, 1.0])  # voxels run to the left, to the back and up


def write_volume(path, array, affine=LPS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def answers(notebook):
    """Return the code of the folded answers to a notebook's exercises."""
    return re.findall(r"```python\n(.*?)```", notebook.cells[-1].source, re.DOTALL)


def find_cases(folder):
    """Return the cases of a data set in which every file has its pair; ValueError otherwise."""
    found, left_over = cases.pair_files(folder)
    if left_over:
        raise ValueError("; ".join(left_over.values()))
    return found


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A folder with what many tests begin with, made once; tests get copies of its parts."""
    folder = tmp_path_factory.mktemp("made_once")
    for number in range(1, 6):
        image = np.random.default_rng(number).integers(-1000, -700, (20, 16, 5)).astype(np.int16)
        mask = np.zeros((20, 16, 5), np.uint8)
        mask[4:12, 4 + number : 12, 1:4] = 1
        image[mask > 0] += 600
        write_volume(folder / "dataset" / "CT_scans" / f"scan_{number}.nii.gz", image)
        write_volume(folder / "dataset" / "Infection_Mask" / f"scan_{number}.nii.gz", mask)
    study = Study(folder / "study")
    options = {"source": "folder", "dataset": str(folder / "dataset"), "step": 1, "size": 16}
    options |= {"epochs": {"accuracy": 2, "iou": 2, "dice": 2}, "base_filters": 2, "batch_size": 8}
    study.create("demo", **options)
    preprocessing.prepare_study(study)
    return folder


@pytest.fixture
def tiny_dataset(made_once, tmp_path):
    """Five volumes of 20 x 16 x 5 in HU, of five patients; lesions are bright blocks in slices 1 to
    3.
    """
    return Path(shutil.copytree(made_once / "dataset", tmp_path / "dataset"))


@pytest.fixture
def tiny_study(made_once, tiny_dataset, tmp_path):
    """A study of the tiny data set up to processed_data: 25 slices of 16 x 16, split by patient."""
    study = Study(shutil.copytree(made_once / "study", tmp_path / "study"))
    for path in (study.path("settings"), study.path("cases")):  # they name the data set's folder
        path.write_text(path.read_text().replace(str(made_once), str(tmp_path)))
    return study


def recipe_of(study, objective="dice", **changes):
    """Return the recipe of a run that trains in seconds."""
    from covseg_lib.training import recipes

    recipe = replace(recipes.make_recipe(study, objective, learning_rate=1e-2), depth=2)
    return replace(recipe, **changes)


def after_epoch(function):
    """Return a Keras callback that calls function(number of the epoch, model) after each epoch."""
    import keras

    class AfterEpoch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            function(epoch + 1, self.model)

    return AfterEpoch()


@pytest.fixture
def tiny_recipe(tiny_study):
    return recipe_of(tiny_study)


@pytest.fixture(scope="session")
def trained_once(made_once, tmp_path_factory):
    """The tiny study with a trained run, dice; tests that need one take a copy, `trained_study`."""
    from covseg_lib.training import trainer

    study = Study(
        shutil.copytree(made_once / "study", tmp_path_factory.mktemp("trained") / "study")
    )
    trainer.train(recipe_of(study), open_slices(study))
    return study


@pytest.fixture
def trained_study(trained_once, tmp_path):
    return Study(shutil.copytree(trained_once.root, tmp_path / "study"))


@pytest.fixture
def disk():
    """A small disk of its own: a context manager of a place and mount's options; gives a function
    to remount it.
    """

    @contextlib.contextmanager
    def mounted(place, options):
        place.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if (
            os.getuid()
            or not shutil.which("mount")
            or subprocess.run(command, capture_output=True).returncode
        ):
            pytest.skip("only root can mount a small disk")
        try:
            yield lambda changed: subprocess.run(
                ["mount", "-o", f"remount,{changed}", str(place)], check=True
            )
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)

    return mounted


def pytest_collection_modifyitems(items):
    """The notebooks take longest: with two workers one begins with them."""
    items.sort(key=lambda item: item.path.name != "test_suite.py")


@pytest.fixture(scope="session")
def project():
    return Path(__file__).resolve().parents[1]
