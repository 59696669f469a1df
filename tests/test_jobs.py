"""Many scans: what one of them costs the others, and what a second call does again."""

import errno
import os
import shutil

import filelock
import pytest
from click.testing import CliRunner
from tensorflow import errors

from covseg_lib import files
from covseg_lib.__main__ import main
from covseg_lib.plots import volume_plots
from covseg_lib.scans import jobs, segment, segmenters


class ResourceExhaustedError(Exception):
    """Has the name of TensorFlow's error, which is neither a MemoryError nor an OSError."""


@pytest.fixture
def scans(trained_study, tiny_dataset, tmp_path, monkeypatch):
    """Three scans, and the numbers of those that are segmented."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in (1, 2, 3):
        shutil.copy2(tiny_dataset / "CT_scans" / f"scan_{number}.nii.gz", folder)
    seen = []
    whole = segment.segment_scan

    def note(segmenter, path, *arguments):
        seen.append(int(path.name[5]))
        return whole(segmenter, path, *arguments)

    monkeypatch.setattr(segment, "segment_scan", note)
    return folder, seen


@pytest.fixture
def predict(scans, trained_study, tmp_path):
    """Call `covseg predict` on the scans; return its result and its table."""
    folder, _ = scans
    run = trained_study.path("run", run="dice").parent
    table = tmp_path / "table.csv"

    def call(*options):
        command = ["predict", folder, "--out", tmp_path / "masks", "--run", run, "--table", table]
        return CliRunner().invoke(main, list(map(str, [*command, *options]))), table

    return call


def _fail_at(monkeypatch, number, error):
    whole = segment.segment_scan

    def fail(segmenter, path, *arguments):
        if int(path.name[5]) == number:
            raise error
        return whole(segmenter, path, *arguments)

    monkeypatch.setattr(segment, "segment_scan", fail)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ResourceExhaustedError("OOM when allocating\nand more"), "not enough memory"),
        (RuntimeError("a fault\nwith details"), "RuntimeError: a fault"),
    ],
)
def test_an_error_of_any_class_costs_only_its_own_scan(predict, monkeypatch, error, said):
    _fail_at(monkeypatch, 2, error)
    done, table = predict()
    assert done.exit_code == 1
    assert "Error: 1 of 3 scans have no mask" in done.output
    rows = files.read_csv(table)
    assert rows["state"].tolist() == ["done", "failed", "done"]
    assert rows["message"][1].startswith(said)
    assert "\n" not in rows["message"][1]


def test_a_call_that_is_cut_off_is_continued(predict, scans, monkeypatch):
    _, seen = scans
    with monkeypatch.context() as patched:
        _fail_at(patched, 3, KeyboardInterrupt())
        _, table = predict()
    assert files.read_csv(table)["case"].tolist() == ["scan_1", "scan_2"]
    seen.clear()
    done, _ = predict()
    assert seen == [3]
    assert "2 of 3 scans are done already" in done.output
    rows = files.read_csv(table)
    assert rows["state"].tolist() == ["done"] * 3
    seen.clear()
    predict()
    assert seen == []
    assert files.read_csv(table).equals(rows)


def test_what_changed_is_segmented_again(predict, scans, tmp_path, trained_study):
    folder, seen = scans
    predict()
    (tmp_path / "masks" / "scan_1.nii.gz").unlink()
    os.utime(folder / "scan_3.nii.gz", (1, 1))
    seen.clear()
    predict()
    assert seen == [1, 3]
    for options in (["--threshold", "0.3"], ["--mirror"], ["--intensities", "hu"]):
        seen.clear()
        predict(*options)
        assert seen == [1, 2, 3], options


def test_a_failed_scan_is_tried_again(predict, scans, monkeypatch):
    _, seen = scans
    with monkeypatch.context() as patched:
        _fail_at(patched, 2, RuntimeError("once"))
        predict()
    seen.clear()
    assert predict()[0].exit_code == 0
    assert seen == [2]


def test_a_picture_that_fails_costs_no_mask(predict, scans, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no font")

    previews = tmp_path / "previews"
    previews.mkdir()
    (previews / "scan_1.png").write_text("picture of an earlier mask")
    with monkeypatch.context() as patched:
        patched.setattr(volume_plots, "preview", fail)
        done, table = predict("--preview", previews)
    assert done.exit_code == 0, done.output
    assert list(previews.iterdir()) == []
    rows = files.read_csv(table)
    assert rows["state"].tolist() == ["done"] * 3
    assert all("no preview: RuntimeError: no font" in message for message in rows["message"])
    assert len(list((tmp_path / "masks").iterdir())) == 3
    scans[1].clear()
    predict("--preview", previews)
    assert scans[1] == [1, 2, 3]
    assert len(list(previews.iterdir())) == 3


def test_another_table_is_not_overwritten(predict, scans, tmp_path):
    (tmp_path / "table.csv").write_text("case,age\nscan_1,60\n")
    done, table = predict()
    assert done.exit_code == 1
    assert "table.csv has the columns case, age, and would be overwritten" in done.output
    assert table.read_text() == "case,age\nscan_1,60\n"
    assert scans[1] == []


def test_one_program_at_a_time_writes_a_table(predict, tmp_path, monkeypatch):
    held = []

    def try_lock(*_):
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(tmp_path / ".table.csv.lock").acquire(timeout=0)
        held.append(True)
        raise ValueError("not needed")

    monkeypatch.setattr(segment, "segment_scan", try_lock)
    predict()
    assert held == [True] * 3
    filelock.FileLock(tmp_path / ".table.csv.lock").acquire(timeout=0)


def test_without_a_table_everything_is_segmented_again(scans, trained_study, tmp_path):
    folder, seen = scans
    segmenter = segmenters.read_segmenter([trained_study.path("run", run="dice").parent])
    planned = jobs.plan_scans(folder, tmp_path / "masks")
    for _ in range(2):
        jobs.segment_jobs(segmenter, planned, log=lambda line: None)
    assert seen == [1, 2, 3, 1, 2, 3]


def test_masks_that_another_call_replaced_are_made_again(predict, scans, tmp_path):
    """Two models that write to one folder, each with a table of its own."""
    _, seen = scans
    predict()
    predict("--threshold", "0.01", "--table", tmp_path / "other.csv")  # all voxels
    seen.clear()
    predict()
    assert seen == [1, 2, 3]
    (tmp_path / "masks" / "scan_2.nii.gz").write_bytes(b"cut off")
    seen.clear()
    predict()
    assert seen == [2]


def test_a_table_with_a_column_of_the_user_is_kept(predict, scans, tmp_path):
    """It is refused before the run is read, which does not exist."""
    _, table = predict()
    files.write_csv(table, files.read_csv(table).assign(notes="look again"))
    scans[1].clear()
    done, _ = predict("--run", tmp_path / "no_run")
    assert done.exit_code == 1
    assert "table.csv has the columns case, mask, ml" in done.output
    assert files.read_csv(table)["notes"].tolist() == ["look again"] * 3
    assert scans[1] == []


def test_a_name_that_cannot_be_printed_costs_no_mask(predict, scans, tmp_path):
    folder, _ = scans
    (folder / "scan_2.nii.gz").rename(os.fsdecode(os.fsencode(folder) + b"/scan_2\xff.nii.gz"))
    done, table = predict()
    assert done.exit_code == 0, done.output
    assert files.read_csv(table)["case"].tolist() == ["scan_1", r"scan_2\udcff", "scan_3"]
    assert len(list((tmp_path / "masks").iterdir())) == 3


@pytest.mark.parametrize("error", [BrokenPipeError("closed"), ValueError("I/O on closed file")])
def test_a_line_that_cannot_be_printed_costs_no_mask(scans, trained_study, tmp_path, error):
    def fail(line):
        raise error

    segmenter = segmenters.read_segmenter([trained_study.path("run", run="dice").parent])
    planned = jobs.plan_scans(scans[0], tmp_path / "masks")
    found = jobs.segment_jobs(segmenter, planned, log=fail)
    assert found["state"].tolist() == ["done"] * 3


def test_a_table_that_cannot_be_written_for_a_while_costs_no_mask(predict, scans, monkeypatch):
    whole = files.write_csv

    def fail_at_first(path, table):
        if len(table) == 1:
            raise OSError(28, "No space left on device")
        return whole(path, table)

    monkeypatch.setattr(files, "write_csv", fail_at_first)
    done, table = predict()
    assert done.exit_code == 0, done.output
    assert "WARNING: [Errno 28] No space left" in done.output
    assert files.read_csv(table)["state"].tolist() == ["done"] * 3


GRAPH = """Graph execution error:

Detected at node functional_1/conv2d_1/convolution defined at (most recent call last):
  File "/usr/lib/python3/threading.py", line 1002, in _bootstrap

<stack traces unavailable>
{}
\t [[{{{{node functional_1/conv2d_1/convolution}}}}]]
Hint: If you want to see a list of allocated tensors, add report_tensor_allocations_upon_oom."""
LAYER = "Exception encountered when calling Functional.call().\n\n\x1b[1m{}\x1b[0m\n\nArguments: 1"
NO_MEMORY = "not enough memory ({}): close other programs"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.ResourceExhaustedError(None, None, GRAPH.format("OOM")), "ResourceExhaustedError"),
        (errors.InternalError(None, None, GRAPH.format("CUDA out of memory")), "InternalError"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying"), "RuntimeError"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "OSError"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_lack_of_memory_says_what_to_do(error, said):
    assert jobs.explain(error).startswith(NO_MEMORY.format(said))
    assert "Change runtime type" in jobs.explain(error)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.InvalidArgumentError(None, None, GRAPH.format("bad")), "InvalidArgumentError: bad"),
        (ValueError(LAYER.format("Input 0 has no channel")), "Input 0 has no channel"),
        (KeyError("step"), "KeyError: 'step'"),
        (ValueError("scan.nii is not a NIfTI file"), "scan.nii is not a NIfTI file"),
        (AssertionError(), "AssertionError"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_of_many_lines_becomes_its_useful_line(error, said):
    assert jobs.explain(error) == said
