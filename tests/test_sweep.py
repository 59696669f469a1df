"""Sweeps of tiny trainings: planned, run, killed, repeated, in threads and on a Dask cluster."""

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import filelock
import numpy as np
import pandas as pd
import psutil
import pytest
from click.testing import CliRunner

from covseg_lib import files, parameters
from covseg_lib.__main__ import main
from covseg_lib.batch import grid, notebooks, runs, sweep
from covseg_lib.training.run_folder import RunFolder

SMALL = {"BASE_FILTERS": 2, "LEARNING_RATE": 1e-2}


@pytest.fixture
def jobs(tiny_study):
    return grid.plan_sweep(tiny_study, ["05"], {"EPOCHS": [1, 2], "SEED": [0, 1]}, SMALL)


def test_the_grid_has_every_combination_and_names_runs_after_it(jobs):
    assert [job.recipe.run for job in jobs] == [
        f"dice_epochs{epochs}_seed{seed}" for epochs in (1, 2) for seed in (0, 1)
    ]
    assert [(job.recipe.epochs, job.recipe.seed) for job in jobs] == [
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]
    assert all(job.recipe.base_filters == 2 for job in jobs)


def test_false_is_false_in_a_sweep_whether_varied_or_set_for_all_runs(tiny_study):
    vary = grid.parse_vary(["AUGMENTATION=false,true"])
    jobs = grid.plan_sweep(tiny_study, ["05"], vary, {"TENSORBOARD": "false"})
    assert [job.recipe.run for job in jobs] == ["dice_augmentationFalse", "dice_augmentationTrue"]
    assert [job.recipe.augmentation for job in jobs] == [False, True]
    assert [job.parameters["AUGMENTATION"] for job in jobs] == [False, True]
    assert [job.parameters["TENSORBOARD"] for job in jobs] == [False, False]


def test_a_sweep_in_a_dictionary_may_have_text_as_well(tiny_study):
    vary = {"AUGMENTATION": ["false"], "EPOCHS": ["3"]}
    (job,) = grid.plan_sweep(tiny_study, ["05"], vary)
    assert job.recipe.augmentation is False
    assert job.recipe.epochs == 3
    with pytest.raises(ValueError, match="dice_augmentationFalse would be trained twice"):
        grid.plan_sweep(tiny_study, ["05"], {"AUGMENTATION": ["false", False]})


def test_the_folds_of_a_model_share_its_name(tiny_study):
    jobs = grid.plan_sweep(tiny_study, ["03", "04"], {"FOLD": [0, 1], "LEARNING_RATE": [0.01]})
    assert [job.recipe.run for job in jobs][:2] == [
        "accuracy_learning_rate0.01",
        "accuracy_learning_rate0.01_fold1",
    ]
    assert {job.out.stem for job in jobs} == {job.recipe.run for job in jobs}


@pytest.mark.parametrize(
    ("numbers", "vary", "parameters", "message"),
    [
        (["05"], {"EPOCH": [1]}, {}, "no parameter EPOCH in 05_train_dice: it has EPOCHS, "),
        (["05"], {"EPOCHS": [1, "ten"]}, {}, "epochs is 'ten': expected"),
        (["05"], {"SEED": [-1]}, {}, "SEED is -1: expected"),
        (["05"], {"LEARNING_RATE": ["fast"]}, {}, "learning_rate is 'fast': expected"),
        (["05"], {"FOLD": [7]}, {}, "no fold 7 of the patient split"),
        (["05"], {"SPLIT": ["slcie"]}, {}, "no split 'slcie': expected \"slice\""),
        (["05"], {"BATCH_SIZE": [True]}, {}, "batch_size is True: expected"),
        (["05"], {"EPOCHS": []}, {}, "EPOCHS has no value to vary"),
        (["05"], {"EPOCHS": 15}, {}, "EPOCHS is 15: expected a list of the values to vary"),
        (["05"], {"SPLIT": "patient"}, {}, "SPLIT is 'patient': expected a list of the values"),
        (["05"], {"AUGMENTATION": ["maybe"]}, {}, "AUGMENTATION is 'maybe': expected True or"),
        (["05"], {"FOLD": ["first"]}, {}, "FOLD is 'first': expected a number"),
        (["05"], {"SEED": [1]}, {"LUNGS": 5}, "LUNGS is 5: expected text"),
        (["05"], {"SEED": [1]}, {"RESUME": False}, "RESUME cannot be given here"),
        (["05"], {"RUN": ["a", "b"]}, {}, "RUN cannot be given here"),
        (["05"], {"SEED": [1]}, {"SEED": 2}, "SEED is varied and set for all runs"),
        (["05", "06"], {"SHOW": [1]}, {}, "no parameter SHOW in 05_train_dice"),
        (["06"], {"SHOW": [1]}, {}, "notebook 06_predict_and_compare does not train: choose"),
        (["05"], {"SEED": [1, 1]}, {}, "dice_seed1 would be trained twice"),
        (["10"], {"SEED": [1]}, {}, "no notebook 10"),
        ([], {"SEED": [1]}, {}, "no notebook given"),
    ],
)
def test_an_invalid_grid_is_an_error_before_anything_runs(
    tiny_study, numbers, vary, parameters, message
):
    with pytest.raises(ValueError, match=re.escape(message)):
        grid.plan_sweep(tiny_study, numbers, vary, parameters)
    assert not tiny_study.path("models").exists()


def test_a_parameter_is_given_only_once():
    with pytest.raises(ValueError, match="give each parameter once"):
        grid.parse_vary(["EPOCHS=10", "EPOCHS=50"])


@pytest.mark.parametrize("text", ["EPOCHS", "EPOCHS=", "EPOCHS=1,,2", "=1", "A=1=2"])
def test_a_text_that_is_not_a_list_of_values_is_an_error(text):
    with pytest.raises(ValueError, match="expected NAME=VALUE,VALUE"):
        grid.parse_vary([text])


def _is_kernel(process):
    return "ipykernel_launcher" in process.cmdline()


def _kernels():
    return [process for process in psutil.Process().children(recursive=True) if _is_kernel(process)]


def _kill_one(study, run):
    """Kill the kernel that trains a run when its first epoch is on disk."""
    while not study.path("history", run=run).exists():
        time.sleep(0.05)
    for process in psutil.process_iter(["cmdline"]):
        if "ipykernel_launcher" not in " ".join(process.info["cmdline"] or []):
            continue
        if process.environ().get("COVSEG_TEST_SWEEP") == str(study.root):
            process.kill()


@pytest.mark.slow
def test_failed_runs_do_not_stop_the_others_and_are_retried(tiny_study, monkeypatch):
    monkeypatch.setenv("COVSEG_TEST_SWEEP", str(tiny_study.root))
    good = grid.plan_sweep(tiny_study, ["05"], {"SEED": [0, 1]}, SMALL | {"EPOCHS": 1})
    bad = grid.plan_sweep(tiny_study, ["05"], {"BACKUP_EVERY": [0]}, SMALL | {"EPOCHS": 1})
    long = grid.plan_sweep(tiny_study, ["03"], {"EPOCHS": [40]}, SMALL)
    killer = multiprocessing.get_context("spawn").Process(
        target=_kill_one, args=(tiny_study, long[0].recipe.run), daemon=True
    )
    killer.start()
    first = sweep.run_sweep(tiny_study, long, 1)  # alone, so that no other is killed
    killer.join()
    assert first["state"].tolist() == ["failed"]
    assert "its process died" in first["why"][0]
    second = sweep.run_sweep(tiny_study, [*good, *bad], 2)
    assert second["state"].tolist() == ["finished", "finished", "failed"]
    assert "backup_every is 0" in second["why"][2]
    made = [good[0].out, tiny_study.path("weights", run=good[0].recipe.run)]
    written = [path.stat().st_mtime_ns for path in made]
    third = sweep.run_sweep(tiny_study, [*good, *long], 2)
    assert third["state"].tolist() == ["finished"] * 3
    history = pd.read_csv(tiny_study.path("history", run=long[0].recipe.run))
    assert history["epoch"].tolist() == list(range(1, 41))
    assert [path.stat().st_mtime_ns for path in made] == written
    log = tiny_study.path("sweep_log").read_text()
    assert log.count("finished") == 3
    assert "sweep of 3 runs, 1 to do" in log
    listed = runs.list_runs(tiny_study)
    assert (listed["state"] == "finished").sum() == 3
    assert not _kernels()


def _hold(job, held, let_go):
    with sweep._locked(job) as is_ours:
        assert is_ours
        held.set()
        let_go.wait()


def test_a_run_of_another_process_is_skipped_until_that_process_ends(tiny_study, jobs):
    context = multiprocessing.get_context("spawn")
    held, let_go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(jobs[0], held, let_go), daemon=True)
    other.start()
    assert held.wait(60)
    assert sweep.job_states(tiny_study, jobs[:2]) == ["running", "to do"]
    assert sweep.execute_job(jobs[0]) == ("running", "")
    done = sweep.run_sweep(tiny_study, jobs[:1])
    assert done["state"].tolist() == ["running"]
    other.kill()
    other.join()
    assert sweep.job_states(tiny_study, jobs[:2]) == ["to do", "to do"]


def _kill_when(path, pid):
    while not path.exists():
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_cluster_with_a_killed_worker_gives_the_same_scores_as_threads(tiny_study, tmp_path):
    distributed = pytest.importorskip("distributed")
    jobs = grid.plan_sweep(tiny_study, ["05"], {"SEED": [0, 1]}, SMALL | {"EPOCHS": 20})
    assert set(sweep.run_sweep(tiny_study, jobs)["state"]) == {"finished"}
    here = {
        job.recipe.run: pd.read_csv(tiny_study.path("history", run=job.recipe.run)) for job in jobs
    }
    shutil.rmtree(tiny_study.path("models"))
    options = {
        "n_workers": 2,
        "threads_per_worker": 1,
        "dashboard_address": ":0",
        "local_directory": str(tmp_path),
    }
    with distributed.LocalCluster(**options) as cluster:
        begun = tiny_study.path("history", run=jobs[0].recipe.run)
        pid = cluster.workers[0].pid
        threading.Thread(target=_kill_when, args=(begun, pid), daemon=True).start()
        done = sweep.run_sweep(tiny_study, jobs, scheduler=cluster.scheduler_address)
        assert not psutil.pid_exists(pid)
    assert set(done["state"]) == {"finished"}
    for run, history in here.items():
        again = pd.read_csv(tiny_study.path("history", run=run))
        assert np.allclose(
            again.drop(columns="seconds"), history.drop(columns="seconds"), atol=1e-6
        )


def test_an_unexpected_error_fails_only_its_own_run(tiny_study, jobs, monkeypatch):
    def full_disk(notebook, out, parameters):
        if parameters["SEED"]:
            raise OSError(28, "No space left on device")
        tiny_study.path("models").mkdir(exist_ok=True)

    monkeypatch.setattr(notebooks, "execute_notebook", full_disk)
    done = sweep.run_sweep(tiny_study, jobs[:2])
    assert done["state"].tolist() == ["finished", "failed"]
    assert done["why"][1] == "OSError: [Errno 28] No space left on device"


def test_a_file_system_without_locks_does_not_stop_a_sweep(tiny_study, jobs, monkeypatch):
    monkeypatch.setattr(filelock.FileLock, "acquire", _no_locks)
    assert sweep.job_states(tiny_study, jobs[:1]) == ["to do"]


def _no_locks(lock, timeout):
    raise NotImplementedError("FileSystem does not appear to support flock")


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_at_once_and_the_next_call_continues(tiny_study):
    command = ["sweep", "--study", str(tiny_study.root), "--notebook", "05", "--vary", "EPOCHS=400"]
    command += ["-p", "BASE_FILTERS", "2", "-p", "LEARNING_RATE", "0.01"]
    process = subprocess.Popen(
        [sys.executable, "-m", "covseg_lib", *command],
        stderr=subprocess.DEVNULL,
        # a shell that starts the tests in the background lets them ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not any(tiny_study.path("backup", run="dice_epochs400").glob("*.npz")):
        assert process.poll() is None
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    kernels = [child for child in children if _is_kernel(child)]
    process.send_signal(signal.SIGINT)
    assert process.wait(180)
    assert kernels
    assert not any(
        kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE for kernel in kernels
    )
    epochs = len(pd.read_csv(tiny_study.path("history", run="dice_epochs400")))
    assert 0 < epochs < 400
    jobs = grid.plan_sweep(tiny_study, ["05"], {"EPOCHS": [400]}, SMALL)
    assert sweep.job_states(tiny_study, jobs) == ["to do"]


def test_a_dry_run_only_lists(tiny_study):
    command = ["sweep", "--study", str(tiny_study.root), "--dry-run", "--notebook", "05"]
    done = CliRunner().invoke(main, [*command, "--vary", "SEED=1", "-p", "EPOCHS", "2"])
    assert done.exit_code == 0, done.output
    assert re.search(r"dice_seed1 +05_train_dice +2 +to do", done.output)
    listed = CliRunner().invoke(main, ["runs", "--study", str(tiny_study.root)])
    assert "run notebook 03, 04 or 05 first" in listed.output
    assert not tiny_study.path("models").exists()
    assert not tiny_study.path("notebooks").exists()  # where the locks would be


@pytest.fixture
def stubbed(trained_study, monkeypatch):
    """A study whose sweeps start no kernel: they copy its run, or fail if the seed is 13."""
    executed = []

    def execute(notebook, out, parameters):
        executed.append(out.stem)
        if parameters.get("SEED") == 13:
            raise notebooks.NotebookFailed(
                f"{notebook.name} stopped in cell 14 with ValueError: unlucky"
            )
        if notebook.name.startswith("07"):
            files.write_csv(trained_study.path("runs"), runs.list_runs(trained_study))
            return
        folder = RunFolder.of(trained_study, out.stem)
        shutil.copytree(RunFolder.of(trained_study, "dice").path, folder.path)
        (job,) = (job for job in planned if job.recipe.run == out.stem)
        folder.write(replace(folder.read(), recipe=job.recipe))

    planned, plan = [], grid.plan_sweep

    def remember(*arguments):
        planned.extend(plan(*arguments))
        return list(planned)

    monkeypatch.setattr(grid, "plan_sweep", remember)
    monkeypatch.setattr(notebooks, "execute_notebook", execute)
    return trained_study, executed


def test_the_command_reports_failed_runs_and_compares_the_others(stubbed):
    study, executed = stubbed
    command = ["sweep", "--study", str(study.root), "--notebook", "05", "-p", "EPOCHS", "2"]
    done = CliRunner().invoke(main, [*command, "--vary", "SEED=1,13"])
    assert done.exit_code == 1
    failed = "dice_seed13 failed: 05_train_dice.ipynb stopped in cell 14 with ValueError: unlucky"
    assert failed in done.output
    assert "1 of 2 runs failed; run the same command again to retry them" in done.output
    assert sorted(executed[:2]) + executed[2:] == ["dice_seed1", "dice_seed13", "07_sweep"]
    assert files.read_csv(study.path("runs"))["run"].tolist() == ["dice", "dice_seed1"]
    listed = CliRunner().invoke(main, ["runs", "--study", str(study.root)])
    assert re.search(r"dice_seed1 .* finished", listed.output)
    log = study.path("sweep_log").read_text()
    assert "sweep of 2 runs, 2 to do" in log
    assert "dice_seed1 finished" in log


def test_finished_runs_are_not_executed_again(stubbed):
    study, executed = stubbed
    jobs = grid.plan_sweep(study, ["05"], {"SEED": [1, 2]}, {"EPOCHS": 2})
    assert sweep.run_sweep(study, jobs[:1])["state"].tolist() == ["finished"]
    assert sweep.run_sweep(study, jobs)["state"].tolist() == ["finished", "finished"]
    assert executed == ["dice_seed1", "dice_seed2"]  # the second call executes only one


def test_a_dry_run_says_which_runs_are_finished(stubbed):
    study, executed = stubbed
    command = ["sweep", "--study", str(study.root), "--notebook", "05", "-p", "EPOCHS", "2"]
    CliRunner().invoke(main, [*command, "--vary", "SEED=1"])
    dry = CliRunner().invoke(main, [*command, "--vary", "SEED=1,2", "--dry-run"])
    assert re.search(r"dice_seed1 +05_train_dice +2 +finished", dry.output), dry.output
    assert re.search(r"dice_seed2 +05_train_dice +2 +to do", dry.output), dry.output
    assert executed == ["dice_seed1", "07_sweep"]


def test_1e30_and_1e_minus_30_have_different_run_names(tiny_study):
    (job,) = grid.plan_sweep(tiny_study, ["05"], {"LEARNING_RATE": [1e30]})
    assert job.recipe.run == "dice_learning_rate1e30"


def test_the_best_run_has_the_highest_validation_score():
    columns = ["run", "split", "objective", "epochs", "validation", "test"]
    rows = [
        ("a", "slice", "dice", 1, 0.5, 0.9),
        ("b", "slice", "dice", 2, 0.6, 0.4),
        ("c", "slice", "dice", 3, None, None),
    ]
    table = pd.DataFrame(rows, columns=columns).set_index("run")
    table = table.astype({"validation": float, "test": float})
    assert runs.best_runs(table).index.tolist() == ["b"]


def test_the_notebooks_that_train_have_the_parameter_run(project):
    training = [
        path.stem for path in notebooks.find_notebooks() if "RUN" in parameters.notebook_kinds(path)
    ]
    assert training == ["03_train_accuracy", "04_train_iou", "05_train_dice"]
