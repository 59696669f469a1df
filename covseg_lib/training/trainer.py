"""Training runs: a recipe becomes weights, history and run.json in models/<run>/."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from covseg_lib import colab
from covseg_lib.data.slices import Slices
from covseg_lib.training import batches, devices, models, recipes, run_folder
from covseg_lib.training.callbacks import Backup, BestWeights, History, one_cycle
from covseg_lib.training.models import Run
from covseg_lib.training.recipes import Recipe
from covseg_lib.training.run_folder import RunFolder

PATIENCE, HARDLY_ANY = 3, 1e-4  # epochs, and share of pixels, before the log warns of a collapse


@dataclass(frozen=True, eq=False)
class Training:
    """What `fit` needs to train a run.

    recipe : Recipe
    slices : Slices
    epoch : int, the epochs that are done already: `initial_epoch`
    callbacks : Keras callbacks that keep history, best weights and backups, and print the log
    finished : bool, whether nothing is left to train
    """

    recipe: Recipe
    slices: Slices
    epoch: int
    callbacks: list[keras.callbacks.Callback]
    finished: bool = False

    # A run that has finished needs no batches, so they are made when they are first asked for.

    @cached_property
    def training_slices(self) -> batches.Batches:
        """The training slices of the run, in batches."""
        return batches.training_batches(self.recipe, self.slices)

    @cached_property
    def validation_slices(self) -> batches.Batches:
        """The validation slices of the run, in batches."""
        return batches.validation_batches(self.recipe, self.slices)

    @cached_property
    def batches(self) -> Any:
        """The training slices for `fit`, see `Batches.for_fit`."""
        return self.training_slices.for_fit()

    @cached_property
    def validation(self) -> Any:
        """The validation slices for `fit`."""
        return self.validation_slices.for_fit()

    def shuffle(self, epoch: int, logs: dict | None = None) -> None:
        """Shuffle the training slices for an epoch, counted from 0."""
        self.training_slices.shuffle(epoch)


@contextlib.contextmanager
def open_training(
    recipe: Recipe,
    slices: Slices,
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
    slices : Slices
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
        slice has a lesion, or the run starts from one that was trained on what is tested.

    Notes
    -----
    `fit` raises FloatingPointError for a NaN loss, and OSError if the study cannot be written.
    """
    folder = RunFolder.of(slices.study, recipe.run)
    with folder.locked("training"):
        if not resume:
            shutil.rmtree(folder.path, ignore_errors=True)
        rows: list[dict] = []
        backup = Backup(folder, rows, backup_every)
        if is_trained(folder, recipe, slices):
            done = folder.read().epochs_done
            log(f"run {recipe.run} has finished after {done} epochs: loaded, not trained again")
            yield Training(recipe, slices, recipe.epochs, [], finished=True)
            return
        if not folder.exists() and any(folder.file("backup").glob("*.npz")):
            raise ValueError(
                f"{folder.file('backup')} holds backups, but {folder.file('run')}, which says of "
                "which recipe they are, is missing: copy it again, or train the run again "
                "(RESUME = False)"
            )
        recipes.check_lesions(slices, recipe, log)
        seen = run_folder.trained_on(recipe, slices)
        if backup.load(log):
            log(f"resuming run {recipe.run} after epoch {len(rows)} of {recipe.epochs}")
        folder.start(recipe, rows, seen, batches.lung_checksum(recipe, slices))
        training = Training(recipe, slices, len(rows), [])
        training.callbacks.extend(_callbacks(training, folder, rows, backup, log))
        try:
            yield training
        finally:
            backup.writer.shutdown()  # waits; an error of it would hide the one of the training


def is_trained(folder: RunFolder, recipe: Recipe, slices: Slices) -> bool:
    """Return whether a run has finished, by a recipe and with the present masks of its lung model.

    Raises ValueError as `RunFolder.is_finished`, and if the lung model was trained again since.
    """
    finished = folder.is_finished(recipe)
    if folder.exists() and folder.read().lungs != batches.lung_checksum(recipe, slices):
        raise ValueError(
            f"run {recipe.run} in {folder.path} was trained with other lung masks than "
            f"{recipe.lungs} predicts now: train it again (RESUME = False; in notebook 08, remove "
            "the folder)"
        )
    return finished


def _callbacks(training, folder, rows, backup, log):
    """Return the callbacks of a run; their order matters: a backup holds what the others wrote."""
    recipe = training.recipe
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
    of_last_epoch = recipe.selection == "none"
    found = [
        History(folder, rows, on_nan),
        BestWeights(folder.file("weights"), f"val_{metric}", best, of_last_epoch),
        backup,
        ProgressLog(rows, metric, recipe.epochs, log, on_collapse),
        keras.callbacks.LambdaCallback(
            # a dataset cannot shuffle itself: Keras calls its on_epoch_end also when none has ended
            on_epoch_begin=training.shuffle,
            on_train_end=lambda logs: folder.finish(_timing(recipe, rows)),
        ),
    ]
    if recipe.optimizer == "adamw":
        rate = functools.partial(one_cycle, recipe)
        found.append(keras.callbacks.LearningRateScheduler(rate))
    return found


def _timing(recipe, rows):
    """Return how long a training took, and on what."""
    seconds = [row["seconds"] for row in rows]
    return {
        "first_epoch_s": round(seconds[0], 2),
        "other_epochs_s": round(float(np.median(seconds[1:] or seconds)), 2),
        "total_s": round(sum(seconds), 2),
        "device": colab.device(),
        "precision": devices.dtype_policy(recipe.precision),
        "backend": f"{keras.backend.backend()}, Keras {keras.__version__}",
    }


def train(
    recipe: Recipe,
    slices: Slices,
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
    with open_training(recipe, slices, resume, backup_every, log) as training:
        if training.finished:
            return models.load_run(slices.study, recipe.run)
        keras.utils.set_random_seed(recipe.seed)
        model = models.compile_model(recipe)
        models.load_first_weights(model, recipe)
        model.fit(
            training.batches,
            validation_data=training.validation,
            initial_epoch=training.epoch,
            epochs=recipe.epochs,
            callbacks=[*training.callbacks, *callbacks],
            shuffle=False,  # the batches are shuffled by seed and epoch
            verbose=0,
        )
    return models.load_run(slices.study, recipe.run, model)


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
