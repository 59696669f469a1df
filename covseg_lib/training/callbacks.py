"""Keras callbacks of a training: what is written and printed after each epoch.

Keras' own BackupAndRestore and CSVLogger write in place, one file after the other: a kill leaves
files that do not belong together. `Backup` and `History` write files that are always complete.
"""

import io
import json
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from covseg_lib import files
from covseg_lib.training.recipes import Recipe
from covseg_lib.training.run_folder import RunFolder

WARM_UP = 0.1  # the part of the epochs in which the learning rate rises


class History(keras.callbacks.Callback):
    """Write metrics and seconds of each epoch to the run's folder, and stop if the loss is NaN.

    Parameters
    ----------
    folder : RunFolder
    rows : list of dict
        The epochs before this training, if it is resumed. New rows are added to this list.
    advice : str
        Ends the error message for a NaN loss.
    """

    def __init__(self, folder: RunFolder, rows: list[dict], advice: str = ""):
        super().__init__()
        self.folder = folder
        self.rows = rows
        self.advice = advice

    def on_epoch_begin(self, epoch, logs=None):
        """Start the clock."""
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Add a row to the file; FloatingPointError for a NaN loss, before anything is written."""
        seconds = time.perf_counter() - self.start
        values = {name: float(value) for name, value in logs.items()}
        if not np.isfinite(values["loss"]):
            raise FloatingPointError(
                f"the loss is {values['loss']} in epoch {epoch + 1}: the training has failed; "
                f"backup and best weights are those of the epochs before. {self.advice}"
            )
        study = self.folder.path.parents[1]
        if not study.is_dir():
            raise FileNotFoundError(
                f"{study} disappeared during epoch {epoch + 1}: if it is on Drive, mount Drive "
                "again; then run this again, it continues from the last backup"
            )
        self.rows.append({"epoch": epoch + 1} | values | {"seconds": seconds})
        self.folder.epoch_done(self.rows)


class BestWeights(keras.callbacks.ModelCheckpoint):
    """Keras' ModelCheckpoint for the weights of the best epoch, written atomically.

    Parameters
    ----------
    path : Path ending in .weights.h5
    monitor : str
        The metric whose highest value is the best, as "val_dice".
    best : float, optional
        The best value of the epochs before, if the training is resumed.
    last : bool
        Whether to save the weights of every epoch instead, so that those of the last one stay.
    """

    def __init__(self, path: Path, monitor: str, best: float | None = None, last: bool = False):
        self.path = path
        super().__init__(
            str(path.with_name(f".part-{path.name}")),
            monitor=monitor,
            mode="max",
            save_best_only=not last,
            save_weights_only=True,
            initial_value_threshold=best,
        )

    def set_model(self, model):
        """Save the weights of the layers, without those of the optimizer."""
        super().set_model(keras.Model(model.inputs, model.outputs))

    def on_epoch_end(self, epoch, logs=None):
        """Save the weights if they are the best, and rename the finished file."""
        super().on_epoch_end(epoch, logs)
        if Path(self.filepath).exists():
            files.rename_into_place(self.filepath, self.path)


class Backup(keras.callbacks.Callback):
    """Save everything that a resumed training needs, and restore it, as Keras' BackupAndRestore.

    One file holds the weights, the optimizer's state, the history and the best weights. There are
    two files, a.npz and b.npz. Each is first written atomically; from then on, the older one is
    overwritten in place. (Replaced files would fill the bin of Google Drive.) Their checksums show
    whether a file is complete. A file is written while the next epoch trains.

    Parameters
    ----------
    folder : RunFolder
    rows : list of dict
        The history, which `History` extends.
    every : int
        Epochs between two backups. The last epoch is always saved.
    """

    def __init__(self, folder: RunFolder, rows: list[dict], every: int = 1):
        super().__init__()
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"backup_every is {every!r}: expected a positive integer")
        self.paths = [folder.file("backup") / "a.npz", folder.file("backup") / "b.npz"]
        self.best_weights = folder.file("weights")
        self.rows = rows
        self.every = every
        self.arrays: dict[str, np.ndarray] = {}
        self.writer = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None

    def load(self, log: Callable[[str], None]) -> bool:
        """Read the newest complete file: restore its history and best weights; False if none.

        The model's weights are restored when `fit` starts. `log` is told of damaged files. Raises
        ValueError if all files are damaged.
        """
        found, damaged = {}, []
        files.remove_temporary_files(self.paths[0].parent)
        for path in self.paths:
            if path.exists():
                try:
                    with files.open_npz(path) as arrays:
                        content = {name: arrays[name] for name in arrays.files}
                except Exception as error:  # many kinds, from zip and from NumPy
                    damaged.append(f"{path} is damaged ({error})")
                else:
                    found[path] = content
        if damaged and not found:
            raise ValueError(
                f"{'; '.join(damaged)}: the training cannot be resumed. The best weights are "
                f"in {self.best_weights.parent}: set RUN to another name to keep them, or "
                "RESUME = False to train again"
            )
        if not found:
            return False
        histories = {path: json.loads(str(found[path]["history"])) for path in found}
        newest = max(found, key=lambda path: len(histories[path]))
        self.arrays, self.rows[:] = found[newest], histories[newest]
        for line in damaged:
            log(f"{line}: continuing from {newest.name}, after epoch {len(self.rows)}")
        self.paths.sort(key=lambda path: path == newest)
        files.write_bytes(self.best_weights, self.arrays["best_weights"].tobytes())
        return True

    def on_train_begin(self, logs=None):
        """Restore the model and its optimizer."""
        adam = _adam(self.model)  # is built now: else TensorFlow would compile the first step twice
        if self.arrays:
            self.model.set_weights(_list(self.arrays, "weights"))
            saved = _list(self.arrays, "optimizer") + _list(self.arrays, "scale")
            variables = [*adam.variables, *_loss_scale(self.model)]
            for variable, value in zip(variables, saved, strict=False):  # not all have a loss scale
                variable.assign(value)
        self.arrays, self.saved = {}, len(self.rows)

    def on_epoch_end(self, epoch, logs=None):
        """Save, if a backup is due."""
        if (epoch + 1) % self.every == 0:
            self._save()

    def on_train_end(self, logs=None):
        """Save the last epoch."""
        if len(self.rows) > self.saved:
            self._save()
        self.finish()

    def finish(self) -> None:
        """Wait until the last backup is written; raises OSError if that is not possible."""
        if self.writing:
            self.writing.result()

    def _save(self):
        self.finish()
        lists = {"weights": self.model.weights, "optimizer": _adam(self.model).variables}
        lists["scale"] = _loss_scale(self.model)
        arrays = {
            f"{kind}_{n}": np.array(keras.ops.convert_to_numpy(variable))  # training changes it
            for kind, variables in lists.items()
            for n, variable in enumerate(variables)
        }
        arrays["best_weights"] = np.frombuffer(self.best_weights.read_bytes(), np.uint8)
        arrays["history"] = np.array(json.dumps(self.rows))
        self.paths[0].parent.mkdir(parents=True, exist_ok=True)
        self.writing = self.writer.submit(_write, self.paths[0], arrays)
        self.paths.reverse()
        self.saved = len(self.rows)


def one_cycle(recipe: Recipe, epoch: int, rate: float = 0) -> float:
    """Return the learning rate of an epoch: it rises to the recipe's, then falls as a cosine to 0.

    Smith, arXiv 1803.09820. `rate`, the one of the epoch before, is not used.
    """
    done = (epoch + 0.5) / recipe.epochs
    rising, falling = done / WARM_UP, (done - WARM_UP) / (1 - WARM_UP)
    return recipe.learning_rate * min(rising, 0.5 + 0.5 * math.cos(math.pi * max(falling, 0)))


def _write(path, arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    if not path.parent.is_dir():  # writing would make it again
        raise FileNotFoundError(f"{path.parent} disappeared: if it is on Drive, mount Drive again")
    save = files.overwrite if path.exists() else files.write_bytes
    save(path, buffer.getbuffer())


def _list(arrays, kind):
    count = sum(name.startswith(f"{kind}_") and name[-1].isdigit() for name in arrays)
    return [arrays[f"{kind}_{n}"] for n in range(count)]


def _adam(model):
    """Return the built optimizer; with float16, the one inside LossScaleOptimizer."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def _loss_scale(model):
    """Return the variables that scale the loss for float16, or none."""
    names = ("step_counter", "dynamic_scale")
    return [getattr(model.optimizer, name) for name in names if hasattr(model.optimizer, name)]


def best_epoch(history: pd.DataFrame, metric: str, selection: str = "validation") -> int:
    """Return the epoch, from 1, whose weights are kept: the best, or without selection the last."""
    kept = history[f"val_{metric}"].argmax() if selection == "validation" else len(history) - 1
    return int(history["epoch"][kept])
