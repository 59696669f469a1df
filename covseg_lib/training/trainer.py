"""Training runs: a recipe becomes weights, history and timing in models/<run>/."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd

from covseg_lib import colab, files
from covseg_lib.study import Study
from covseg_lib.training import batches, devices, models, recipes
from covseg_lib.training.callbacks import Backup, BestWeights, History, one_cycle
from covseg_lib.training.models import Run
from covseg_lib.training.recipes import Recipe

PATIENCE, HARDLY_ANY = 3, 1e-4  # epochs, and share of pixels, before the log warns of a collapse


@dataclass(frozen=True)
class Training:
    """What `fit` needs to train a run.

    batches, validation : datasets of (B, size, size, 1) slices and masks, see `Batches.for_fit`
    epoch : int, the epochs that are done already: `initial_epoch`
    callbacks : Keras callbacks that keep history, best weights and backups, and print the log
    """

    batches: Any
    validation: Any
    epoch: int
    callbacks: list[keras.callbacks.Callback]


@contextlib.contextmanager
def open_training(
    recipe: Recipe,
    study: Study,
    resume: bool = True,
    backup_every: int = 1,
    log: Callable[[str], None] = print,
) -> Iterator[Training]:
    """Prepare the training of a run, and hold its lock.

    Call `fit` on the model in the block. An interrupted run continues from its last backup with the
    same weights, on a CPU bit for bit. A finished run has nothing left to train, unless the recipe
    has more epochs now.

    Parameters
    ----------
    recipe : Recipe
    study : Study
        With processed_data in it.
    resume : bool
        False discards the run's folder and trains again.
    backup_every : int
        Epochs between two backups: an interruption costs at most these.
    log : function of str
        Gets one line an epoch.

    Yields
    ------
    Training

    Raises
    ------
    ValueError
        The folder holds a run of another recipe, or all its backups are damaged, or no training
        slice has a lesion.

    Notes
    -----
    `fit` raises FloatingPointError for a NaN loss, and OSError if the study cannot be written.
    """
    lock = study.path("models") / f".{recipe.run}.lock"
    with (
        files.locked(lock, f"training the run {recipe.run} of {study.root}"),
        devices.all_devices() as shares,
    ):
        names = ("recipe", "history", "timing", "weights", "backup", "postprocessing")
        paths = {name: study.path(name, run=recipe.run) for name in names}
        if not resume:
            shutil.rmtree(paths["recipe"].parent, ignore_errors=True)
        train, validation = batches.make_batches(study, recipe, shares)
        rows: list[dict] = []
        backup = Backup(paths["backup"], rows, paths["weights"], backup_every)
        if recipes.is_finished(recipe, study):
            done = len(files.read_csv(paths["history"]))
            log(f"run {recipe.run} has finished after {done} epochs: loaded, not trained again")
            epoch, callbacks = recipe.epochs, []
        else:
            recipes.check_lesions(study, recipe, log)
            if backup.load(log):
                log(f"resuming run {recipe.run} after epoch {len(rows)} of {recipe.epochs}")
            _start(recipe, paths, rows)
            epoch, callbacks = len(rows), _callbacks(recipe, paths, rows, backup, log)
            # a dataset cannot shuffle itself: Keras calls its on_epoch_end also when none has ended
            shuffle = {"on_epoch_begin": lambda epoch, logs: train.shuffle(epoch)}
            callbacks.append(keras.callbacks.LambdaCallback(**shuffle))
            if recipe.optimizer == "adamw":
                rate = functools.partial(one_cycle, recipe)
                callbacks.append(keras.callbacks.LearningRateScheduler(rate))
        try:
            yield Training(train.for_fit(), validation.for_fit(), epoch, callbacks)
        finally:
            backup.writer.shutdown()  # waits; an error of it would hide the one of the training


def _start(recipe, paths, rows):
    """Write the recipe, and the history of a resumed run."""
    files.remove_temporary_files(paths["recipe"].parent)
    for name in ("timing", "postprocessing"):  # of the weights before
        paths[name].unlink(missing_ok=True)
    files.write_json(paths["recipe"], asdict(recipe))
    if rows:
        files.write_csv(paths["history"], pd.DataFrame(rows))


def _callbacks(recipe, paths, rows, backup, log):
    """Return the callbacks of a run; their order matters: a backup holds what the others wrote."""
    metric = recipe.objective
    other_run = "with another RUN, or with RESUME = False"
    on_nan = (
        f"Try a smaller LEARNING_RATE (now {recipe.learning_rate:g}), or PRECISION = "
        f'"float32" (now {recipe.precision}), {other_run}'
    )
    on_collapse = (
        f"Try another SEED (now {recipe.seed}), half or twice the LEARNING_RATE (now "
        f"{recipe.learning_rate:g}) or a larger BATCH_SIZE (now {recipe.batch_size}), {other_run}"
    )
    best = max((row[f"val_{metric}"] for row in rows), default=None)
    return [
        History(paths["history"], rows, on_nan),
        BestWeights(paths["weights"], f"val_{metric}", best, recipe.selection == "none"),
        backup,
        ProgressLog(rows, metric, recipe.epochs, log, on_collapse),
        keras.callbacks.LambdaCallback(on_train_end=lambda logs: _finish(recipe, paths, rows)),
    ]


def _finish(recipe, paths, rows):
    """Write timing.json, which marks a finished run."""
    seconds = [row["seconds"] for row in rows]
    timing = {
        "first_epoch_s": round(seconds[0], 2),
        "other_epochs_s": round(float(np.median(seconds[1:] or seconds)), 2),
        "total_s": round(sum(seconds), 2),
        "device": colab.device(),
        "devices": len(devices.list_devices()),
        "precision": devices.dtype_policy(recipe.precision),
        "backend": f"{keras.backend.backend()}, Keras {keras.__version__}",
    }
    files.write_json(paths["timing"], timing)


def train(
    recipe: Recipe,
    study: Study,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    resume: bool = True,
    backup_every: int = 1,
    log: Callable[[str], None] = print,
) -> Run:
    """Build, compile and fit the model of a recipe, as notebooks 03 to 05 do in their cells.

    Parameters and errors as for `open_training`; `callbacks` are more Keras callbacks.

    Returns
    -------
    Run, with the weights of the best epoch: the first with the highest validation metric
    """
    keras.utils.set_random_seed(recipe.seed)
    with devices.all_devices():
        model = models.compile_model(recipe)
        models.load_first_weights(model, recipe)
    with open_training(recipe, study, resume, backup_every, log) as training:
        model.fit(
            training.batches,
            validation_data=training.validation,
            initial_epoch=training.epoch,
            epochs=recipe.epochs,
            callbacks=[*training.callbacks, *callbacks],
            shuffle=False,  # the batches are shuffled by seed and epoch
            verbose=0,
        )
    return models.load_run(study, recipe.run, model)


class ProgressLog(keras.callbacks.Callback):
    """Print one line for each epoch, and a warning if the model collapses to the empty mask.

    Parameters
    ----------
    rows : list of dict
        The history, which `History` extends.
    metric : str
        Name of the metric, as "dice".
    epochs : int
        Number of epochs in all.
    log : function of str
    advice : str
        Ends the warning.
    """

    def __init__(
        self,
        rows: list[dict],
        metric: str,
        epochs: int,
        log: Callable[[str], None] = print,
        advice: str = "",
    ):
        super().__init__()
        self.rows, self.metric, self.epochs = rows, metric, epochs
        self.log, self.advice = log, advice

    def on_epoch_end(self, epoch, logs=None):
        """Print the line of this epoch."""
        self.log(progress_line(self.rows, self.metric, self.epochs))
        if has_just_collapsed(self.rows):
            self.log(
                f"WARNING: hardly any pixel was predicted as lesion for {PATIENCE} epochs. "
                f"The model has collapsed to the empty mask and seldom recovers. {self.advice}"
            )


def progress_line(rows: list[dict], metric: str, epochs: int) -> str:
    """Return a line about the last epoch of a history: scores, seconds, minutes left."""
    now, first = rows[-1], len(rows) == 1
    times = [row["seconds"] for row in rows[1:]] or [now["seconds"]]  # the first one is slower
    left = (epochs - now["epoch"]) * np.median(times) / 60
    return (
        f"epoch {now['epoch']:3d}/{epochs}  loss {now['loss']:.4f}  {metric} {now[metric]:.4f}  "
        f"val_loss {now['val_loss']:.4f}  val_{metric} {now[f'val_{metric}']:.4f}  "
        f"{now['seconds']:.1f} s, {'less than ' if first else ''}{left:.1f} min left"
    )


def has_just_collapsed(rows: list[dict]) -> bool:
    """Return whether exactly the last `PATIENCE` epochs predicted hardly any lesion.

    In training slices, too: validation slices may have none.
    """
    empty = [max(row["positive_rate"], row["val_positive_rate"]) < HARDLY_ANY for row in rows]
    before, last = empty[:-PATIENCE], empty[-PATIENCE:]
    return len(last) == PATIENCE and all(last) and not (before and before[-1])
