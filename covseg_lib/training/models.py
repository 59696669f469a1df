"""From a recipe to a model: built, compiled, or read back from the folder of a run."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import pandas as pd

from covseg_lib import files
from covseg_lib.study import Study
from covseg_lib.training import devices, run_folder
from covseg_lib.training.objectives import OBJECTIVES, PositiveRate, bce_dice_loss
from covseg_lib.training.recipes import Recipe
from covseg_lib.training.run_folder import Postprocessing, RunFolder, RunState
from covseg_lib.training.unet import build_unet

# TensorFlow takes the fifth model that predicts for one that is compiled again and again
logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.getMessage())
WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class Run:
    """A trained run: its state, the model with its best weights, and the history.

    The model's input has the size of the slices times the zoom of the rules; see `with_rules`.
    """

    state: RunState
    model: keras.Model
    history: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def recipe(self) -> Recipe:
        """The recipe that it was trained with."""
        return self.state.recipe

    @property
    def timing(self) -> dict:
        """Seconds of its training, and the device, see `RunState`."""
        return self.state.timing

    @property
    def rules(self) -> Postprocessing:
        """How its probabilities become masks."""
        return self.state.rules


def build_model(recipe: Recipe, dtype: str = "", zoom: float = 1.0) -> keras.Model:
    """Return the untrained U-Net of a recipe; default dtype: the precision for this machine.

    With a zoom it is for larger slices, whose size is the nearest multiple of 2**depth.
    """
    size, multiple = recipe.preprocessing["size"], 2**recipe.depth
    return build_unet(
        size if zoom == 1 else round(size * zoom / multiple) * multiple,
        recipe.base_filters,
        recipe.depth,
        recipe.lesion_prior,
        dtype=dtype or devices.dtype_policy(recipe.precision),
        channels=recipe.channels,
        norm_layer=recipe.norm_layer,
    )


def compile_model(recipe: Recipe) -> keras.Model:
    """Return the untrained U-Net of a recipe, compiled."""
    model, objective = build_model(recipe), OBJECTIVES[recipe.objective]
    model.compile(
        optimizer=make_optimizer(recipe),
        loss=bce_dice_loss if recipe.loss == "bce_dice" else objective.loss,
        metrics=[objective.metric(), PositiveRate()],
    )
    return model


def load_first_weights(model: keras.Model, recipe: Recipe) -> None:
    """Load the weights of the run in `recipe.start_from` into a model; "" loads nothing.

    Raises FileNotFoundError if there is no run, and ValueError if its network is another one; the
    message names what differs.
    """
    if not recipe.start_from:
        return
    first = read_run(run_folder.locate(recipe.start_from))
    network = ("channels", "base_filters", "depth", "norm_layer")
    differing = [
        f"{name} {getattr(first.recipe, name)!r} there and {getattr(recipe, name)!r} here"
        for name in network
        if getattr(first.recipe, name) != getattr(recipe, name)
    ]
    if differing:
        raise ValueError(
            f"START_FROM is {recipe.start_from}, whose network is another one "
            f"({', '.join(differing)}): set the same values here, or choose another run"
        )
    model.set_weights(first.model.get_weights())


def make_optimizer(recipe: Recipe) -> keras.optimizers.Optimizer:
    """Return the optimizer of a recipe: Adam, or with weight decay AdamW.

    The gradient of all weights together is clipped to the length `clipnorm`. For mixed_float16 the
    loss is scaled, because small gradients would become 0.
    """
    adam = keras.optimizers.Adam(
        recipe.learning_rate,
        global_clipnorm=recipe.clipnorm,
        weight_decay=WEIGHT_DECAY if recipe.optimizer == "adamw" else None,
    )
    if devices.dtype_policy(recipe.precision) == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(adam)
    return adam


def load_run(study: Study, name: str, model: keras.Model | None = None) -> Run:
    """Return a finished run of a study; the rest as for `read_run`."""
    return read_run(RunFolder.of(study, name).path, model)


def load_runs(study: Study) -> dict[str, Run]:
    """Return {name: run} of a study's finished runs, as `run_folder.finished_runs` lists them.

    Raises FileNotFoundError if there is none; the message names the notebooks that train.
    """
    found = {name: load_run(study, name) for name in run_folder.finished_runs(study)}
    if not found:
        raise FileNotFoundError(
            f"no finished run of these slices in {study.path('models')}: run notebook 03, 04 or 05 "
            "first"
        )
    return found


def read_run(folder: Path, model: keras.Model | None = None) -> Run:
    """Return the finished run in a folder with its best weights.

    They are loaded into `model`, the model that was just trained; without it, one is built.

    Raises
    ------
    FileNotFoundError
        There is no finished run; the message names the notebooks that train.
    ValueError
        Files are damaged or do not belong together.
    """
    of_run = RunFolder(folder)
    state = of_run.read_finished()
    weights = of_run.file("weights")
    try:
        if run_folder.checksum_of_weights(weights) != state.weights:
            raise ValueError(f"{weights.name} has not the weights that run.json describes")
        # without the optimizer, as the weights were saved
        if model:
            model = keras.Model(model.input, model.output)
        else:
            model = build_model(state.recipe, zoom=state.rules.zoom)
        model.load_weights(weights)
        return Run(state, model, files.read_csv(of_run.file("history")))
    except (TypeError, ValueError, OSError, KeyError) as error:
        if isinstance(error, BlockingIOError):  # HDF5 locks the files that it writes
            raise OSError(
                f"{weights} is open in another program: wait until it has ended, then try again"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"the run in {folder} is damaged, or its files are not of one run ({reason}): copy the "
            "folder again, or train it again"
        ) from error


def with_rules(run: Run, rules: Postprocessing) -> Run:
    """Return a run with other rules; for another zoom with a model of another size."""
    model = run.model
    if rules.zoom != run.rules.zoom:
        model = build_model(run.recipe, zoom=rules.zoom)
        model.set_weights(run.model.get_weights())
    return replace(run, model=model, state=replace(run.state, rules=rules))
