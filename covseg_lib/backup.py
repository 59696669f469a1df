"""What a training that was cut off goes on from: two files written in turn, so that one of them is always whole."""

import io
import json
from dataclasses import dataclass, field

import keras
import numpy as np

from covseg_lib import storage


@dataclass
class State:
    """How far a training is: one row of `history` an epoch, and the weights of the best epoch so far, in `best`."""

    history: list = field(default_factory=list)
    best: list = field(default_factory=list)


class Backup:
    """The folder backup/ of a run.

    Parameters
    ----------
    folder : Path
        Holds a.npz and b.npz, or nothing. The older of the two is overwritten where it lies: a file that is replaced
        would go to Drive's bin each time and fill it. A file says by its checksums (zip's) whether it is whole.
    """

    def __init__(self, folder):
        self.files = [folder / "a.npz", folder / "b.npz"]

    def save(self, model, state):
        """Write the model's weights, its optimizer's and the state; OSError says what stands in the way."""
        buffer = io.BytesIO()
        scale = _values(_loss_scale(model))
        arrays = {"weights": model.get_weights(), "optimizer": _values(_adam(model).variables)}
        arrays |= {"scale": scale, "best": state.best}
        named = {f"{kind}_{n}": array for kind, values in arrays.items() for n, array in enumerate(values)}
        np.savez(buffer, history=json.dumps(state.history), **named)
        storage.overwrite(self.files[0], buffer.getbuffer())
        self.files.reverse()

    def restore(self, model, say):
        """Put the newest whole file into a compiled model and return its State; an empty one where there is no file.

        Parameters
        ----------
        model : keras.Model
        say : function of str
            Is told of a damaged file that was passed over.

        Raises
        ------
        ValueError
            There are files and none of them is whole.
        """
        found, damaged = {}, []
        for file in [file for file in self.files if file.exists()]:
            try:
                with storage.open_npz(file) as arrays:
                    found[file] = {name: arrays[name] for name in arrays.files}
            except Exception as error:  # whatever zip and NumPy say of a torn or overwritten file
                damaged.append(f"{file} is damaged ({error})")
        if damaged and not found:
            raise ValueError(
                f"{'; '.join(damaged)}: there is nothing to go on from. The best weights so far are kept in "
                f"{self.files[0].parents[1]}; RUN = ... trains beside them, RESUME = False anew"
            )
        if not found:
            return State()
        newest = max(found, key=lambda file: len(_history(found[file])))
        for line in damaged:
            say(f"{line}: going on from {newest.name}, after epoch {len(_history(found[newest]))}")
        self.files.sort(key=lambda file: file == newest)
        return _put(found[newest], model)


def _put(arrays, model):
    """Put what a file holds into a compiled model; return the State."""
    model.set_weights(_list(arrays, "weights"))
    for variable, value in zip(_adam(model).variables, _list(arrays, "optimizer"), strict=True):
        variable.assign(value)
    for variable, value in zip(_loss_scale(model), _list(arrays, "scale"), strict=False):  # other hardware has none
        variable.assign(value)
    return State(_history(arrays), _list(arrays, "best"))


def _adam(model):
    """Return the optimizer, built; of one that scales its loss for float16 the one inside, as other hardware has it."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return optimizer


def _loss_scale(model):
    """Return the variables that scale the loss for float16: the step counter and the scale; none in other formats."""
    optimizer = model.optimizer
    return [optimizer.step_counter, optimizer.dynamic_scale] if hasattr(optimizer, "inner_optimizer") else []


def _values(variables):
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def _list(arrays, kind):
    return [arrays[f"{kind}_{n}"] for n in range(sum(name.startswith(f"{kind}_") for name in arrays))]


def _history(arrays):
    return json.loads(str(arrays["history"]))
