import numpy as np
import pytest

from covseg_lib import storage


def _write_half_and_fail(path):
    path.write_text("half")
    path.mkdir()


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("old")
    with pytest.raises(FileExistsError), storage.atomic(path) as temporary:
        _write_half_and_fail(temporary)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_write_makes_the_folder_and_leaves_nothing_beside(tmp_path):
    storage.write_npy(tmp_path / "new" / "a.npy", np.arange(3))
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.npy"]
    assert np.load(tmp_path / "new" / "a.npy").tolist() == [0, 1, 2]


def test_json_comes_back(tmp_path):
    storage.write_json(tmp_path / "a.json", {"window": [-1250, 250]})
    assert storage.read_json(tmp_path / "a.json") == {"window": [-1250, 250]}


def test_arrays_are_written_where_the_system_has_neither_fallocate_nor_madvise(tmp_path, monkeypatch):
    monkeypatch.delattr("os.posix_fallocate", raising=False)
    monkeypatch.delattr("mmap.MADV_DONTNEED", raising=False)
    array = storage.create_npy(tmp_path / "a.npy", np.uint8, (100, 2))
    for first, part in storage.chunks(array):
        part[:] = first
    array.flush()
    assert np.load(tmp_path / "a.npy")[[0, 63, 64, 99], 0].tolist() == [0, 0, 64, 64]
