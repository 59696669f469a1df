import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from covseg_lib import files
from covseg_lib.__main__ import TABLE_2_1, main
from covseg_lib.batch import notebooks
from covseg_lib.data import preprocessing
from covseg_lib.evaluation import metrics
from covseg_lib.study import Study


def _write_half_and_fail(path):
    path.write_text("half")
    path.mkdir()


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old")
    with pytest.raises(FileExistsError), files.atomic(path) as temporary:
        _write_half_and_fail(temporary)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_write_makes_the_folder_and_leaves_nothing_beside(tmp_path):
    files.write_npy(tmp_path / "new" / "a.npy", np.arange(3))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.npy"]
    assert np.load(tmp_path / "new" / "a.npy").tolist() == [0, 1, 2]


def test_json_comes_back(tmp_path):
    files.write_json(tmp_path / "a.json", {"window": [-1250, 250]})
    assert files.read_json(tmp_path / "a.json") == {"window": [-1250, 250]}


def test_arrays_are_written_where_the_system_has_neither_fallocate_nor_madvise(
    tmp_path, monkeypatch
):
    monkeypatch.delattr("os.posix_fallocate", raising=False)
    monkeypatch.delattr("mmap.MADV_DONTNEED", raising=False)
    array = files.create_npy(tmp_path / "a.npy", np.uint8, (100, 2))
    for number, part in enumerate(preprocessing.chunks(array)):
        part[:] = 64 * number
    array.flush()
    assert np.load(tmp_path / "a.npy")[[0, 63, 64, 99], 0].tolist() == [0, 0, 64, 64]


def test_a_file_that_arrives_shorter_than_it_was_sent_is_an_error(tmp_path, monkeypatch):

    def lose_the_end(source, target, replace=os.replace):
        replace(source, target)
        os.truncate(target, 1)

    monkeypatch.setattr("os.replace", lose_the_end)
    with pytest.raises(OSError, match=r"a\.json.*has 1 of \d+ bytes.*run this again"):
        files.write_json(tmp_path / "a.json", {"window": [-1250, 250]})


def test_overwriting_checks_the_size_too(tmp_path, monkeypatch):
    files.overwrite(tmp_path / "a.npz", b"whole")
    assert (tmp_path / "a.npz").read_bytes() == b"whole"
    monkeypatch.setattr("os.fsync", lambda number: os.truncate(tmp_path / "a.npz", 2))
    with pytest.raises(OSError, match=r"has 2 of 5 bytes"):
        files.overwrite(tmp_path / "a.npz", b"whole")


def test_json_that_is_damaged_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"window": [')
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        files.read_json(tmp_path / "a.json")


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    """With one temporary name for all they had 193 errors in such a loop."""
    path = tmp_path / "a.json"

    def write(number):
        for _ in range(100):
            files.write_json(path, {"by": [number] * 1000})
            assert len(set(files.read_json(path)["by"])) == 1

    with ThreadPoolExecutor(2) as both:
        list(both.map(write, range(2)))
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_what_a_killed_writer_left_is_removed_after_an_hour(tmp_path):
    old, new = (tmp_path / f".part-{name}-a.json" for name in ("killed", "running"))
    for part in (old, new):
        part.touch()
    os.utime(old, (0, 0))
    files.write_json(tmp_path / "a.json", {})
    assert sorted(file.name for file in tmp_path.iterdir()) == [new.name, "a.json"]


def test_a_lock_is_waited_for_and_the_wait_is_explained(tmp_path, capsys):
    order = []

    def second():
        with files.locked(tmp_path / ".lock", "slicing the study"):
            order.append("second")

    with files.locked(tmp_path / ".lock", "slicing the study"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    said = "waiting: another program is slicing the study; this one continues after it\n"
    assert capsys.readouterr().out == said


def test_text_that_looks_like_a_number_comes_back_as_text(tmp_path):
    """A run called 001 was read as 1, a checksum of digits as a number, and 02 then asked for 01
    forever.
    """
    columns = {
        "run": ["001", "NA"],
        "model": ["1e5", "nan"],
        "pixels": ["12345678-00000001", "0012"],
    }
    columns["dice"] = [0.5, None]
    files.write_csv(tmp_path / "a.csv", pd.DataFrame(columns | {"lungs": ["", "l.nii"]}))
    table = files.read_csv(tmp_path / "a.csv")
    assert {name: table[name].tolist() for name in ("run", "model", "pixels", "lungs")} == {
        "run": ["001", "NA"],
        "model": ["1e5", "nan"],
        "pixels": ["12345678-00000001", "0012"],
        "lungs": ["", "l.nii"],
    }
    assert table["dice"].isna().tolist() == [False, True]
    assert files.read_csv(tmp_path / "a.csv", "run").index.tolist() == ["001", "NA"]


def test_the_score_called_precision_is_a_number(tmp_path):
    """Runs have a precision, too, which is text: float32."""
    (tmp_path / "scores.csv").write_text("model,precision\ndice,0.123456789012345\n")
    scores = files.read_csv(tmp_path / "scores.csv", "model")
    assert scores.round(4).to_string().endswith("0.1235")
    (tmp_path / "runs.csv").write_text("run,precision\n001,float32\n")
    assert files.read_csv(tmp_path / "runs.csv").to_numpy().tolist() == [["001", "float32"]]


def test_a_run_to_start_from_that_looks_like_a_number_is_text(tmp_path):
    (tmp_path / "runs.csv").write_text("run,start_from\n002,001\n003,\n")
    assert files.read_csv(tmp_path / "runs.csv")["start_from"].tolist() == ["001", ""]


def test_covseg_run_prints_tables_of_at_most_four_decimals(tmp_path, monkeypatch):
    number = 0.123456789012345
    index = pd.MultiIndex.from_tuples([("patient", "001")], names=["split", "model"])
    study = Study(tmp_path)
    study.save_table("scores", pd.DataFrame(dict.fromkeys(metrics.METRICS, number), index))
    study.save_table("table", pd.DataFrame(dict.fromkeys(TABLE_2_1, number), index))
    monkeypatch.setattr(notebooks, "run_notebooks", lambda *_: [Path("06_compare.ipynb")])
    said = CliRunner().invoke(main, ["run", "--study", str(tmp_path)]).output
    numbers = re.findall(r"\d+\.(\d+)", said.split("Table 2.1:")[1])
    assert numbers == ["1235"] * (len(TABLE_2_1) + len(metrics.METRICS))
    assert said.count("patient 001") == 2
