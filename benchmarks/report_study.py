"""Train and score the report's study at its own sizes, and pack what it made into one folder.

    covseg run --study S -p PROFILE report --only 01 --only 02
    python benchmarks/report_study.py S results
    python benchmarks/report_study.py S results --epochs 1     a check

256 px, 100 + 100 + 250 epochs, one training after the other. Run it again to continue after an
interruption. S needs sliced_data or processed_data. `results` gets the histories, times,
probabilities of the test slices, tables and figures; weights and backups stay in S.
"""

import shutil
import time
from pathlib import Path

import click
import numpy as np

from covseg_lib import files
from covseg_lib.data import preprocessing
from covseg_lib.evaluation import baselines, leakage, prediction, report, statistics, tables
from covseg_lib.plots import charts, run_plots
from covseg_lib.settings import OBJECTIVE_NAMES
from covseg_lib.study import Study
from covseg_lib.training import recipes, trainer

PACKED = ("settings", "preprocessing", "slices", "figures")
OF_A_RUN = ("run", "history", "counts")
TABLES = ("scores", "differences", "table", "report_numbers")
BACKUP_EVERY = 10  # epochs, see docs/training.md


def train_all(slices, epochs):
    """Train the three models, those that are not finished, and save their curves."""
    study = slices.study
    runs = {}
    for name in OBJECTIVE_NAMES:
        recipe = recipes.make_recipe(study, name, epochs=epochs)
        runs[name] = trainer.train(recipe, slices, backup_every=BACKUP_EVERY, log=click.echo)
        study.save_figure(f"{name}_curves", run_plots.training_curves(runs[name].history, name))
    return runs


def score_all(slices, runs):
    """Predict, and write the tables and figures of notebook 06."""
    study = slices.study
    for run in runs.values():
        prediction.predict_study(run, slices)
    baselines.predict_baselines(slices)
    counts = tables.pixel_counts(study)
    made = (
        tables.score_table(study),
        statistics.paired_differences(counts),
        report.table_2_1(slices),
        report.compare_numbers(slices),
    )
    for name, table in zip(TABLES, made, strict=True):
        study.save_table(name, table)
    for name in runs:
        study.save_figure(f"{name}_overlays", run_plots.run_overlays(slices, name))
    study.save_figure(f"{name}_errors", run_plots.best_to_worst(slices, name))
    study.save_figure("scores", charts.score_bars(made[0]))
    intervals = statistics.confidence_intervals(counts)
    study.save_figure("intervals", charts.interval_bars(intervals))
    by_threshold = tables.dice_by_threshold(slices)
    study.save_figure("thresholds", charts.threshold_curves(by_threshold))
    by_distance = leakage.dice_by_distance(slices)
    study.save_figure("leak", charts.dice_by_distance_chart(by_distance))


def pack(study, runs, out):
    """Copy all that is small into a folder, laid out as a study; probabilities as float16."""
    paths = [study.path(name) for name in PACKED + TABLES]
    paths += [study.path(name, run=run) for run in runs for name in OF_A_RUN]
    for path in paths:
        copy = out / path.relative_to(study.root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copy, dirs_exist_ok=True)
        else:
            shutil.copy2(path, copy)
    predicted = {run: np.load(study.path("prediction", run=run)) for run in runs}
    half = {run: probabilities.astype(np.float16) for run, probabilities in predicted.items()}
    np.savez_compressed(out / "predictions" / "probabilities.npz", **half)


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--epochs", type=int, help="Epochs of each model, for a check.")
def main(folder, out, epochs):
    """Print a line an epoch, Table 2.1, the seconds of each part, and the size of the folder."""
    study, start, seconds = Study(folder), time.perf_counter(), {}

    def note(part):
        seconds[part] = round(time.perf_counter() - start - sum(seconds.values()), 1)

    settings = study.settings()
    slices = preprocessing.preprocess(study, settings["size"], settings["folds"], settings["seed"])
    note("preprocessing")
    runs = train_all(slices, epochs)
    note("training")
    score_all(slices, runs)
    note("scores and figures")
    pack(study, runs, out)
    files.write_json(out / "seconds.json", seconds)
    click.echo(files.read_csv(study.path("table")).to_string())
    click.echo(files.read_csv(study.path("scores")).to_string())
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    click.echo(f"{seconds} s; {out}: {size:.1f} MB")


if __name__ == "__main__":
    main()
