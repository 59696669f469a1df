"""Writing files so that a half-written one never looks whole."""

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap

NAMES = ("case", "patient", "lungs")  # columns of tables that hold no numbers, whatever they look like
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


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
    temporary = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        put_in_place(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
            raise _cannot_write(error, path) from error
        raise


def part_of(path):
    """Return the temporary path beside `path` that holds it while it is written."""
    return Path(path).with_name(f".part-{Path(path).name}")


def put_in_place(temporary, path):
    """Flush a finished temporary file to disk and rename it to `path`."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    size = os.path.getsize(temporary)
    os.replace(temporary, path)
    _require_size(path, size)


def require_writable(path):
    """Raise OSError if `path` cannot be written, before anything is computed that would have to go there."""
    probe = part_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _cannot_write(error, path) from error


def overwrite(path, data):
    """Write bytes to a file where it lies, and flush them; a kill leaves it torn, so its reader must know a whole one.

    Raises OSError, also where the file has not the size of `data` afterwards.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _cannot_write(error, path) from error
    _require_size(path, len(data))


def remove_parts(folder):
    """Remove what writers that were killed left in a folder."""
    for part in Path(folder).glob(".part-*"):
        part.unlink(missing_ok=True)


def create_npy(path, dtype, shape):
    """Create a .npy file of zeros with all its disk space, and return it as a memory map to write into.

    Without the space reserved, writing to a memory map on a full disk ends the process without a word.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
            with open(path, "rb+") as file:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    except OSError as error:
        raise _cannot_write(error, path) from error
    return array


def require_space(path, needed):
    """Raise OSError if the disk of `path` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(_existing(path)).free
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"{path} needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free: make room, run again"
        )


def _require_size(path, size):
    """Raise OSError if a file that was just written is shorter: a mounted Drive may have its name and not its bytes."""
    found = os.path.getsize(path)
    if found != size:
        raise OSError(errno.EIO, f"{path} has {found} of {size} bytes: look whether Drive is full, and run this again")


def _cannot_write(error, path):
    found = f"{os.strerror(error.errno)}: {path} cannot be written"
    free = f" ({shutil.disk_usage(_existing(path)).free / 1e9:.2f} GB free)" if error.errno != errno.EROFS else ""
    return OSError(
        error.errno,
        f"{found}{free}; free some space or choose another place, and run this again: what was finished is kept",
    )


def _existing(path):
    return next(folder for folder in Path(path).absolute().parents if folder.exists())


def write_json(path, value):
    """Write `value` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path):
    """Read a JSON file; ValueError where it is damaged."""
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): remove it, and run the notebook that makes it again") from error


def write_csv(path, table):
    """Write a pandas DataFrame, atomically, and return it; its index, where it has a name, as first columns."""
    flat = table.reset_index() if any(table.index.names) else table
    with atomic(path) as temporary:
        flat.to_csv(temporary, index=False)
    return table


def read_csv(path, index=None, gaps=True):
    """Read a table as a DataFrame; ValueError where it is damaged.

    Columns `NAMES` are text, as 001 is. Without `gaps` an empty cell is an empty text, and a patient NA is called so.
    """
    try:
        return pd.read_csv(path, index_col=index, dtype=dict.fromkeys(NAMES, str), keep_default_na=gaps)
    except ValueError as error:
        raise ValueError(f"{path} is no table ({error}): remove it, and make it again") from error


def write_npy(path, array):
    """Write an array as .npy, atomically."""
    with atomic(path) as temporary:
        np.save(temporary, array)


def open_npz(path):
    """Open an .npz file; a context manager that gives its arrays by name."""
    return np.load(path, allow_pickle=False)


def write_figure(path, figure):
    """Write a Matplotlib figure as an image, atomically, and return it."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100, bbox_inches="tight", facecolor="white")
    return figure


def write_bytes(path, data):
    """Write bytes, atomically, and return them."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return data
