"""01 and 02 killed, on a full disk, in a read-only folder, on a cluster: run again, the bytes are
the same.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import nibabel as nib
import numpy as np
import pytest
from conftest import find_cases, write_volume

from covseg_lib import files, parallel
from covseg_lib.data import cases, preprocessing, slicing
from covseg_lib.data.slices import open_slices
from covseg_lib.images import resizing
from covseg_lib.settings import Reading
from covseg_lib.study import Study

MOMENTS = int(os.environ.get("COVSEG_KILLS", 3))  # `make test-all` kills it twenty times


def steps(folder, root, scheduler=""):
    """What notebooks 01 and 02 do."""
    study = Study(root)
    found, left_over = cases.pair_files(folder)
    with parallel.executor(scheduler, workers=2) as pool:
        slicing.slice_cases(found, study, pool=pool, left_over=left_over)
        study.create("demo", source="folder", dataset=str(folder), step=1)
    preprocessing.preprocess(study, 16)
    return contents(root)


def contents(root):
    """Return {file: bytes} of a study."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_interruptions
import numpy, pandas  # imported before the count begins
root, moment, count = sys.argv[3], int(sys.argv[4]), 0

def at_every_touch_of_the_study(event, arguments):
    global count
    touches = event in ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate")
    if touches and os.path.basename(root) in str(arguments[0]):
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(at_every_touch_of_the_study)
test_interruptions.steps(Path(sys.argv[2]), Path(root))
print(count)
"""


def _killed(folder, root, moment, project):
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(project / "tests"),
        str(folder),
        str(root),
        str(moment),
    ]
    return subprocess.run(command, cwd=project, capture_output=True, text=True)


def test_killed_at_any_moment(tiny_dataset, tmp_path, project):
    undisturbed = steps(tiny_dataset, tmp_path / "whole")
    touches = int(_killed(tiny_dataset, tmp_path / "counted", 0, project).stdout)
    assert contents(tmp_path / "counted") == undisturbed
    assert touches > MOMENTS
    for moment in np.linspace(1, touches, MOMENTS).astype(int):
        root = tmp_path / f"killed_{moment}"
        assert _killed(tiny_dataset, root, moment, project).returncode == -signal.SIGKILL
        assert steps(tiny_dataset, root) == undisturbed, f"killed at touch {moment} of {touches}"


def test_an_interrupted_run_does_not_do_again_what_was_done(tiny_dataset, tmp_path, monkeypatch):
    whole = steps(tiny_dataset, tmp_path / "study")
    done = []
    monkeypatch.setattr(slicing, "read_pair", lambda *_: done.append("sliced"))
    monkeypatch.setattr(resizing, "resize_image", lambda *_: done.append("resized"))
    assert steps(tiny_dataset, tmp_path / "study") == whole
    assert done == []


def _interrupt(monkeypatch, found, study, reading):
    """Slice, and be interrupted when two cases are staged."""
    read = slicing.read_pair
    begun = []

    def read_or_stop(case, reading):
        begun.append(case)
        if len(begun) > 2:
            raise KeyboardInterrupt
        return read(case, reading)

    with monkeypatch.context() as patch:
        patch.setattr(slicing, "read_pair", read_or_stop)
        with pytest.raises(KeyboardInterrupt):
            slicing.slice_cases(found, study, reading)
    return [path.stem for path in files.staging_path(study.path("sliced_data")).iterdir()]


def _pixels(study):
    """Return {case: bytes} of the files in sliced_data."""
    return {path.stem: path.read_bytes() for path in study.path("sliced_data").glob("*.npz")}


OTHER_READINGS = {
    "window": Reading(window_hu=(-1000, 100)),
    "step": Reading(step=2),
    "labels": Reading(lesion_labels=(2,)),
    "intensities": Reading(intensities="hu"),
    "orientation": Reading(orientation="RAS"),
}


@pytest.mark.parametrize("kind", OTHER_READINGS)
def test_what_an_interrupted_run_staged_with_other_settings_is_not_used(
    tiny_study, tiny_dataset, monkeypatch, kind
):
    """Cases that were sliced with the first settings kept the second ones' pixels."""
    found = find_cases(tiny_dataset)
    before = _pixels(tiny_study)
    _interrupt(monkeypatch, found, tiny_study, OTHER_READINGS[kind])
    slicing.slice_cases(found, tiny_study, tiny_study.reading())
    assert _pixels(tiny_study) == before
    assert not files.staging_path(tiny_study.path("sliced_data")).exists()


def test_what_was_staged_of_a_file_that_changed_back_is_not_used(
    tiny_study, tiny_dataset, monkeypatch
):
    found = find_cases(tiny_dataset)
    before = _pixels(tiny_study)
    for case in found[:3]:
        case.mask.rename(case.mask.with_suffix(".kept"))
        write_volume(case.mask, np.ones((20, 16, 5), np.uint8))
    _interrupt(monkeypatch, found, tiny_study, tiny_study.reading())
    for case in found[:3]:
        case.mask.with_suffix(".kept").replace(case.mask)
    slicing.slice_cases(found, tiny_study, tiny_study.reading())
    assert _pixels(tiny_study) == before


def test_what_was_staged_of_a_case_that_is_not_wanted_any_more_is_removed(
    tiny_dataset, tmp_path, monkeypatch
):
    found, study = find_cases(tiny_dataset), Study(tmp_path / "study")
    unwanted, wanted = _interrupt(monkeypatch, found, study, Reading())
    found = [case for case in found if case.name != unwanted]
    staged = _interrupt(monkeypatch, found, study, Reading())
    assert wanted in staged
    assert unwanted not in staged


def test_what_an_interrupted_run_staged_is_not_sliced_again(tiny_dataset, tmp_path, monkeypatch):
    found, study = find_cases(tiny_dataset), Study(tmp_path / "study")
    _interrupt(monkeypatch, found, study, Reading())
    read, again = slicing.read_pair, []
    monkeypatch.setattr(slicing, "read_pair", lambda case, *_: again.append(case) or read(case))
    slicing.slice_cases(found, study)
    assert len(again) == 3


def test_a_file_that_changes_after_it_was_read_is_sliced_again(
    tiny_study, tiny_dataset, monkeypatch
):
    """The file's time was taken after it was read: the old pixels passed for the new ones."""
    found = find_cases(tiny_dataset)
    read = slicing.read_pair

    def read_then_change(case, reading):
        pair = read(case, reading)
        image = nib.load(case.image)
        write_volume(case.image, np.asarray(image.dataobj) + 1, image.affine)
        return pair

    with monkeypatch.context() as patch:
        patch.setattr(slicing, "read_pair", read_then_change)
        slicing.slice_cases(found, tiny_study, Reading(step=2))
    table, _ = slicing.slice_cases(found, tiny_study, Reading(step=2))
    again, _ = slicing.slice_cases(found, Study(tiny_study.root / "again"), Reading(step=2))
    assert table["pixels"].tolist() == again["pixels"].tolist()


def test_a_change_makes_again_what_depends_on_it_and_nothing_else(tiny_study, tiny_dataset):
    def times():
        files = (*tiny_study.path("sliced_data").glob("*.npz"), tiny_study.path("images"))
        return {path.stem: path.stat().st_mtime_ns for path in files}

    before = times()
    image = nib.load(tiny_dataset / "CT_scans" / "scan_2.nii.gz")
    nib.save(
        nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine),
        tiny_dataset / "CT_scans" / "scan_2.nii.gz",
    )
    slicing.slice_cases(find_cases(tiny_dataset), tiny_study)
    with pytest.raises(ValueError, match="run notebook 02 again"):
        open_slices(tiny_study).subset("train")
    preprocessing.preprocess(tiny_study, 16)
    assert {name for name, changed in times().items() if changed != before[name]} == {
        "scan_2",
        "images",
    }
    before = times()
    preprocessing.preprocess(tiny_study, 16, seed=1)
    assert {name for name, changed in times().items() if changed != before[name]} == {"images"}


def _error(*arguments):
    try:
        steps(*arguments)
    except OSError as error:
        return str(error)


def test_a_disk_that_fills_up(tiny_dataset, tmp_path, disk):
    undisturbed = steps(tiny_dataset, tmp_path / "whole")
    with disk(tmp_path / "disk", "size=8k") as remount:
        errors = []
        for size in range(8, 200, 12):
            remount(f"size={size}k")
            errors.append(_error(tiny_dataset, tmp_path / "disk" / "study"))
            if errors[-1] is None:
                break
        assert len(errors) > 5
        assert all("No space left" in said and "free some space" in said for said in errors[:-1]), (
            errors
        )
        assert contents(tmp_path / "disk" / "study") == undisturbed


def test_a_read_only_folder(tiny_dataset, tmp_path, disk):
    undisturbed = steps(tiny_dataset, tmp_path / "whole")
    with disk(tmp_path / "disk", "size=1m") as remount:
        remount("ro")
        with pytest.raises(OSError, match=r"Read-only file system: .* cannot be written"):
            steps(tiny_dataset, tmp_path / "disk" / "study")
        remount("rw")
        assert steps(tiny_dataset, tmp_path / "disk" / "study") == undisturbed


def test_kaggles_names_give_zenodos_slices(tmp_path):
    zenodo, kaggle = tmp_path / "zenodo", tmp_path / "kaggle"
    names = {
        "coronacases_001": ("coronacases_org_001", "coronacases_001"),
        "radiopaedia_30_86490_1": (
            "radiopaedia_org_covid-19-pneumonia-29_86490_1-dcm",
            "radiopaedia_29_86490_1",
        ),
        "radiopaedia_10_85902_1": (
            "radiopaedia_org_covid-19-pneumonia-10_85902_1-dcm",
            "radiopaedia_10_85902_1",
        ),
        "radiopaedia_4_85506_1": (
            "radiopaedia_org_covid-19-pneumonia-4_85506_1-dcm",
            "radiopaedia_4_85506_1",
        ),
    }
    for number, (case, (image_name, mask_name)) in enumerate(names.items()):
        image = np.random.default_rng(number).integers(-1000, 200, (20, 16, 5)).astype(np.int16)
        for array, theirs, ours, name in (
            (image, "ct_scans", "COVID-19-CT-Seg_20cases", image_name),
            ((image > 0).astype(np.uint8), "infection_mask", "Infection_Mask", mask_name),
        ):
            for path in (kaggle / theirs / f"{name}.nii", zenodo / ours / f"{case}.nii.gz"):
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    made = [steps(folder, folder / "study") for folder in (zenodo, kaggle)]
    for name in ("images.npy", "masks.npy", "slices.csv"):
        assert made[0][f"processed_data/{name}"] == made[1][f"processed_data/{name}"]


@contextlib.contextmanager
def _cluster(tmp_path, project):
    """Start a Dask scheduler and two workers, each a process of its own; yield its address and the
    workers.
    """
    pytest.importorskip("distributed")
    environment = os.environ | {
        "PYTHONPATH": str(project),
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "5",
    }
    where = tmp_path / "scheduler.json"

    def start(*command):
        command = [
            sys.executable,
            "-m",
            "dask",
            *command,
            "--scheduler-file",
            str(where),
            "--no-dashboard",
        ]
        return subprocess.Popen(
            command,
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    scheduler = start("scheduler", "--port", "0", "--host", "127.0.0.1")
    workers = [start("worker", "--nthreads", "1", "--no-nanny", "--name", str(n)) for n in range(2)]
    try:
        from distributed import Client

        while not where.exists():
            time.sleep(0.1)
        with Client(scheduler_file=str(where), timeout="30s") as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        yield address, workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_two_dask_workers_give_the_same_bytes_also_when_one_is_killed(
    tiny_dataset, tmp_path, project
):
    undisturbed = steps(tiny_dataset, tmp_path / "whole")
    with _cluster(tmp_path, project) as (address, workers):
        assert steps(tiny_dataset, tmp_path / "dask", address) == undisturbed
        workers[0].send_signal(signal.SIGSTOP)  # it takes tasks and does not finish them
        killer = threading.Timer(3, workers[0].kill)
        killer.start()
        started = time.monotonic()
        assert steps(tiny_dataset, tmp_path / "killed", address) == undisturbed
        assert time.monotonic() - started > 2.5, "no task was on the worker that was killed"


def test_a_study_that_is_a_disk_of_its_own(tiny_dataset, tmp_path, disk):
    undisturbed = steps(tiny_dataset, tmp_path / "whole")
    with disk(tmp_path / "study", "size=1m"):
        assert steps(tiny_dataset, tmp_path / "study") == undisturbed


@pytest.mark.parametrize("left", [0, 500])
def test_a_damaged_file_of_a_case_is_sliced_again(tiny_dataset, tmp_path, left):
    undisturbed = steps(tiny_dataset, tmp_path / "study")
    file = Study(tmp_path / "study").path("sliced_case", case="scan_3")
    file.write_bytes(file.read_bytes()[:left])
    assert steps(tiny_dataset, tmp_path / "study") == undisturbed
