"""How long a sweep takes, compared with a shell loop of papermill calls for the same runs.

    python benchmarks/sweep.py STUDY [--rounds 3] [--runs 4] [--epochs 6]

STUDY has processed_data, for example after `make demo`. It is copied for each measurement.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import pandas as pd

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOK = PROJECT / "notebooks" / "05_train_dice.ipynb"
SWEEP = """
import sys
from covseg_lib.batch import grid, sweep
from covseg_lib.study import Study
folder, seeds, epochs, workers = sys.argv[1:]
study = Study(folder)
vary = grid.parse_vary([f"SEED={seeds}"])
jobs = grid.plan_sweep(study, ["05"], vary, {"EPOCHS": int(epochs)})
assert set(sweep.run_sweep(study, jobs, int(workers))["state"]) == {"finished"}
"""


def shell_loop(study, seeds, epochs):
    """Return a shell command that executes the runs with papermill, one after the other."""
    papermill = f"{sys.executable} -m papermill --no-progress-bar"
    parameters = f"-p EPOCHS {epochs} -p SEED $seed -p RUN dice_seed$seed -p STUDY {study}"
    run = f"{papermill} {NOTEBOOK} {study}/out_$seed.ipynb {parameters}"
    return ["sh", "-ec", f"for seed in {' '.join(seeds)}; do {run}; done"]


def sweep(workers):
    """Return a function like `shell_loop` whose command is a sweep with some workers."""

    def command(study, seeds, epochs):
        return [sys.executable, "-c", SWEEP, str(study), ",".join(seeds), str(epochs), str(workers)]

    return command


WAYS = {"shell loop": shell_loop, "sweep, 1 worker": sweep(1), "sweep, 2 workers": sweep(2)}


@click.command(help=__doc__)
@click.argument("study", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=3)
@click.option("--runs", default=4)
@click.option("--epochs", default=6)
def main(study, rounds, runs, epochs):
    """Print seconds, and the ratio of each time to the shell loop's in the same round."""
    seeds, rows = [str(seed) for seed in range(runs)], []
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(PROJECT)}
    options = {"check": True, "env": environment, "cwd": PROJECT, "capture_output": True}
    ignore = shutil.ignore_patterns("models", "predictions", "notebooks")
    for number in range(rounds):
        for name, command in list(WAYS.items())[:: -1 if number % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder, "study")
                shutil.copytree(study, copy, ignore=ignore)
                start = time.perf_counter()
                subprocess.run(command(copy, seeds, epochs), **options)
                rows.append({"round": number, "way": name, "s": time.perf_counter() - start})
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows).pivot(index="round", columns="way", values="s")[list(WAYS)]
    print(table.round(1).to_string())
    print(table.div(table["shell loop"], axis=0).round(3).to_string())


if __name__ == "__main__":
    main()
