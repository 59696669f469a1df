"""Training one run: a recipe goes in; weights, history and timing come out, in models/<run>/."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import pandas as pd

from covseg_lib import compiling, hardware, keeping, recipes, slices, storage, watching
from covseg_lib.backup import Backup
from covseg_lib.batches import Batches, order
from covseg_lib.recipes import Recipe
from covseg_lib.study import LAYOUT

IN_MEMORY = 2e9  # bytes of slices that are trained on as arrays; more are read batch by batch, which takes longer


@dataclass(frozen=True)
class Run:
    """A trained run: its recipe, the model with its best weights, the history and the timing."""

    recipe: Recipe
    model: keras.Model
    history: pd.DataFrame
    timing: dict


def train(recipe, study, report=None, watchers=(), resume=True, backup_every=1):
    """Train a run and keep the weights of its best epoch; go on with it where it was cut off.

    Best is the first epoch with the highest score of the run's own metric on the validation slices. The order of
    slices in an epoch follows from seed and epoch alone: a run that was cut off and resumed goes through the same
    weights as one that was not. A finished run is loaded; more epochs than it has continue it. Trains on all GPUs of
    the machine.

    Parameters
    ----------
    recipe : Recipe
    study : Study
        With processed_data in it.
    report : function of str, optional
        Gets one line an epoch, for example `print`.
    watchers : sequence of functions of (history, model)
        Each is called after each epoch with the history so far, a DataFrame, and the model as it is now.
    resume : bool
        False discards what there is of this run and trains it anew.
    backup_every : int
        Epochs from one backup to the next: a disconnect costs at most these.

    Returns
    -------
    Run, with the best weights

    Raises
    ------
    ValueError
        The run's folder holds another recipe's run, or backups of which none is whole.
    FloatingPointError
        The loss is no number any more.
    OSError
        The study cannot be written to any more. The backup is as it was after the epoch that it was made.
    """
    say = report or (lambda line: None)
    lock = study.path("models") / f".{recipe.run}.lock"
    with storage.locked(lock, f"training the run {recipe.run} of {study.root}"):
        if not resume:
            shutil.rmtree(study.path("recipe", run=recipe.run).parent, ignore_errors=True)
        if recipes.is_finished(recipe, study):
            say(f"run {recipe.run} has its {recipe.epochs} epochs: loaded, not trained again")
        else:
            _train_on(recipe, study, say, watchers, backup_every)
        return load_run(study, recipe.run)


def _train_on(recipe, study, say, watchers, backup_every):
    """Train a run from its backup on, or from its seed, to its last epoch."""
    rows = _rows(recipe, study, say)
    keras.utils.set_random_seed(recipe.seed)
    with hardware.all_devices() as shares:
        model, backup = compiling.compile_model(recipe), Backup(study.path("backup", run=recipe.run))
        state = backup.restore(model, say)
        if state.history:
            say(f"going on with run {recipe.run} after epoch {len(state.history)} of {recipe.epochs}")
        keeper = keeping.Keeper(recipe, study, backup, backup_every)
        for row in _epochs(model, recipe, study, rows, shares, len(state.history)):
            watching.refuse_nan(row, recipe)
            keeper.keep(model, state, row)
            for text in watching.lines(state.history, recipe):
                say(text)
            for watch in watchers:
                watch(pd.DataFrame(state.history), model)
        keeper.finish(state)


def _rows(recipe, study, say):
    """Return the rows of the training and of the validation slices; refuse those from which nothing can be learned."""
    rows = [slices.rows_of(study, name, split=recipe.split, fold=recipe.fold) for name in ("train", "validation")]
    train, validation = (slices.table(study)["lesion_pixels"].to_numpy()[part].any() for part in rows)
    if not train:
        raise ValueError(
            f"no training slice of the {recipe.split} split, fold {recipe.fold}, has a lesion: nothing can be learned. "
            "Choose another SPLIT or FOLD, or another SEED in notebook 02"
        )
    if not validation:
        say("WARNING: no validation slice has a lesion, so the best epoch is chosen without any: see notebook 02")
    return rows


def _epochs(model, recipe, study, rows, shares, done):
    """Train a model epoch after epoch, after those `done`; yield each one's row of the history."""
    images, masks = slices.arrays(study)
    train_rows, validation_rows = rows

    in_memory = shares == (1, 0, 1) and images.nbytes < IN_MEMORY

    def feed(rows, epoch):
        mixed = order(rows, recipe.seed, epoch)
        if in_memory:
            return images[mixed], masks[mixed]
        return (Batches(images, masks, mixed, recipe.batch_size, *shares),)

    validation = feed(validation_rows, 0)  # mixed too: no batch of healthy slices only
    options = {"batch_size": recipe.batch_size} if in_memory else {}
    options |= {"validation_data": validation if in_memory else validation[0], "shuffle": False, "verbose": 0}
    for epoch in range(done, recipe.epochs):
        start = time.perf_counter()
        logs = model.fit(*feed(train_rows, epoch), **options).history
        values = {name: values[0] for name, values in logs.items()}
        yield {"epoch": epoch + 1} | values | {"seconds": time.perf_counter() - start}


def load_run(study, name):
    """Return a finished run with the weights of its best epoch.

    Raises as `read_run` does.
    """
    return read_run(study.path("recipe", run=name).parent)


def read_run(folder):
    """Return the finished run that a folder holds, wherever it lies, with the weights of its best epoch.

    Raises FileNotFoundError, naming the notebooks that train, where there is no finished run; ValueError where its
    files are damaged or do not belong together.
    """
    files = {part: Path(folder) / Path(LAYOUT[part][0]).name for part in ("recipe", "history", "weights", "timing")}
    missing = [file.name for file in files.values() if not file.exists()]
    if missing:
        raise FileNotFoundError(
            f"no finished run in {folder} (no {', '.join(missing)}): expected the folder of a run, as "
            "study/models/dice; run notebook 03, 04 or 05 first, or again if it was cut off"
        )
    try:
        recipe = recipes.of_fields(storage.read_json(files["recipe"]))
        lacks = sorted({"window_hu", "step", "size", "mean", "std"} - recipe.preprocessing.keys())
        if lacks:
            raise ValueError(f"recipe.json lacks {', '.join(lacks)}")
        model = compiling.build_model(recipe)
        model.load_weights(files["weights"])
        history = storage.read_csv(files["history"])
    except (TypeError, ValueError, OSError, KeyError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"the run in {folder} is damaged, or its files are not of one run ({said}): copy the folder again, or "
            "train it anew"
        ) from error
    return Run(recipe, model, history, storage.read_json(files["timing"]))
