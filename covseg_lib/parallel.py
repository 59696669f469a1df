"""Many cases at once: in threads of this process, or on a Dask cluster."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor, as_completed

import psutil
from tqdm import tqdm

from covseg_lib import colab

MOST_NOTEBOOKS = 3  # the report's three trainings; a kernel that starts leaves the cores to others half of the time
BYTES_A_NOTEBOOK = 4e9  # that training at the report's sizes takes


@contextlib.contextmanager
def executor(scheduler="", workers=None):
    """Yield a concurrent.futures executor.

    Parameters
    ----------
    scheduler : str
        Address of a dask.distributed scheduler, as "tcp://10.0.0.1:8786"; the study and the data set must lie on a
        file system that its workers share. Empty: threads of this process (gunzip and NumPy leave the GIL alone).
    workers : int, optional
        How many threads; by default one a core, four at most: each holds a volume in memory.
    """
    if not scheduler:
        with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
            yield pool
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError('a SCHEDULER needs dask.distributed: pip install "dask[distributed]"') from error
    with Client(scheduler, timeout="20s") as client:
        yield client.get_executor(pure=False, retries=3)


def run(pool, function, jobs, description):
    """Return [function(*job) for job in jobs], computed by an executor, with a progress bar.

    Without one (None), jobs are done one after the other. The first error stops what has not started and is raised.
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


def default_workers():
    """Return how many notebooks run at a time: one on a GPU, else up to three, as far as the memory is enough."""
    if colab.has_gpu():
        return 1
    return int(min(MOST_NOTEBOOKS, max(1, psutil.virtual_memory().available // BYTES_A_NOTEBOOK)))


@contextlib.contextmanager
def shared_cores(workers):
    """Let each of several kernels that are started in this block compute in its part of the cores only."""
    names = ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
    ours = {} if workers == 1 else dict.fromkeys(names, str(max(1, (os.cpu_count() or 1) // workers)))
    ours = {name: value for name, value in ours.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
