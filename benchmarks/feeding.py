"""How long an epoch takes outside of its training steps, for six ways to feed `fit`.

    covseg run --study /tmp/s -p PROFILE report -p DATASET FOLDER -p SIZE 128 --only 01 --only 02
    python benchmarks/feeding.py --study /tmp/s

All ways train one model, and take turns in each round. Times are in seconds. The column `outside`
is the time of the epoch minus the time of its steps.
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from covseg_lib.data.slices import open_slices
from covseg_lib.study import Study
from covseg_lib.training import models, recipes
from covseg_lib.training.batches import Batches


class StepClock(keras.callbacks.Callback):
    """Adds up the seconds between the start and the end of each step of an epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        """Reset the sum."""
        self.seconds = 0.0

    def on_train_batch_begin(self, batch, logs=None):
        """Start the clock."""
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Stop the clock."""
        self.seconds += time.perf_counter() - self.start


def one_worker(images, masks, batch):
    """Return `Batches` with Keras' default of one worker, which Keras feeds through tf.data."""
    batches = Batches(images, masks, np.arange(len(images)), batch, seed=0)
    batches.workers = 1
    return {"x": batches}


def two_workers(images, masks, batch):
    """Return `Batches` with two workers: threads of Keras, which it stops after each epoch."""
    batches = Batches(images, masks, np.arange(len(images)), batch, seed=0)
    batches.workers = 2
    return {"x": batches}


def ours(images, masks, batch):
    """Return `Batches` as the library passes them to `fit`."""
    return {"x": Batches(images, masks, np.arange(len(images)), batch, seed=0).for_fit()}


def arrays(images, masks, batch):
    """Return arrays, which the report's listings pass to `fit`."""
    return {"x": images, "y": masks, "batch_size": batch}


def tf_data(images, masks, batch, autotune=True):
    """Return a tf.data.Dataset, with or without the thread in which tf.data tunes itself."""
    options = tf.data.Options()
    options.autotune.enabled = autotune
    slices = tf.data.Dataset.from_tensor_slices((images, masks))
    return {"x": slices.batch(batch).prefetch(2).with_options(options)}


def tf_data_untuned(images, masks, batch):
    """Return a tf.data.Dataset that does not tune itself."""
    return tf_data(images, masks, batch, autotune=False)


@click.command(help=__doc__)
@click.option("--study", "folder", required=True, type=click.Path(exists=True))
@click.option("--rounds", default=6, show_default=True)
@click.option("--steps", default=6, show_default=True)
def main(folder, rounds, steps):
    """Measure the ways in turn; print every epoch, and the medians."""
    study, rows = Study(folder), []
    recipe = recipes.make_recipe(study, "dice")
    count = steps * recipe.batch_size
    images, masks = open_slices(study).subset("train")
    images = images[:count]
    masks = masks[:count]
    model, clock = models.compile_model(recipe), StepClock()
    for number in range(rounds + 1):
        for way in (arrays, tf_data, tf_data_untuned, one_worker, two_workers, ours):
            start = time.perf_counter()
            data = way(images, masks, recipe.batch_size)
            model.fit(**data, shuffle=False, verbose=0, callbacks=[clock])
            epoch = time.perf_counter() - start
            row = {"round": number, "way": way.__name__, "epoch": epoch}
            rows.append(row | {"outside": epoch - clock.seconds})
            click.echo(rows[-1])
    table = pd.DataFrame(rows).query("round > 0")  # the first round compiles the model
    table["share"] = table["outside"] / table["epoch"]
    times = table.groupby("way")[["epoch", "outside", "share"]]
    click.echo(times.agg(["min", "median", "max"]).round(3).to_string())


if __name__ == "__main__":
    main()
