"""What each switch of a recipe adds for patients it has never seen.

    covseg run --study /tmp/nine -p PROFILE report -p DATASET FOLDER -p CASES all -p SIZE 128 \
        -p FOLDS 4 -p SPLIT patient --only 01 --only 02
    python benchmarks/held_out.py /tmp/nine --step report --step recipe

Each step is trained once for every fold. Epoch, threshold, smallest lesion and mirroring are chosen
by the validation patients of the fold. Runs that exist are not trained again, so the command can be
interrupted. The table has a row for each step: mean Dice over cases, pooled Dice with its interval
over patients, and seconds.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import numpy as np
import pandas as pd

from covseg_lib import files
from covseg_lib.data import preprocessing
from covseg_lib.evaluation import metrics, prediction, statistics
from covseg_lib.study import Study
from covseg_lib.training import recipes, trainer

LADDER = {  # each step adds to the one before
    "report": {},
    "norm_layer": {"norm_layer": "instance"},
    "augmentation": {"augmentation": True},
    "sampling": {"sampling": "balanced"},
    "loss": {"loss": "bce_dice"},
    "optimizer": {"optimizer": "adamw", "learning_rate": 1e-3, "batch_size": 16},
    "normalisation": {"normalisation": "landmarks", "lungs": "given"},
    "neighbours": {"neighbours": 1},
}


def options_of(step: str) -> dict:
    """Return the switches of a step of the ladder; "only_<step>" is that switch alone."""
    if step.startswith("only_"):
        return LADDER[step.removeprefix("only_")]
    names = list(LADDER)
    last = names[-1] if step == "recipe" else step
    switches: dict = {}
    for name in names[: names.index(last) + 1]:
        switches |= LADDER[name]
    return switches


def train_fold(study, step, fold, options):
    """Train one fold, choose its postprocessing, predict its test slices; return seconds."""
    switches = options | options_of(step)
    lungs = switches.get("lungs", "none")
    if lungs not in ("none", "given"):
        _train_lungs(study, lungs, fold, options)
    objective = "dice" if "loss" in switches else "iou"  # the report's BCE, as in notebook 04
    recipe = recipes.make_recipe(study, objective, step, fold=fold, split="patient", **switches)
    start = time.perf_counter()
    if not study.path("counts", run=recipe.run).exists():
        run = trainer.train(recipe, study, backup_every=5)
        prediction.predict_study(prediction.choose_postprocessing(run, study), study)
    return time.perf_counter() - start


def _train_lungs(study, model, fold, options):
    """Train the lung model of a fold and predict the lungs of all slices."""
    switches = options_of("optimizer") | options | {"target": "lungs", "epochs": 15}
    recipe = recipes.make_recipe(study, "dice", model, fold=fold, split="patient", **switches)
    if not study.path("predicted_lungs", run=recipe.run).exists():
        run = trainer.train(recipe, study, backup_every=5)
        lungs = prediction.predict_lungs(run, study)
        rows = preprocessing.subset_rows(study, "test", split="patient", fold=fold)
        true = np.load(study.need("lungs"), mmap_mode="r")[rows]
        print(f"{recipe.run}: Dice {metrics.dice(true, lungs[rows]):.4f} on held-out patients")


def summarise(study: Study, step: str, folds: list[int]) -> dict:
    """Return the scores of a step over the test slices of its folds."""
    names = [recipes.run_name(step, fold) for fold in folds]
    counts = pd.concat([files.read_csv(study.need("counts", run=name)) for name in names])
    test = counts[counts["subset"] == "test"].assign(split="patient", model=step)
    by_case = metrics.score_columns(test.groupby("case")[metrics.COUNTS].sum(), ["dice"])["dice"]
    pooled = statistics.confidence_intervals(test).iloc[0]
    return {
        "step": step,
        "mean Dice of cases": by_case.mean(),
        "pooled Dice": pooled["dice"],
        "low": pooled["low"],
        "high": pooled["high"],
        **{f"{case}": dice for case, dice in by_case.items()},
    }


@click.command(help=__doc__)
@click.argument("folder")
@click.option("--step", "steps", multiple=True, default=["report", "recipe"])
@click.option("--folds", default=4)
@click.option("--epochs", default=30)
@click.option("--filters", default=32)
@click.option("--lungs", default="given", help='"given", or the name of a lung model to train')
@click.option("--seed", default=0)
def main(folder, steps, folds, epochs, filters, lungs, seed):
    """Train all steps, and print their table."""
    study = Study(folder)
    LADDER["normalisation"]["lungs"] = lungs
    options = {"epochs": epochs, "base_filters": filters, "seed": seed}
    rows = []
    for step in steps:
        seconds = [train_fold(study, step, fold, options) for fold in range(folds)]
        rows.append(summarise(study, step, list(range(folds))) | {"seconds": sum(seconds)})
        print(pd.DataFrame(rows).set_index("step").T.round(3).to_string())


if __name__ == "__main__":
    main()
