"""A sweep: what is missing of a grid of papermill runs is executed, several at a time, and followed."""

import contextlib
import datetime
import json
import os
from concurrent.futures import wait
from pathlib import Path

import filelock
import pandas as pd
import psutil
from tqdm import tqdm

from covseg_lib import parallel, recipes, runner
from covseg_lib.colab import PROJECT

UNDER_WAY = "under way"  # in another process, which is left alone


def run(study, jobs, workers=None, scheduler=""):
    """Execute what of a sweep is missing, and log it in notebooks/sweep.log.

    A run that fails does not stop the others. Each notebook has a process of its own, which frees its memory at its
    end. A run that was cut off goes on from its backup.

    Parameters
    ----------
    study : Study
    jobs : list of Job, as `grid.plan` returns them
    workers : int, optional
        How many notebooks at a time; by default as `parallel.default_workers` says. They share the cores: each gets
        its part of TensorFlow's threads.
    scheduler : str
        Address of a dask.distributed scheduler instead, whose workers share the study's folder and the project's.

    Returns
    -------
    DataFrame, one row a job: run, state ("finished", "under way" in another process, "failed"), why, notebook
    """
    workers = workers or parallel.default_workers()
    before = states(study, jobs)
    missing = [job for job, state in zip(jobs, before, strict=True) if state == "to do"]
    for job in missing:
        job.out.unlink(missing_ok=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    log, here = study.path("sweep_log"), Path.cwd()
    log.parent.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(jobs), initial=before.count("finished"), unit="run", desc="sweep", dynamic_ncols=True)
    try:
        with bar, open(log, "a", encoding="utf-8") as file:
            if jobs:
                _say(file, f"sweep of {len(jobs)} runs, {len(missing)} to do")
            with parallel.shared_cores(workers), parallel.executor(scheduler, workers) as pool:
                outcomes = _follow({pool.submit(execute, job): job for job in missing}, bar, file)
    finally:
        os.chdir(here)
    found = [
        (job.recipe.run, *outcomes.get(job.recipe.run, (state, "")), str(job.out))
        for job, state in zip(jobs, before, strict=True)
    ]
    return pd.DataFrame(found, columns=["run", "state", "why", "notebook"])


def states(study, jobs):
    """Return for each job "finished", "under way" (in another process) or "to do"."""
    return [_state(study, job) for job in jobs]


def execute(job):
    """Execute one job's notebook, unless another process does; return its state and, where it failed, why."""
    os.chdir(PROJECT)  # papermill changes folder and back for each notebook: threads would change it under each other
    with _only_one(job) as alone:
        if not alone:
            return UNDER_WAY, ""
        try:
            runner.execute(job.notebook, job.out, job.parameters)
        except runner.NotebookFailed as error:
            return "failed", str(error)
        return "finished", ""


def _state(study, job):
    if recipes.is_finished(job.recipe, study):
        return "finished"
    if not _lock_file(job).exists():  # a look must not create it
        return "to do"
    with _only_one(job) as alone:
        return "to do" if alone else UNDER_WAY


@contextlib.contextmanager
def _only_one(job):
    """Yield whether no other process has this job; it is ours then, until the block or this process ends, or is killed.

    Where the file system knows no locks, nobody is kept off.
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
    """Wait for jobs, {future: job}; return their outcomes by run. What is interrupted ends at once."""
    outcomes, pending = {}, set(futures)
    try:
        while pending:
            done, pending = wait(pending, timeout=1)
            for future in done:
                job, error = futures[future], future.exception()  # as of a full disk, or of a worker that died thrice
                state, why = ("failed", f"{type(error).__name__}: {error}") if error else future.result()
                outcomes[job.recipe.run] = state, why
                bar.update(state == "finished")
                _say(file, f"{job.recipe.run} {state} {why}".rstrip())
            bar.set_postfix_str(", ".join(filter(None, (_where(futures[future]) for future in pending))))
    except BaseException:
        for future in pending:
            future.cancel()
        for process in psutil.Process().children(recursive=True):  # backups are whole at any time
            with contextlib.suppress(psutil.Error):  # it has just ended
                if "ipykernel_launcher" in process.cmdline():
                    process.kill()
        raise
    return outcomes


def _where(job):
    """Return which cell of a job is being executed, as its copy on disk has it; "" before it is begun."""
    try:
        cells = json.loads(job.out.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError):  # not there yet, or being written
        return ""
    states = [cell["metadata"].get("papermill", {}).get("status") for cell in cells]
    return f"{job.recipe.run} cell {len(cells) - states.count('pending')}/{len(cells)}"


def _say(file, text):
    file.write(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {text}\n")
    file.flush()
