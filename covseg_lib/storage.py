"""Writing files so that a half-written one never looks whole."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np


@contextlib.contextmanager
def atomic(path):
    """Write a file beside its place, then put it there in one step.

    Yields a temporary path in the folder of `path`, with the same ending. When the block ends well the file is
    flushed to disk and renamed; when it fails the temporary file is removed and what stood at `path` stays.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with atomic(Path(folder.name) / "note.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> (Path(folder.name) / "note.txt").read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path, value):
    """Write `value` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path):
    """Read a JSON file."""
    return json.loads(Path(path).read_text())


def write_csv(path, table):
    """Write a pandas DataFrame without its index, atomically."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def write_npy(path, array):
    """Write an array as .npy, atomically."""
    with atomic(path) as temporary:
        np.save(temporary, array)


def open_npz(path):
    """Open an .npz file; a context manager that gives its arrays by name."""
    return np.load(path, allow_pickle=False)


def write_figure(path, figure):
    """Write a Matplotlib figure as an image, atomically."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100, bbox_inches="tight", facecolor="white")
