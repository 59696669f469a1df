"""Sweeps of tiny trainings: planned, run, killed, repeated, on threads and on a Dask cluster."""

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import filelock
import numpy as np
import pandas as pd
import psutil
import pytest
from click.testing import CliRunner

from covseg_lib import grid, runner, runs, storage, sweep
from covseg_lib.__main__ import main

SMALL = {"BASE_FILTERS": 2, "LEARNING_RATE": 1e-2}


@pytest.fixture
def jobs(tiny_study):
    return grid.plan(tiny_study, ["05"], {"EPOCHS": [1, 2], "SEED": [0, 1]}, SMALL)


def test_the_grid_has_every_combination_under_a_name_that_says_it(jobs):
    assert [job.recipe.run for job in jobs] == [
        f"dice_epochs{epochs}_seed{seed}" for epochs in (1, 2) for seed in (0, 1)
    ]
    assert [(job.recipe.epochs, job.recipe.seed) for job in jobs] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert all(job.recipe.base_filters == 2 for job in jobs)


def test_folds_are_named_as_those_of_one_model(tiny_study):
    jobs = grid.plan(tiny_study, ["03", "04"], {"FOLD": [0, 1], "LEARNING_RATE": [0.01]})
    assert [job.recipe.run for job in jobs][:2] == ["accuracy_learning_rate0.01", "accuracy_learning_rate0.01_fold1"]
    assert {job.out.stem for job in jobs} == {job.recipe.run for job in jobs}


@pytest.mark.parametrize(
    ("numbers", "vary", "parameters", "said"),
    [
        (["05"], {"EPOCH": [1]}, {}, "no parameter EPOCH in 05_train_dice: it has STUDY, OBJECTIVE, RUN"),
        (["05"], {"EPOCHS": [1, "ten"]}, {}, "epochs is 'ten': expected a whole number"),
        (["05"], {"SEED": [-1]}, {}, "seed is -1: expected a whole number from 0 on"),
        (["05"], {"LEARNING_RATE": ["fast"]}, {}, "learning_rate is 'fast': expected a number above 0"),
        (["05"], {"FOLD": [7]}, {}, "no fold 7 of the patient split"),
        (["05"], {"SPLIT": ["slcie"]}, {}, "no split 'slcie': expected \"slice\""),
        (["05"], {"BATCH_SIZE": [True]}, {}, "batch_size is True: expected a whole number"),
        (["05"], {"EPOCHS": []}, {}, "EPOCHS has no value to vary"),
        (["05"], {"SEED": [1]}, {"RESUME": False}, "RESUME cannot be given here"),
        (["05"], {"RUN": ["a", "b"]}, {}, "RUN cannot be given here"),
        (["05"], {"SEED": [1]}, {"SEED": 2}, "SEED cannot be given here"),
        (["05", "06"], {"SHOW": [1]}, {}, "no parameter SHOW in 05_train_dice"),
        (["06"], {"SHOW": [1]}, {}, "notebook 06_predict_and_compare trains no run: choose among 03, 04 and 05"),
        (["05"], {"SEED": [1, 1]}, {}, "dice_seed1 would be trained twice"),
        (["09"], {"SEED": [1]}, {}, "no notebook 09"),
        ([], {"SEED": [1]}, {}, "no notebook is named"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_anything_runs(tiny_study, numbers, vary, parameters, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        grid.plan(tiny_study, numbers, vary, parameters)
    assert not tiny_study.path("models").exists()


def test_what_a_shell_or_a_file_says_is_the_same(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text("notebooks: ['03', 05]\nvary: {EPOCHS: [10, 50], SPLIT: slice}\nparameters: {SEED: 1}\n")
    vary = grid.parse_vary(["EPOCHS=10,50", "SPLIT=slice"])
    assert grid.read_file(file) == (["03", "05"], vary, {"SEED": 1})


def test_numbers_in_a_file_may_be_written_as_in_a_shell(tmp_path):
    (tmp_path / "sweep.yaml").write_text(
        "notebooks: '05'\nvary: {LEARNING_RATE: [1e-4, 3e-4]}\nparameters: {SEED: 1}\n"
    )
    assert grid.read_file(tmp_path / "sweep.yaml") == (["05"], {"LEARNING_RATE": [1e-4, 3e-4]}, {"SEED": 1})


def test_a_parameter_is_varied_once():
    with pytest.raises(ValueError, match="give each parameter once"):
        grid.parse_vary(["EPOCHS=10", "EPOCHS=50"])


@pytest.mark.parametrize("text", ["EPOCHS", "EPOCHS=", "EPOCHS=1,,2", "=1", "A=1=2"])
def test_what_is_no_list_of_values_is_refused(text):
    with pytest.raises(ValueError, match="expected NAME=VALUE,VALUE"):
        grid.parse_vary([text])


@pytest.mark.parametrize("text", ["- 1", "vary: 3", "notebook: 3", "{", "vary: [1]", "parameters: 3"])
def test_a_file_that_is_no_sweep_is_refused(tmp_path, text):
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"sweep\.yaml (is no file of a sweep|says notebook: expected)"):
        grid.read_file(tmp_path / "sweep.yaml")


def _is_kernel(process):
    return "ipykernel_launcher" in process.cmdline()


def _kernels():
    return [process for process in psutil.Process().children(recursive=True) if _is_kernel(process)]


def _kill_one(study, run):
    """Kill the kernel that trains a run as soon as it has an epoch on disk; for a process beside the sweep."""
    while not study.path("history", run=run).exists():
        time.sleep(0.05)
    for process in psutil.process_iter(["cmdline"]):
        text = " ".join(process.info["cmdline"] or [])
        if "ipykernel_launcher" in text and process.environ().get("COVSEG_TEST_SWEEP") == str(study.root):
            process.kill()


@pytest.mark.slow
def test_one_killed_and_one_that_fails_stop_nothing_and_the_next_call_does_these(tiny_study, monkeypatch):
    monkeypatch.setenv("COVSEG_TEST_SWEEP", str(tiny_study.root))
    good = grid.plan(tiny_study, ["05"], {"SEED": [0, 1]}, SMALL | {"EPOCHS": 1})
    bad = grid.plan(tiny_study, ["05"], {"BACKUP_EVERY": [0]}, SMALL | {"EPOCHS": 1})
    long = grid.plan(tiny_study, ["03"], {"EPOCHS": [40]}, SMALL)
    killer = multiprocessing.get_context("spawn").Process(
        target=_kill_one, args=(tiny_study, long[0].recipe.run), daemon=True
    )
    killer.start()
    first = sweep.run(tiny_study, long, 1)  # alone, so that the killer hits no other
    killer.join()
    assert first["state"].tolist() == ["failed"]
    assert "its process died" in first["why"][0]
    second = sweep.run(tiny_study, [*good, *bad], 2)
    assert second["state"].tolist() == ["finished", "finished", "failed"]
    assert "backup_every is 0" in second["why"][2]
    written = [good[0].out.stat().st_mtime_ns, tiny_study.path("weights", run=good[0].recipe.run).stat().st_mtime_ns]
    third = sweep.run(tiny_study, [*good, *long], 2)
    assert third["state"].tolist() == ["finished"] * 3
    history = pd.read_csv(tiny_study.path("history", run=long[0].recipe.run))
    assert history["epoch"].tolist() == list(range(1, 41))
    again = [good[0].out.stat().st_mtime_ns, tiny_study.path("weights", run=good[0].recipe.run).stat().st_mtime_ns]
    assert again == written
    log = tiny_study.path("sweep_log").read_text()
    assert log.count("finished") == 3
    assert "sweep of 3 runs, 1 to do" in log
    listed = runs.listing(tiny_study)
    assert (listed["state"] == "finished").sum() == 3
    assert not _kernels()


def _hold(job, held, let_go):
    with sweep._only_one(job) as alone:
        assert alone
        held.set()
        let_go.wait()


def test_a_run_under_way_elsewhere_is_left_alone_until_its_process_is_killed(tiny_study, jobs):
    context = multiprocessing.get_context("spawn")
    held, let_go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(jobs[0], held, let_go), daemon=True)
    other.start()
    assert held.wait(60)
    assert sweep.states(tiny_study, jobs[:2]) == ["under way", "to do"]
    assert sweep.execute(jobs[0]) == ("under way", "")
    done = sweep.run(tiny_study, jobs[:1])
    assert done["state"].tolist() == ["under way"]
    other.kill()
    other.join()
    assert sweep.states(tiny_study, jobs[:2]) == ["to do", "to do"]


def _kill_when(path, pid):
    while not path.exists():
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_cluster_gives_the_scores_of_threads_though_a_worker_is_killed(tiny_study, tmp_path):
    distributed = pytest.importorskip("distributed")
    jobs = grid.plan(tiny_study, ["05"], {"SEED": [0, 1]}, SMALL | {"EPOCHS": 20})
    assert set(sweep.run(tiny_study, jobs)["state"]) == {"finished"}
    here = {job.recipe.run: pd.read_csv(tiny_study.path("history", run=job.recipe.run)) for job in jobs}
    shutil.rmtree(tiny_study.path("models"))
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "local_directory": str(tmp_path)}
    with distributed.LocalCluster(**options) as cluster:
        begun = tiny_study.path("history", run=jobs[0].recipe.run)
        pid = cluster.workers[0].pid
        threading.Thread(target=_kill_when, args=(begun, pid), daemon=True).start()
        done = sweep.run(tiny_study, jobs, scheduler=cluster.scheduler_address)
        assert not psutil.pid_exists(pid)
    assert set(done["state"]) == {"finished"}
    for run, history in here.items():
        again = pd.read_csv(tiny_study.path("history", run=run))
        assert np.allclose(again.drop(columns="seconds"), history.drop(columns="seconds"), atol=1e-6)


def test_what_nobody_foresaw_fails_one_run_and_not_the_others(tiny_study, jobs, monkeypatch):
    def full_disk(notebook, out, parameters):
        if parameters["SEED"]:
            raise OSError(28, "No space left on device")
        tiny_study.path("models").mkdir(exist_ok=True)

    monkeypatch.setattr(runner, "execute", full_disk)
    done = sweep.run(tiny_study, jobs[:2])
    assert done["state"].tolist() == ["finished", "failed"]
    assert done["why"][1] == "OSError: [Errno 28] No space left on device"


def test_where_the_file_system_knows_no_locks_runs_are_executed(tiny_study, jobs, monkeypatch):
    monkeypatch.setattr(filelock.FileLock, "acquire", _no_locks)
    assert sweep.states(tiny_study, jobs[:1]) == ["to do"]


def _no_locks(lock, timeout):
    raise NotImplementedError("FileSystem does not appear to support flock")


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_at_once_and_the_next_call_goes_on(tiny_study):
    command = ["sweep", "--study", str(tiny_study.root), "--notebook", "05", "--vary", "EPOCHS=400"]
    command += ["-p", "BASE_FILTERS", "2", "-p", "LEARNING_RATE", "0.01"]
    process = subprocess.Popen([sys.executable, "-m", "covseg_lib", *command], stderr=subprocess.DEVNULL)
    while not any(tiny_study.path("backup", run="dice_epochs400").glob("*.npz")):
        assert process.poll() is None
        time.sleep(0.1)
    kernels = [kernel for kernel in psutil.Process(process.pid).children(recursive=True) if _is_kernel(kernel)]
    process.send_signal(signal.SIGINT)
    assert process.wait(60)
    assert kernels
    assert not any(kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE for kernel in kernels)
    epochs = len(pd.read_csv(tiny_study.path("history", run="dice_epochs400")))
    assert 0 < epochs < 400
    jobs = grid.plan(tiny_study, ["05"], {"EPOCHS": [400]}, SMALL)
    assert sweep.states(tiny_study, jobs) == ["to do"]


def test_a_dry_run_lists_and_runs_nothing(tiny_study):
    file = tiny_study.root / "sweep.yaml"
    file.write_text("notebooks: ['03']\nvary: {EPOCHS: [7]}\nparameters: {SEED: 1}\n")
    said = ["--file", str(file), "--notebook", "05", "--vary", "SEED=1", "-p", "EPOCHS", "2"]  # the command line wins
    arguments = ["sweep", "--study", str(tiny_study.root), *said, "--dry-run"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert re.search(r"dice_seed1 +05_train_dice +2 +to do +NaN", done.output)
    assert "no finished run of this network" in done.output
    listed = CliRunner().invoke(main, ["runs", "--study", str(tiny_study.root)])
    assert "run notebook 03, 04 or 05 first" in listed.output
    assert not tiny_study.path("models").exists()
    assert not tiny_study.path("notebooks").exists()  # where the locks would lie


@pytest.fixture
def stubbed(trained_study, monkeypatch):
    """A study, and a runner that starts no kernel: it copies the study's run, or fails where a seed is 13."""
    executed = []

    def execute(notebook, out, parameters):
        executed.append(out.stem)
        if parameters.get("SEED") == 13:
            raise runner.NotebookFailed(f"{notebook.name} stopped in cell 14 with ValueError: unlucky")
        if notebook.name.startswith("07"):
            storage.write_csv(trained_study.path("runs"), runs.listing(trained_study))
            return
        folder = trained_study.path("recipe", run=out.stem).parent
        shutil.copytree(trained_study.path("recipe", run="dice").parent, folder)
        (job,) = (job for job in planned if job.recipe.run == out.stem)
        storage.write_json(folder / "recipe.json", vars(job.recipe))

    planned, plan = [], grid.plan

    def remember(*arguments):
        planned.extend(plan(*arguments))
        return list(planned)

    monkeypatch.setattr(grid, "plan", remember)
    monkeypatch.setattr(runner, "execute", execute)
    return trained_study, executed


def test_the_command_says_what_failed_compares_the_rest_and_the_status_is_1(stubbed):
    study, executed = stubbed
    command = ["sweep", "--study", str(study.root), "--notebook", "05", "-p", "EPOCHS", "2"]
    done = CliRunner().invoke(main, [*command, "--vary", "SEED=1,13"])
    assert done.exit_code == 1
    assert "dice_seed13 failed: 05_train_dice.ipynb stopped in cell 14 with ValueError: unlucky" in done.output
    assert "1 of 2 runs failed; the same command tries these again" in done.output
    assert sorted(executed[:2]) + executed[2:] == ["dice_seed1", "dice_seed13", "07_sweep"]
    assert storage.read_csv(study.path("runs"))["run"].tolist() == ["dice", "dice_seed1"]
    listed = CliRunner().invoke(main, ["runs", "--study", str(study.root)])
    assert re.search(r"dice_seed1 .* finished", listed.output)
    log = study.path("sweep_log").read_text()
    assert "sweep of 2 runs, 2 to do" in log
    assert "dice_seed1 finished" in log


def test_what_is_finished_is_not_executed_again(stubbed):
    study, executed = stubbed
    jobs = grid.plan(study, ["05"], {"SEED": [1, 2]}, {"EPOCHS": 2})
    assert sweep.run(study, jobs[:1])["state"].tolist() == ["finished"]
    assert sweep.run(study, jobs)["state"].tolist() == ["finished", "finished"]
    assert executed == ["dice_seed1", "dice_seed2"]  # in this order: the second call had one to do


def test_a_dry_run_estimates_from_runs_of_the_same_network(trained_study):
    command = ["sweep", "--study", str(trained_study.root), "--notebook", "05", "--vary", "SEED=1", "--dry-run"]
    dry = CliRunner().invoke(main, [*command, "-p", "EPOCHS", "60"])
    assert re.search(r"to do: [\d.]+ minutes of training", dry.output), dry.output


def test_1e30_is_not_called_1e_minus_30(tiny_study):
    (job,) = grid.plan(tiny_study, ["05"], {"LEARNING_RATE": [1e30]})
    assert job.recipe.run == "dice_learning_rate1e30"


def test_validation_chooses_and_a_run_without_score_stays_in_the_table():
    columns = ["run", "split", "objective", "epochs", "validation", "test"]
    rows = [
        ("a", "slice", "dice", 1, 0.5, 0.9),
        ("b", "slice", "dice", 2, 0.6, 0.4),
        ("c", "slice", "dice", 3, None, None),
    ]
    table = pd.DataFrame(rows, columns=columns).set_index("run").astype({"validation": float, "test": float})
    assert runs.best(table).index.tolist() == ["b"]


def test_notebooks_that_train_are_those_with_a_run(project):
    training = [path.stem for path in runner.notebooks() if "RUN" in runner.parameters_of(path)]
    assert training == ["03_train_accuracy", "04_train_iou", "05_train_dice"]
