"""Colab, played by a stand-in: the notebooks' own set-up cell, Drive, packages, the end."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import nbformat
import numpy as np
import pytest
from colab_runtime import Runtime, set_up_cell
from nbclient.exceptions import CellExecutionError

from covseg_lib import colab
from covseg_lib.batch import notebooks
from covseg_lib.data import phantom, sources
from covseg_lib.data.slices import open_slices


def _wheel(folder, name, needs=""):
    """Write a wheel of an empty package."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def runtime(tmp_path):
    played = Runtime(tmp_path)
    played.install_from(tmp_path / "wheels")
    return played


def test_the_project_is_found_on_drive_and_the_study_lies_in_it(runtime, project):
    runtime.put_project(project, runtime.on_drive / "Courses" / "my covseg")
    done = runtime.run_set_up()
    assert done.returncode == 0, done.stderr
    there = runtime.content / "drive" / "MyDrive" / "Courses" / "my covseg"
    assert f"library: {there}" in done.stdout
    assert f"study: {there}/study" in done.stdout
    assert f"mounting {runtime.content}/drive" in done.stdout


def test_a_mounted_drive_is_not_mounted_again(runtime, project):
    runtime.put_project(project, runtime.content / "drive" / "MyDrive" / "covseg")
    done = runtime.run_set_up()
    assert done.returncode == 0, done.stderr
    assert "mounting" not in done.stdout


def _walk(runtime):
    """Run 01 to 03 on small phantoms; return what they printed, and {file of the study: when it was
    written}.
    """
    printed = [
        runtime.run_all("01", PROFILE="demo"),
        runtime.run_all("02", SIZE=16),
        runtime.run_all("03", EPOCHS=1, BASE_FILTERS=2),
    ]
    study = runtime.content / "drive" / "MyDrive" / "covseg" / "study"
    assert all(f"study: {study}\n" in text for text in printed)
    files = sorted(path for path in study.rglob("*") if path.is_file())
    return printed, {path.relative_to(study).as_posix(): path.stat().st_mtime_ns for path in files}


def test_01_runs_on_colab_and_again_after_the_runtime_was_lost(runtime, project):
    runtime.put_project(project, runtime.on_drive / "covseg")
    study = runtime.content / "drive" / "MyDrive" / "covseg" / "study"
    fields = {"PROFILE": "demo", "CASES": ["phantom_02", "phantom_03"]}
    assert f"study: {study}\n" in runtime.run_all("01", **fields)
    written = {path: path.stat().st_mtime_ns for path in study.glob("sliced_data/*.npz")}
    assert len(written) == 2
    runtime.lose()
    assert "mounting" in runtime.run_all("01", **fields)
    assert {path: path.stat().st_mtime_ns for path in study.glob("sliced_data/*.npz")} == written


@pytest.mark.slow
@pytest.mark.parametrize("opened_from", ["GitHub", "Drive"])
def test_a_lost_runtime_costs_nothing_that_was_finished(runtime, project, tmp_path, opened_from):
    if opened_from == "GitHub":
        runtime.put_on_github(project, tmp_path / "github")
    else:
        runtime.put_project(project, runtime.on_drive / "covseg")
    printed, written = _walk(runtime)
    assert ["mounting" in text for text in printed] == [True, False, False]
    assert (runtime.content / "covseg").is_dir() == (opened_from == "GitHub")
    assert {
        "sliced_data/cases.csv",
        "processed_data/images.npy",
        "models/accuracy/best.weights.h5",
    } <= set(written)

    runtime.lose()
    printed, written_again = _walk(runtime)
    assert "mounting" in printed[0]
    assert "run accuracy has finished after 1 epochs: loaded, not trained again" in printed[2]
    for kept in ("dataset/", "sliced_data/phantom", "processed_data/", "models/"):
        assert any(file.startswith(kept) for file in written)
        assert [item for item in written_again.items() if item[0].startswith(kept)] == [
            item for item in written.items() if item[0].startswith(kept)
        ]


def test_a_missing_package_is_installed_and_nothing_else_moves(runtime, project, tmp_path):
    _wheel(tmp_path / "wheels", "covsegmissing")
    _wheel(tmp_path / "wheels", "numpy")  # pip would take it if it were let
    runtime.put_project(project, runtime.on_drive / "covseg", "covsegmissing>=1\n")
    done = runtime.run_set_up()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "covsegmissing.py").exists()
    assert not list((tmp_path / "site").glob("numpy*"))


def test_a_package_that_would_move_another_is_refused(runtime, project, tmp_path):
    _wheel(tmp_path / "wheels", "numpy")
    _wheel(tmp_path / "wheels", "covsegmissing", "Requires-Dist: numpy==1.0\n")
    runtime.put_project(project, runtime.on_drive / "covseg", "covsegmissing>=1\n")
    done = runtime.run_set_up()
    assert done.returncode != 0
    assert (
        "pip could not install covsegmissing>=1 beside the packages that this runtime has"
        in done.stderr
    )
    assert "conflict" in done.stderr
    assert not list((tmp_path / "site").glob("numpy*"))


def test_a_package_that_colab_has_in_a_wrong_version_names_the_runtime(runtime, project):
    runtime.put_project(project, runtime.on_drive / "covseg", "numpy<1.20\n")
    done = runtime.run_set_up()
    assert done.returncode != 0
    assert f"this runtime has numpy {np.__version__}, covseg needs numpy<1.20" in done.stderr
    assert colab.CHOOSE_RUNTIME in done.stderr


@pytest.mark.parametrize(
    ("code", "names_it"),
    [
        ("import no_such_package", True),
        ("import broken", True),  # another version of NumPy lacks what it needs
        ("import numpy\nnumpy.no_such_name", False),  # a slip in the notebook itself
    ],
)
def test_an_import_that_fails_names_the_runtime(runtime, project, tmp_path, code, names_it):
    runtime.put_project(project, runtime.on_drive / "covseg")
    (tmp_path / "site" / "broken.py").write_text("import numpy\nnumpy.no_such_name\n")
    cells = [f'STUDY, END_RUNTIME = "", False\n{set_up_cell()}', code]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with pytest.raises(CellExecutionError):
        runtime.run(notebook)
    (shown,) = [
        "\n".join(output.traceback)
        for output in notebook.cells[1].outputs
        if output.output_type == "error"
    ]
    assert "no_such" in shown
    assert (colab.CHOOSE_RUNTIME in shown) == names_it


LAST_CELL = "print('made')  # study.listing(...)"


def _run_cells(runtime, project, *cells):
    """Run cells on Colab, with the project on Drive.

    Returns the notebook, and what its cells printed up to the first one that failed.
    """
    runtime.put_project(project, runtime.on_drive / "covseg")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    with contextlib.suppress(CellExecutionError):
        runtime.run(notebook)
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    return notebook, "".join(out.text for out in outputs if out.get("name") == "stdout")


def _set_up(wanted):
    return f'STUDY, END_RUNTIME = "", {wanted}\n{set_up_cell()}'


@pytest.mark.parametrize("wanted", [True, False])
def test_the_runtime_ends_after_the_last_cell_if_wanted(runtime, project, wanted):
    _, printed = _run_cells(runtime, project, _set_up(wanted), "print('begun')", LAST_CELL)
    ended = "Drive is saved\nthe runtime ends\n" if wanted else ""
    assert printed.endswith(f"begun\nmade\n{ended}")


def test_the_set_up_cell_that_ran_last_decides_whether_the_runtime_ends(runtime, project):
    changed_his_mind = [_set_up(True), _set_up(False), LAST_CELL]
    _, printed = _run_cells(runtime, project, *changed_his_mind)
    assert printed.endswith("made\n")


def test_the_runtime_stays_while_the_browser_may_be_downloading(runtime, project, tmp_path):
    """Colab's download returns before the browser has the file."""
    folder = runtime.content / "segmented"
    folder.mkdir()
    download = f"colab.download_folder({str(folder)!r})\n{LAST_CELL}"
    _, printed = _run_cells(runtime, project, _set_up(True), download)
    assert (tmp_path / "segmented.zip").exists()
    assert printed.endswith(
        "made\nThe runtime was not ended, because the browser may still be downloading "
        "segmented.zip. When it has the file, choose Runtime, Disconnect and delete runtime.\n"
    )


def test_the_runtime_stays_if_the_last_cell_fails(runtime, project):
    """For example because the folder to download cannot be written as a zip file."""
    _, printed = _run_cells(runtime, project, _set_up(True), f"{LAST_CELL}\n1 / 0")
    assert printed.endswith("made\n")


def test_the_runtime_stays_if_drive_cannot_be_saved(runtime, project, tmp_path):
    with open(tmp_path / "site" / "google" / "colab" / "drive.py", "a") as file:
        file.write("def flush_and_unmount():\n    raise ValueError('timed out')\n")
    notebook, printed = _run_cells(runtime, project, _set_up(True), LAST_CELL)
    assert "the runtime ends" not in printed
    (error,) = [out for out in notebook.cells[1].outputs if out.output_type == "error"]
    assert error.evalue == (
        "Drive was not saved (timed out), so the runtime was not ended: check that Drive is "
        "connected and not full, then choose Runtime, Disconnect and delete runtime"
    )


def test_processes_on_one_gpu_share_its_memory(project):
    """The first one must not take all of it: TensorFlow and JAX read these at their import."""
    code = "import os, covseg_lib; print(os.environ['TF_FORCE_GPU_ALLOW_GROWTH'], "
    code += "os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'])"

    def printed(**environment):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("XLA_")}
        kept.pop("TF_FORCE_GPU_ALLOW_GROWTH", None)
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=project, env=kept | environment, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert printed() == "true false"
    assert printed(TF_FORCE_GPU_ALLOW_GROWTH="false") == "false false"


def test_jupyter_never_reaches_colab(project):
    wanted = colab._requirements(project / "requirements.txt")
    assert any(line.startswith("tensorflow>=") for line in wanted)
    assert not any(line.startswith(("jupyter", "nbval")) for line in wanted)
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    extras = tomllib.loads((project / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert any(line.startswith("nbval") for line in extras["notebooks"])
    assert "covseg[notebooks]" in extras["dev"]  # what make installs


def test_scans_are_uploaded_segmented_and_downloaded(runtime, project, tmp_path):
    """A phantom, a broken scan, and the model that ships: no study is needed."""
    runtime.put_project(project, runtime.content / "covseg")
    phantoms = {"scan_1": phantom.VARIED_PHANTOMS["varied_01"]}
    drawn = sources.write_phantoms(tmp_path / "phantoms", phantoms)
    shutil.copytree(drawn / "CT_scans", tmp_path / "laptop")
    (tmp_path / "laptop" / "scan_2.nii.gz").write_text("no scan")
    study = runtime.content / "study"
    printed = runtime.run_all("09", STUDY=str(study), UPLOAD=True, MODEL="shipped", SMALLEST_ML=0.1)
    assert "scan_2.nii.gz: no mask: scan_2.nii.gz is not a NIfTI file" in printed
    with zipfile.ZipFile(tmp_path / "segmented.zip") as archive:
        names = set(archive.namelist())
    assert {"masks/scan_1.nii.gz", "previews/scan_1.png"} <= names
    assert "masks/scan_2.nii.gz" not in names
    assert (study / "scores" / "segmented.csv").exists()


def test_an_upload_elsewhere_says_what_to_do(tmp_path):
    with pytest.raises(RuntimeError, match="UPLOAD works only on Colab: set SCANS"):
        colab.upload_files(tmp_path)


def test_elsewhere_nothing_is_installed(monkeypatch, tmp_path):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    (tmp_path / "requirements.txt").write_text("covsegmissing\n")
    assert colab.install_missing(tmp_path / "requirements.txt") == []


@pytest.mark.parametrize(
    ("on_colab", "gpus", "profile", "why"),
    [
        (True, ["Tesla T4"], "report", "on Colab with a GPU"),
        (True, [], "demo", f"on Colab, {colab.NO_GPU}"),
        (False, ["RTX"], "demo", "not on Colab"),
    ],
)
def test_auto_takes_the_report_only_on_colab_with_a_gpu(monkeypatch, on_colab, gpus, profile, why):
    monkeypatch.setattr(colab, "on_colab", lambda: on_colab)
    monkeypatch.setattr(colab, "_gpus", lambda: gpus)
    assert colab.pick_profile("auto") == (profile, why)
    assert colab.pick_profile("report") == (
        "report",
        f"asked for, {why}" if on_colab else "asked for",
    )
    with pytest.raises(ValueError, match="auto, demo or report"):
        colab.pick_profile("big")


def test_slices_are_read_from_the_runtimes_disk_and_copied_once(tiny_study, tmp_path, monkeypatch):
    from covseg_lib.data import preprocessing
    from covseg_lib.study import Study

    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    monkeypatch.setenv("COVSEG_CONTENT", str(tmp_path / "content"))
    study = Study(colab.drive() / "covseg" / "study")
    shutil.copytree(tiny_study.root, study.root)
    slices = open_slices(study)
    images, masks = slices.images, slices.masks
    for array, name in ((images, "images"), (masks, "masks")):
        assert str(array.filename).startswith(str(tmp_path / "content" / "covseg_on_runtime"))
        assert (array == getattr(open_slices(tiny_study), name)).all()
    copied = os.stat(images.filename)
    open_slices(study).images.sum()
    assert os.stat(images.filename).st_ino == copied.st_ino
    preprocessing.preprocess(study, 32)
    assert open_slices(study).images.shape[1] == 32


def test_a_copy_from_drive_that_is_cut_short_is_an_error_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    monkeypatch.setenv("COVSEG_CONTENT", str(tmp_path))
    on_drive = colab.drive() / "images.npy"
    on_drive.parent.mkdir(parents=True)
    on_drive.write_bytes(b"whole")
    monkeypatch.setattr("shutil.copy2", lambda source, target: target.write_bytes(b"wh"))
    with pytest.raises(OSError, match="was not copied completely"):
        colab.local_copy(on_drive)
    assert not list(tmp_path.rglob("covseg_on_runtime/*.npy"))


def test_two_runs_that_want_a_copy_at_once_make_one(tmp_path, monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    monkeypatch.setenv("COVSEG_CONTENT", str(tmp_path))
    on_drive, copied, copy2 = colab.drive() / "images.npy", [], shutil.copy2
    on_drive.parent.mkdir(parents=True)
    on_drive.write_bytes(b"whole")

    def slow(source, target):
        copied.append(source)
        time.sleep(0.3)
        copy2(source, target)

    monkeypatch.setattr("shutil.copy2", slow)
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(colab.local_copy, [on_drive] * 2)
    assert first == second
    assert first.read_bytes() == b"whole"
    assert len(copied) == 1


@pytest.mark.parametrize("path", notebooks.find_notebooks(), ids=lambda path: path.stem)
def test_a_notebook_imports_covseg_before_keras(path):
    """covseg_lib sets how TensorFlow and JAX take the memory of a GPU."""
    cells = nbformat.read(path, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    imported = re.findall(r"^ *(?:import|from) +(covseg_lib|keras|tensorflow|jax)\b", code, re.M)
    assert imported[0] == "covseg_lib"
