import contextlib
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

import nibabel as nib
import numpy as np
import pytest

from covseg_lib import dataset, slices
from covseg_lib.study import Study

LPS = np.diag([-1.0, -1.0, 2.0, 1.0])  # voxels run to the left, to the back and up


def write_volume(path, array, affine=LPS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def answers(notebook):
    """Return the code of the folded answers to a notebook's exercises."""
    return re.findall(r"```python\n(.*?)```", notebook.cells[-1].source, re.DOTALL)


@pytest.fixture
def tiny_dataset(tmp_path):
    """Five volumes of 20 x 16 x 5 in HU, of five patients; lesions are bright blocks in slices 1 to 3."""
    folder = tmp_path / "dataset"
    for number in range(1, 6):
        image = np.random.default_rng(number).integers(-1000, -700, (20, 16, 5)).astype(np.int16)
        mask = np.zeros((20, 16, 5), np.uint8)
        mask[4:12, 4 + number : 12, 1:4] = 1
        image[mask > 0] += 600
        write_volume(folder / "CT_scans" / f"scan_{number}.nii.gz", image)
        write_volume(folder / "Infection_Mask" / f"scan_{number}.nii.gz", mask)
    return folder


@pytest.fixture
def tiny_study(tiny_dataset, tmp_path):
    """A study of the tiny data set up to processed_data: 25 slices of 16 x 16, split by patient."""
    study = Study(tmp_path / "study")
    epochs = {"accuracy": 2, "iou": 2, "dice": 2}
    study.create("demo", source="folder", dataset=str(tiny_dataset), step=1, size=16, epochs=epochs, base_filters=2)
    slices.slice_cases(dataset.find_cases(tiny_dataset), study, step=1)
    slices.build(study, 16)
    return study


@pytest.fixture
def tiny_recipe(tiny_study):
    from covseg_lib import recipes

    return replace(recipes.make_recipe(tiny_study, "dice", learning_rate=1e-2), depth=2)


@pytest.fixture
def disk():
    """A small disk of its own: a context manager of a place and mount's options; gives a function to remount it."""

    @contextlib.contextmanager
    def mounted(place, options):
        place.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if os.getuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root can mount a small disk")
        try:
            yield lambda changed: subprocess.run(["mount", "-o", f"remount,{changed}", str(place)], check=True)
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)

    return mounted


@pytest.fixture(scope="session")
def project():
    return Path(__file__).resolve().parents[1]
