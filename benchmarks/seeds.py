"""Does the recipe train from every seed? Each objective from several seeds, on a study whose slices are made.

    covseg run --study /tmp/s -p PROFILE report -p DATASET <volumes> -p SIZE 128 --only 01 --only 02
    python benchmarks/seeds.py --study /tmp/s --epochs 5

One run a row, in models/<objective>_<precision>_<seed>; finished runs are loaded, not trained again.
"""

import click
import pandas as pd

from covseg_lib import prediction, recipes, scores, slices, storage, training, watching
from covseg_lib.study import OBJECTIVE_NAMES, Study


@click.command(help=__doc__)
@click.option("--study", "folder", required=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--epochs", default=5, show_default=True)
@click.option("--precision", default="auto", show_default=True)
@click.option("--objective", "objectives", multiple=True, default=OBJECTIVE_NAMES, show_default=True)
def main(folder, seeds, epochs, precision, objectives):
    """Train and score every run; print and write the table."""
    study = Study(folder)
    images, masks = slices.load(study, "test")
    rows = []
    for seed in range(seeds):
        for objective in objectives:
            name = f"{objective}_{precision}_{seed}"
            recipe = recipes.make_recipe(study, objective, name, epochs, seed=seed, precision=precision)
            run = training.train(recipe, study)
            found = prediction.predict_slices(run, images) >= prediction.LESION_FROM
            rows.append(
                {"seed": seed, "objective": objective, "precision": precision, "epochs": run.recipe.epochs}
                | {"epoch kept": watching.best_epoch(run.history, objective), "loss": run.history["loss"].iloc[-1]}
                | {score: of(masks, found) for score, of in scores.SCORES.items()}
                | {"seconds": run.timing["total_s"]}
            )
            click.echo(pd.DataFrame(rows[-1:]).round(4).to_string(index=False, header=len(rows) == 1))
    table = pd.DataFrame(rows)
    storage.write_csv(study.path("scores").with_name(f"seeds_{precision}.csv"), table)
    click.echo(table.groupby("objective")[["dice", "iou", "mean_iou", "accuracy"]].agg(["min", "mean", "max"]).round(3))


if __name__ == "__main__":
    main()
