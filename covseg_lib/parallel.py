"""Many cases at once: in threads of this process, or on a Dask cluster."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from covseg_lib import colab

MAX_NOTEBOOKS = 3  # the report's three trainings; a starting kernel uses little of its cores
BYTES_PER_NOTEBOOK = 4e9  # memory of a training at the report's sizes


@contextlib.contextmanager
def executor(scheduler: str = "", workers: int | None = None) -> Iterator[Executor]:
    """Yield a concurrent.futures executor.

    Parameters
    ----------
    scheduler : str
        Address of a dask.distributed scheduler, for example "tcp://10.0.0.1:8786". Its workers
        must share the file system with the study and the data set. Empty: threads of this process
        (gunzip and NumPy release the GIL).
    workers : int, optional
        Number of threads. Default: one a core, at most four, because each holds a volume in memory.

    Raises
    ------
    ImportError
        A scheduler is given, and dask.distributed is not installed.
    """
    if not scheduler:
        with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(
            'a SCHEDULER needs dask.distributed: pip install "dask[distributed]"'
        ) from error
    with Client(scheduler, timeout="20s") as client:
        yield client.get_executor(pure=False, retries=3)


def run_jobs(
    pool: Executor | None, function: Callable, jobs: Sequence[tuple], description: str
) -> list[Any]:
    """Return [function(*job) for job in jobs], with a progress bar.

    The first error cancels the jobs that have not started, and is raised.

    Parameters
    ----------
    pool : concurrent.futures executor or None
        None: one job after the other.
    function : callable
    jobs : list of tuple
        The arguments of each call.
    description : str
        Text of the progress bar.
    """
    if pool is None:
        return [function(*job) for job in tqdm(jobs, desc=description, unit="job")]
    futures = [pool.submit(function, *job) for job in jobs]
    try:
        for future in tqdm(as_completed(futures), desc=description, unit="job", total=len(futures)):
            future.result()
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    return [future.result() for future in futures]


def default_workers() -> int:
    """Return how many notebooks run at a time: one on a GPU, else up to three if memory allows."""
    if colab.has_gpu():
        return 1
    limit = float(os.environ.get("MEM_LIMIT", "inf"))  # set by Binder
    fitting = int(min(psutil.virtual_memory().available, limit) // BYTES_PER_NOTEBOOK)
    return min(MAX_NOTEBOOKS, max(1, fitting))


def prepare_kernels() -> None:
    """Set environment variables of the kernels that are started from now on, unless they are set.

    TensorFlow's log, which breaks the progress bar, is turned off. On a GPU, JAX and TensorFlow
    write what they have compiled into ~/.cache/covseg, so the next run of the same network and
    batch size starts at once.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if colab.has_gpu():
        folder = Path.home() / ".cache" / "covseg"
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "jax"))
        flag = f"--tf_xla_persistent_cache_directory={folder / 'tensorflow'}"
        os.environ.setdefault("TF_XLA_FLAGS", flag)


@contextlib.contextmanager
def shared_cores(workers: int) -> Iterator[None]:
    """Give each of `workers` kernels that are started in this block an equal part of the cores.

    TensorFlow and OpenMP read the numbers from environment variables; existing ones are kept.
    """
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    names = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS") if workers > 1 else ()
    added = {name: threads for name in names if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
