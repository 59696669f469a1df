"""What of an epoch is not spent in training steps: five ways to feed `fit`, on a study whose slices are made.

    covseg run --study /tmp/s -p PROFILE report -p DATASET <volumes> -p SIZE 128 --only 01 --only 02
    python benchmarks/feeding.py --study /tmp/s

One model; in each round the ways take turns. Times in seconds; `outside` is the epoch less its steps.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from covseg_lib import compiling, recipes, slices
from covseg_lib.batches import Batches
from covseg_lib.study import Study


class Steps(keras.callbacks.Callback):
    """Adds up the seconds between the beginning and the end of each step."""

    def on_epoch_begin(self, epoch, logs=None):
        """Start at nothing."""
        self.seconds = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        """Start the clock."""
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Stop it."""
        self.seconds += time.perf_counter() - self.start


def one_worker(images, masks, batch):
    """Return the batches with Keras' default of one worker, which hands them to tf.data."""
    batches = Batches(images, masks, np.arange(len(images)), batch)
    batches.workers = 1
    return {"x": batches}


def two_workers(images, masks, batch):
    """Return the batches as the library makes them."""
    return {"x": Batches(images, masks, np.arange(len(images)), batch)}


def arrays(images, masks, batch):
    """Return arrays, as the report's listings give them to `fit`."""
    return {"x": images, "y": masks, "batch_size": batch}


def tf_data(images, masks, batch, tuned=True):
    """Return a tf.data.Dataset, which tunes itself in a thread of its own unless told not to."""
    options = tf.data.Options()
    options.autotune.enabled = tuned
    return {"x": tf.data.Dataset.from_tensor_slices((images, masks)).batch(batch).prefetch(2).with_options(options)}


def tf_data_untuned(images, masks, batch):
    """Return the same, told not to."""
    return tf_data(images, masks, batch, tuned=False)


@click.command(help=__doc__)
@click.option("--study", "folder", required=True, type=click.Path(exists=True))
@click.option("--rounds", default=6, show_default=True)
@click.option("--steps", default=6, show_default=True)
def main(folder, rounds, steps):
    """Measure in turns, print every epoch and the medians."""
    study, rows = Study(folder), []
    recipe = recipes.make_recipe(study, "dice")
    images, masks = (array[: steps * recipe.batch_size] for array in slices.load(study, "train"))
    model, clock = compiling.compile_model(recipe), Steps()
    for number in range(rounds + 1):
        for way in (arrays, tf_data, tf_data_untuned, one_worker, two_workers):
            start = time.perf_counter()
            fed = way(images, masks, recipe.batch_size)
            model.fit(**fed, shuffle=False, verbose=0, callbacks=[clock])
            epoch = time.perf_counter() - start
            rows.append({"round": number, "way": way.__name__, "epoch": epoch, "outside": epoch - clock.seconds})
            click.echo(rows[-1])
    table = pd.DataFrame(rows).query("round > 0")  # the first compiles
    table["share"] = table["outside"] / table["epoch"]
    click.echo(table.groupby("way")[["epoch", "outside", "share"]].agg(["min", "median", "max"]).round(3).to_string())


if __name__ == "__main__":
    main()
