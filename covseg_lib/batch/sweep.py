"""Run a sweep: execute the missing runs of a grid, several at a time."""

import contextlib
import datetime
import os
from collections.abc import Sequence
from concurrent.futures import as_completed
from pathlib import Path

import filelock
import pandas as pd
import psutil
from tqdm import tqdm

from covseg_lib import parallel
from covseg_lib.batch import notebooks
from covseg_lib.batch.grid import SweepJob
from covseg_lib.colab import PROJECT
from covseg_lib.study import Study
from covseg_lib.training.run_folder import RunFolder

RUNNING = "running"  # in another process, which keeps its run


def run_sweep(
    study: Study, jobs: Sequence[SweepJob], workers: int | None = None, scheduler: str = ""
) -> pd.DataFrame:
    """Execute the jobs of a sweep that are not finished, and log them in notebooks/sweep.log.

    A run that fails does not stop the others. Each notebook runs in its own process, which frees
    its memory at the end. A run that was interrupted continues from its backup.

    Parameters
    ----------
    study : Study
    jobs : list of SweepJob, as `grid.plan_sweep` returns them
    workers : int, optional
        Number of notebooks that run at the same time, on an equal share of the cores each.
        Default: `parallel.default_workers`.
    scheduler : str
        Address of a Dask scheduler, to use its workers instead. They must share the folders of the
        study and of the project.

    Returns
    -------
    DataFrame, one row a job: run; state, which is "finished", "failed", or "running" in another
    process; why, the error of a failed run; notebook, the executed copy
    """
    workers = workers or parallel.default_workers()
    before = job_states(study, jobs)
    missing = [job for job, state in zip(jobs, before, strict=True) if state == "to do"]
    for job in missing:
        job.out.unlink(missing_ok=True)
    parallel.prepare_kernels()
    log, here = study.path("sweep_log"), Path.cwd()
    log.parent.mkdir(parents=True, exist_ok=True)
    finished = before.count("finished")
    try:
        with (
            tqdm(
                total=len(jobs), initial=finished, unit="run", desc="sweep", dynamic_ncols=True
            ) as bar,
            open(log, "a", encoding="utf-8") as file,
        ):
            if jobs:
                _write_log(file, f"sweep of {len(jobs)} runs, {len(missing)} to do")
            with parallel.shared_cores(workers), parallel.executor(scheduler, workers) as pool:
                futures = {pool.submit(execute_job, job): job for job in missing}
                outcomes = _follow(futures, bar, file)
    finally:
        os.chdir(here)
    rows = [
        (job.recipe.run, *outcomes.get(job.recipe.run, (state, "")), str(job.out))
        for job, state in zip(jobs, before, strict=True)
    ]
    return pd.DataFrame(rows, columns=["run", "state", "why", "notebook"])


def job_states(study: Study, jobs: Sequence[SweepJob]) -> list[str]:
    """Return the state of each job: "finished", "running" (in another process) or "to do"."""
    return [_state(study, job) for job in jobs]


def _state(study, job):
    if RunFolder.of(study, job.recipe.run).is_finished(job.recipe):
        return "finished"
    if not _lock_file(job).exists():  # locking would create it
        return "to do"
    with _locked(job) as is_ours:
        return "to do" if is_ours else RUNNING


def execute_job(job: SweepJob) -> tuple[str, str]:
    """Execute one job's notebook unless another process does.

    Returns
    -------
    state, which is "finished", "failed" or "running"; the error message if it failed, else ""
    """
    os.chdir(PROJECT)  # papermill changes folder, which all threads share: let it be the same one
    with _locked(job) as is_ours:
        if not is_ours:
            return RUNNING, ""
        try:
            notebooks.execute_notebook(job.notebook, job.out, job.parameters)
        except notebooks.NotebookFailed as error:
            return "failed", str(error)
        return "finished", ""


@contextlib.contextmanager
def _locked(job):
    """Lock a job and yield True, or yield False if another process holds the lock.

    The lock ends with the block, or with this process. On a file system without locks this yields
    True, and nothing is locked.
    """
    lock = filelock.FileLock(_lock_file(job))
    job.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    except NotImplementedError:
        pass
    try:
        yield True
    finally:
        lock.release()


def _lock_file(job):
    return job.out.with_name(f".{job.out.stem}.lock")


def _follow(futures, bar, file):
    """Wait for the jobs in {future: job}; return {run: (state, error message)}.

    When this process is interrupted (Ctrl-C), the notebooks are killed at once.
    """
    outcomes = {}
    try:
        for future in as_completed(futures):
            run = futures[future].recipe.run
            state, why = _outcome(future)
            outcomes[run] = (state, why)
            bar.update(state == "finished")
            _write_log(file, f"{run} {state} {why}".rstrip())
    except BaseException:
        for future in futures:
            future.cancel()
        _kill_kernels()
        raise
    return outcomes


def _outcome(future):
    error = future.exception()  # for example a full disk, or a Dask worker that died three times
    return ("failed", f"{type(error).__name__}: {error}") if error else future.result()


def _kill_kernels():
    """Kill the notebooks that this process started. Their backups stay complete."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "ipykernel_launcher" in process.cmdline():
                process.kill()


def _write_log(file, text):
    file.write(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")
    file.flush()
