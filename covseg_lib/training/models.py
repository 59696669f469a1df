"""From a recipe to a model: built, compiled, or read back from the folder of a run."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import pandas as pd

from covseg_lib import files
from covseg_lib.settings import LESION_THRESHOLD
from covseg_lib.study import LAYOUT, Study
from covseg_lib.training import devices, recipes
from covseg_lib.training.objectives import OBJECTIVES, PositiveRate, bce_dice_loss
from covseg_lib.training.recipes import Recipe
from covseg_lib.training.unet import build_unet

# TensorFlow takes the fifth model that predicts for one that is compiled again and again
logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.getMessage())
WEIGHT_DECAY = 1e-4
SHIPPED = Path(__file__).parents[1] / "shipped" / "final"  # the run that comes with covseg


@dataclass(frozen=True)
class Postprocessing:
    """How probabilities become a mask; the default is the report's.

    threshold : a pixel with at least this probability is predicted as lesion
    smallest_ml : connected lesions of a scan that are smaller are dropped
    mirror : whether each slice is also predicted mirrored left-right, and both are averaged
    zoom : slices are enlarged by this factor before the network sees them, and the prediction is
        reduced again; the network has no layer that depends on the size
    """

    threshold: float = LESION_THRESHOLD
    smallest_ml: float = 0.0
    mirror: bool = False
    zoom: float = 1.0


@dataclass(frozen=True)
class Run:
    """A trained run: its recipe, the model with its best weights, the history and the timing.

    The model's input has the size of the slices times `postprocessing.zoom`; see `with_rules`.
    """

    recipe: Recipe
    model: keras.Model
    history: pd.DataFrame
    timing: dict
    postprocessing: Postprocessing = Postprocessing()


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
    folder = run_folder(recipe.start_from)
    first = read_run(folder)
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


def run_folder(name: str | Path) -> Path:
    """Return the folder of a run: a path, or "shipped" for the model that comes with covseg."""
    return SHIPPED if str(name) == "shipped" else Path(name)


def make_optimizer(recipe: Recipe) -> keras.optimizers.Optimizer:
    """Return the optimizer of a recipe: Adam, or with weight decay AdamW."""
    policy = devices.dtype_policy(recipe.precision)
    decay = WEIGHT_DECAY if recipe.optimizer == "adamw" else None
    return devices.make_adam(recipe.learning_rate, recipe.clipnorm, policy, decay)


def load_run(study: Study, name: str, model: keras.Model | None = None) -> Run:
    """Return a finished run of a study; the rest as for `read_run`."""
    return read_run(study.path("recipe", run=name).parent, model)


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
    names = ("recipe", "history", "weights", "timing")
    paths = {part: Path(folder) / Path(LAYOUT[part][0]).name for part in names}
    missing = [path.name for path in paths.values() if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"no finished run in {folder} (no {', '.join(missing)}): expected the folder of a run, "
            "as study/models/dice; run notebook 03, 04 or 05 first, or again if it was interrupted"
        )
    try:
        recipe = recipes.recipe_from_dict(files.read_json(paths["recipe"]))
        needed = {"window_hu", "step", "size", "mean", "std"}
        lacks = sorted(needed - recipe.preprocessing.keys())
        if lacks:
            raise ValueError(f"recipe.json lacks {', '.join(lacks)}")
        # without the optimizer, as the weights were saved
        model = keras.Model(model.input, model.output) if model else build_model(recipe)
        model.load_weights(paths["weights"])
        history = files.read_csv(paths["history"])
        run = Run(recipe, model, history, files.read_json(paths["timing"]))
        run = with_rules(run, read_postprocessing(folder))
    except (TypeError, ValueError, OSError, KeyError) as error:
        if isinstance(error, BlockingIOError):  # HDF5 locks the files that it writes
            raise OSError(
                f"{paths['weights']} is open in another program: wait until it has ended, then try "
                "again"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"the run in {folder} is damaged, or its files are not of one run ({reason}): copy the "
            "folder again, or train it again"
        ) from error
    return run


def with_rules(run: Run, rules: Postprocessing) -> Run:
    """Return a run with another `Postprocessing`; for another zoom with a model of another size."""
    model = run.model
    if rules.zoom != run.postprocessing.zoom:
        model = build_model(run.recipe, zoom=rules.zoom)
        model.set_weights(run.model.get_weights())
    return replace(run, model=model, postprocessing=rules)


def read_postprocessing(folder: Path) -> Postprocessing:
    """Return how the probabilities of the run in a folder become masks."""
    path = Path(folder) / Path(LAYOUT["postprocessing"][0]).name
    return Postprocessing(**files.read_json(path)) if path.exists() else Postprocessing()
