"""What a run leaves on disk: recipe.json, history.csv, best.weights.h5, backup/ and, at its end, timing.json."""

from dataclasses import asdict

import keras
import numpy as np
import pandas as pd

from covseg_lib import colab, compiling, hardware, storage


class Keeper:
    """Puts down what each epoch of a run has come to.

    Parameters
    ----------
    recipe : Recipe
    study : Study
    backup : Backup
    every : int
        Epochs from one backup to the next; the last epoch is always backed up.
    """

    def __init__(self, recipe, study, backup, every=1):
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"backup_every is {every!r}: expected a number of epochs from 1 on")
        self.recipe, self.backup, self.every, self.root = recipe, backup, every, study.root
        self.files = {name: study.path(name, run=recipe.run) for name in ("recipe", "history", "weights", "timing")}
        storage.remove_parts(self.files["recipe"].parent)
        self.best_model, self.published = compiling.build_model(recipe), None
        self.files["timing"].unlink(missing_ok=True)
        storage.write_json(self.files["recipe"], asdict(recipe))

    def keep(self, model, state, row):
        """Add an epoch's row to the state, and its weights if they are the best; back up, if it is time to."""
        score = f"val_{self.recipe.objective}"
        if row[score] > max((past[score] for past in state.history), default=-np.inf):
            state.best = [np.array(weights) for weights in model.get_weights()]
        state.history.append(row)
        if not self.root.is_dir():
            raise FileNotFoundError(
                f"{self.root} has gone during epoch {row['epoch']}: if it is on Drive, mount Drive again; then run "
                "this again, it goes on from the last backup"
            )
        storage.write_csv(self.files["history"], pd.DataFrame(state.history))
        if row["epoch"] % self.every == 0 or row["epoch"] == self.recipe.epochs:
            self.backup.save(model, state)
            self._publish(state)

    def finish(self, state):
        """Write what tells a finished run, timing.json last."""
        self._publish(state)
        storage.write_csv(self.files["history"], pd.DataFrame(state.history))
        storage.write_json(self.files["timing"], self._timing(state.history))

    def _publish(self, state):
        """Write the best weights so far to best.weights.h5, unless this has done so already."""
        if state.best is not self.published:
            self.best_model.set_weights(state.best)
            with storage.atomic(self.files["weights"]) as temporary:
                self.best_model.save_weights(temporary)
            self.published = state.best

    def _timing(self, history):
        """Return the times as the report gives them: the first epoch, the others (median) and all, in seconds."""
        seconds = [row["seconds"] for row in history]
        return {
            "first_epoch_s": round(seconds[0], 2),
            "other_epochs_s": round(float(np.median(seconds[1:] or seconds)), 2),
            "total_s": round(sum(seconds), 2),
            "device": colab.device(),
            "devices": len(hardware.devices()),
            "precision": hardware.precision(self.recipe.precision),
            "backend": f"{keras.backend.backend()}, Keras {keras.__version__}",
        }
