"""Writing files so that a half-written file never looks complete, and two writers never share one."""

import contextlib
import errno
import glob
import json
import os
import shutil
import time
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from tqdm import tqdm

TEXT_COLUMNS = (  # columns of our tables that hold text, even where it looks like a number: 001, 1e5, NA
    *("case", "patient", "image", "mask", "lungs", "pixels", "made_from"),
    *("run", "model", "other", "split", "side", "slice_split", "objective", "state", "precision", "device"),
)
ABANDONED_S = 3600  # a temporary file that has not changed for so long was left by a program that was killed
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


@contextlib.contextmanager
def atomic(path):
    """Write a temporary file, then rename it to `path` in one step.

    Yields a temporary path in the folder of `path`, with the same ending and a name of its own, so that two programs
    that write the same file do not meet: the last one to finish wins. When the block succeeds the file is flushed to
    disk and renamed; when it fails the temporary file is removed and `path` stays as it was.

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
    temporary = path.with_name(f".part-{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        yield temporary
        put_in_place(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
            raise _cannot_write(error, path) from error
        raise


@contextlib.contextmanager
def locked(path, purpose):
    """Hold the lock file `path` while the block runs; wait while another program holds it, and print why.

    The lock ends with the program that holds it, also when that is killed. Where the file system has no locks, the
    block runs without one.

    Parameters
    ----------
    path : Path
        The lock file; it is created, and stays.
    purpose : str
        What the lock protects, for the line that is printed: "slicing study/".
    """
    import filelock  # on Colab it may be missing until `colab.install_missing` has run

    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        tqdm.write(f"waiting: another program is {purpose}; this one continues when that has finished")
        lock.acquire()
    except NotImplementedError:
        pass
    except OSError as error:
        raise _cannot_write(error, path) from error
    try:
        yield
    finally:
        lock.release()


def part_of(path):
    """Return the path beside `path` that holds it while it is made, for a writer that holds a lock."""
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
    probe = path.with_name(f".part-{uuid.uuid4().hex[:12]}-{path.name}")
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
    """Remove temporary files that killed programs left in a folder, for a writer that holds the folder's lock."""
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


def _remove_abandoned(path):
    """Remove temporary files of `path` that a killed program left behind."""
    for part in path.parent.glob(f".part-*-{glob.escape(path.name)}"):
        with contextlib.suppress(OSError):  # another program may have just renamed it
            if time.time() - part.stat().st_mtime > ABANDONED_S:
                part.unlink()


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


def read_csv(path, index=None):
    """Read a table as a DataFrame; ValueError where the file is damaged.

    `TEXT_COLUMNS` are read as text: 001 stays 001, and a patient called NA is called NA. An empty cell is an empty
    text there, and NaN elsewhere.
    """
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False, na_values=[""])
    except ValueError as error:
        raise ValueError(f"{path} is no table ({error}): remove it, and make it again") from error
    texts = [name for name in TEXT_COLUMNS if name in table]
    table[texts] = table[texts].fillna("")
    return table.set_index(index) if index else table


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
