"""A sweep beside a bare shell loop of papermill calls over the same runs, in turn.

    python benchmarks/sweep.py STUDY [--rounds 3] [--runs 4] [--epochs 6]

STUDY has processed_data, as after `make demo`; it is copied for each measurement.
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
from covseg_lib import grid, sweep
from covseg_lib.study import Study
study = Study(sys.argv[1])
jobs = grid.plan(study, ["05"], grid.parse_vary([f"SEED={sys.argv[2]}"]), {"EPOCHS": int(sys.argv[3])})
assert set(sweep.run(study, jobs, int(sys.argv[4]))["state"]) == {"finished"}
"""


def shell_loop(study, seeds, epochs):
    """Return a shell's command for the runs, one papermill after the other."""
    papermill = f"{sys.executable} -m papermill --no-progress-bar {NOTEBOOK} {study}/out_$seed.ipynb"
    return ["sh", "-ec", f"for seed in {' '.join(seeds)}; do {papermill} -p EPOCHS {epochs} -p SEED $seed "
            f"-p RUN dice_seed$seed -p STUDY {study}; done"]  # fmt: skip


def sweep(workers):
    """Return a function that gives the command of a sweep of the runs."""

    def command(study, seeds, epochs):
        return [sys.executable, "-c", SWEEP, str(study), ",".join(seeds), str(epochs), str(workers)]

    return command


WAYS = {"shell loop": shell_loop, "sweep, 1 worker": sweep(1), "sweep, 2 workers": sweep(2)}


@click.command()
@click.argument("study", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=3)
@click.option("--runs", default=4)
@click.option("--epochs", default=6)
def main(study, rounds, runs, epochs):
    """Print seconds, and each way's time as a ratio to the shell loop's of the same round."""
    seeds, rows = [str(seed) for seed in range(runs)], []
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(PROJECT)}
    for number in range(rounds):
        for name, command in list(WAYS.items())[:: -1 if number % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder, "study")
                shutil.copytree(study, copy, ignore=shutil.ignore_patterns("models", "predictions", "notebooks"))
                start = time.perf_counter()
                subprocess.run(command(copy, seeds, epochs), check=True, env=environment, cwd=PROJECT,
                               capture_output=True)  # fmt: skip
                rows.append({"round": number, "way": name, "s": time.perf_counter() - start})
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows).pivot(index="round", columns="way", values="s")[list(WAYS)]
    print(table.round(1).to_string())
    print(table.div(table["shell loop"], axis=0).round(3).to_string())


if __name__ == "__main__":
    main()
