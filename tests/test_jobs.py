"""Many scans: what one of them costs the others, and what a second call does again."""

import os
import shutil

import pytest
from click.testing import CliRunner

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


def test_a_picture_that_fails_costs_no_mask(predict, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no font")

    monkeypatch.setattr(volume_plots, "preview", fail)
    done, table = predict("--preview", tmp_path / "previews")
    assert done.exit_code == 0, done.output
    rows = files.read_csv(table)
    assert rows["state"].tolist() == ["done"] * 3
    assert all("no preview: RuntimeError: no font" in message for message in rows["message"])
    assert len(list((tmp_path / "masks").iterdir())) == 3


def test_another_table_is_not_overwritten(predict, scans, tmp_path):
    (tmp_path / "table.csv").write_text("case,age\nscan_1,60\n")
    done, table = predict()
    assert done.exit_code == 1
    assert "is a table without the column mask" in done.output
    assert table.read_text() == "case,age\nscan_1,60\n"
    assert scans[1] == []


def test_without_a_table_everything_is_segmented_again(scans, trained_study, tmp_path):
    folder, seen = scans
    segmenter = segmenters.read_segmenter([trained_study.path("run", run="dice").parent])
    planned = jobs.plan_scans(folder, tmp_path / "masks")
    for _ in range(2):
        jobs.segment_jobs(segmenter, planned, log=lambda line: None)
    assert seen == [1, 2, 3, 1, 2, 3]
