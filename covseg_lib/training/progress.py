"""The training log: one line an epoch, and a warning if the model collapses."""

from collections.abc import Callable

import keras
import numpy as np

PATIENCE = 3  # epochs without any predicted lesion before the log warns of a collapse


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
                f"WARNING: no lesion predicted on any validation slice for {PATIENCE} epochs. "
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
    """Return whether exactly the last `PATIENCE` epochs predicted no lesion at all."""
    empty = [row["val_positive_rate"] == 0 for row in rows]
    before, last = empty[:-PATIENCE], empty[-PATIENCE:]
    return len(last) == PATIENCE and all(last) and not (before and before[-1])
