"""Atomic writes, so that no file is ever half-written; checked reads; and locks."""

import contextlib
import errno
import glob
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from tqdm import tqdm

if TYPE_CHECKING:  # Matplotlib is slow to import
    from matplotlib.figure import Figure

TEXT_COLUMNS = (  # columns that hold text, even if it looks like a number: 001, 1e5, NA
    *("case", "patient", "image", "mask", "lungs", "pixels", "made_from", "slice_split"),
    *("run", "model", "start_from", "other", "split", "subset", "objective", "state"),
    *("device", "warning", "message", "checksum"),
)
ABANDONED_S = 3600  # a temporary file this old belongs to a program that was killed
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Write a temporary file, then rename it to `path` in one step.

    Yields a temporary path in the folder of `path`, with the same ending and a unique name: of two
    programs that write the same file, the last one wins. If the block succeeds, the file is flushed
    to disk and renamed. If not, the temporary file is removed and `path` is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".part-{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        yield temporary
        rename_into_place(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
            raise _cannot_write(error, path) from error
        raise


@contextlib.contextmanager
def locked(path: Path, purpose: str) -> Iterator[None]:
    """Hold a lock while the block runs; if another program holds it, print why, and wait.

    The lock ends with the program that holds it, also if that is killed. If the file system does
    not support locks, the block runs without one.

    Parameters
    ----------
    path : Path
        The lock file. It is created and kept.
    purpose : str
        What the block does, for the message to other programs: "slicing the study study/".
    """
    import filelock  # on Colab it may be missing until `colab.install_missing` has run

    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        tqdm.write(f"waiting: another program is {purpose}; this one continues after it")
        lock.acquire()
    except NotImplementedError:
        pass
    except OSError as error:
        raise _cannot_write(error, path) from error
    try:
        yield
    finally:
        lock.release()


def staging_path(path: str | Path) -> Path:
    """Return a temporary path beside `path`, for a writer that holds a lock."""
    return Path(path).with_name(f".part-{Path(path).name}")


def rename_into_place(temporary: Path, path: Path) -> None:
    """Flush a finished temporary file to disk and rename it to `path`."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    size = os.path.getsize(temporary)
    os.replace(temporary, path)
    _require_size(path, size)


def check_writable(path: Path) -> None:
    """Raise OSError if `path` cannot be written: to be called before a long computation."""
    probe = path.with_name(f".part-{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _cannot_write(error, path) from error


def overwrite(path: Path, data: bytes | memoryview) -> None:
    """Write bytes directly into a file, without a temporary one, and flush them to disk.

    If the program is killed, the file is damaged, so its reader must check it. Raises OSError,
    also if the file has another size afterwards.
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


def remove_temporary_files(folder: Path, name: str = "") -> None:
    """Remove temporary files of killed programs (of the file `name`), if you hold the lock."""
    for part in Path(folder).glob(f".part-*{glob.escape(name)}"):
        part.unlink(missing_ok=True)


def create_npy(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """Create a .npy file of zeros with all its disk space; return a memory map to write into.

    Without reserved space, a full disk would end the process without a message.
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


def check_free_space(path: Path, needed: int) -> None:
    """Raise OSError if the disk of `path` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(_existing_parent(path)).free
    if free < needed:
        message = f"{path} needs {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free"
        raise OSError(errno.ENOSPC, f"{message}: free some space and run this again")


def _require_size(path, size):
    """Raise OSError if a file is incomplete: a mounted Drive may lose the end of a file."""
    found = os.path.getsize(path)
    if found != size:
        message = f"{path} has {found} of {size} bytes"
        raise OSError(errno.EIO, f"{message}: check whether Drive is full, and run this again")


def _remove_abandoned(path):
    for part in path.parent.glob(f".part-*-{glob.escape(path.name)}"):
        with contextlib.suppress(OSError):  # another program may have renamed it
            if time.time() - part.stat().st_mtime > ABANDONED_S:
                part.unlink()


def _cannot_write(error, path):
    message = f"{os.strerror(error.errno)}: {path} cannot be written"
    if error.errno != errno.EROFS:
        message += f" ({shutil.disk_usage(_existing_parent(path)).free / 1e9:.2f} GB free)"
    advice = "free some space or choose another place, and run this again: finished work is kept"
    return OSError(error.errno, f"{message}; {advice}")


def _existing_parent(path):
    return next(folder for folder in Path(path).absolute().parents if folder.exists())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; ValueError if it is damaged."""
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): remove it and run the notebook that makes it"
        ) from error


def write_csv(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Write a table, atomically, and return it; an index with a name becomes the first columns."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=any(table.index.names), errors="backslashreplace")
    return table


def read_csv(path: Path, index: str | None = None) -> pd.DataFrame:
    """Read a table, optionally with the column `index` as its index; ValueError if it is damaged.

    `TEXT_COLUMNS` are read as text: 001 stays 001, and a patient NA stays NA. An empty cell is ""
    in these columns and NaN in the others.
    """
    texts = dict.fromkeys(TEXT_COLUMNS, str)
    try:
        table = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""])
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as a table ({error}): fix it, or remove it and make it again"
        ) from error
    names = [name for name in TEXT_COLUMNS if name in table]
    table[names] = table[names].fillna("")
    return table.set_index(index) if index else table


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy, atomically."""
    with atomic(path) as temporary:
        np.save(temporary, array)


def open_npz(path: Path) -> np.lib.npyio.NpzFile:
    """Open an .npz file, a context manager that returns its arrays by name."""
    return np.load(path, allow_pickle=False)


def write_figure(path: Path, figure: "Figure") -> "Figure":
    """Write a Matplotlib figure as an image, atomically, and return it."""
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=100, bbox_inches="tight", facecolor="white")
    return figure


def write_bytes(path: Path, data: bytes) -> bytes:
    """Write bytes, atomically, and return them."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return data
