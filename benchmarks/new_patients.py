"""Train the report's recipe and that of notebook 08 on every fold of patients, and score them.

    covseg run --study S -p PROFILE report -p DATASET FOLDER -p CASES all -p SIZE 256 -p FOLDS 8 \
        -p ORIENTATION LPS --only 01 --only 02
    python benchmarks/new_patients.py S
    python benchmarks/new_patients.py S --epochs 1 --filters 4     a check

For a GPU, also one without Jupyter. Run it again to continue after an interruption.
"""

import time
from pathlib import Path

import click

from covseg_lib.batch import folds
from covseg_lib.data.slices import open_slices
from covseg_lib.evaluation import baselines, statistics, tables
from covseg_lib.study import Study

OURS = {
    "augmentation": True,
    "sampling": "balanced",
    "loss": "bce_dice",
    "optimizer": "adamw",
    "lungs": "lungs",
    "normalisation": "landmarks",
    "neighbours": 1,
    "selection": "none",
}


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--epochs", default=12, help="Epochs of each training.")
@click.option("--filters", default=16, help="Maps of the first block.")
@click.option("--batch", default=16, help="Slices in a batch of our recipe; the report's has 8.")
def main(folder, epochs, filters, batch):
    """Print a line a run, the Dice of each held-out case, and all pixels with 95 % intervals."""
    start = time.perf_counter()
    study = Study(folder)
    slices = open_slices(study)
    size = {"epochs": epochs, "base_filters": filters}
    ours = size | {"batch_size": batch, "learning_rate": 1e-3}
    tested = range(slices.table["patient_fold"].max() + 1)
    for fold in tested:  # one after the other: what is interrupted has whole folds
        folds.cross_validate(slices, "report", [fold], click.echo, **size)
        lungs = folds.train_lungs(slices, "lungs", [fold], click.echo, **ours)
        click.echo(f"lungs of fold {fold}: Dice {lungs.round(3).to_dict()}")
        folds.cross_validate(slices, "ours", [fold], click.echo, **ours, **OURS)
    folds.cross_validate(slices, "ours", tested, click.echo, **ours, **OURS)  # zoom and threshold
    baselines.predict_baselines(slices)
    by_case = tables.scores_by_case(study)["dice"].loc["patient"].unstack("model")
    click.echo(by_case.round(3).to_string())
    click.echo(f"mean of the cases: {by_case.mean().round(3).to_dict()}")
    intervals = statistics.confidence_intervals(tables.pixel_counts(study))
    click.echo(intervals.loc["patient"].round(3).to_string())
    click.echo(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
