"""Training one run: a recipe goes in; weights, history and timing come out, in models/<run>/."""

import time
from dataclasses import asdict, dataclass

import keras
import numpy as np
import pandas as pd

from covseg_lib import colab, slices, storage
from covseg_lib.objectives import OBJECTIVES
from covseg_lib.unet import build_unet


@dataclass(frozen=True)
class Recipe:
    """All that decides how a run comes out; recipe.json holds it beside the weights.

    The report names Adam and the epochs; batch size, learning rate and initialiser are ours. Tried on its 661 slices
    (128 px, 32 filters, slice split, mixed_bfloat16, Dice after so many epochs on validation slices):

    - He kernels, prior 1 %, batch 8, 1e-4, no clipping: BCE trains (0.70 after 5), soft Dice with 1 as smoothing
      falls to the empty mask in epoch 3 (seed 0); with 1e-7 as smoothing seeds 0, 1, 2 train, seed 3 falls in epoch 2.
    - The same, 3e-4: both train (0.76 and 0.67 after 5); batch 16: both train (0.73 and 0.72 after 5). Seed 0 only.
    - Gradient clipped to 0.1, 1e-4: seed 3 trains (0.54 after 3); to 1.0, hardly (0.20 after 3).
    - Gradient clipped to 0.1, 2e-4, batch 8, taken: all train; after 4 epochs seeds 0 to 4 have 0.65, 0.54, 0.73,
      0.81, 0.77 by BCE (the accuracy and the IoU model) and 0.75, 0.60, 0.50, 0.76, 0.74 by soft Dice.
    """

    run: str
    objective: str
    epochs: int
    preprocessing: dict  # what processed_data was made with: preprocessing.json
    base_filters: int
    depth: int
    batch_size: int
    learning_rate: float
    precision: str  # Keras' dtype policy
    seed: int
    clipnorm: float = 0.1  # a step's gradient, all weights together, is cut to this length
    lesion_prior: float = 0.01


@dataclass(frozen=True)
class Run:
    """A trained run: its recipe, the model with its best weights, the history and the timing."""

    recipe: Recipe
    model: keras.Model
    history: pd.DataFrame
    timing: dict


def make_recipe(study, objective, run="", epochs=None, **overrides):
    """Return the recipe of a run: the study's settings, with those arguments that are not None put over them.

    `run` names the run's folder, by default as the objective. Raises ValueError for an unknown objective.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"no objective {objective!r}: choose one of {', '.join(OBJECTIVES)}")
    settings = study.settings(**overrides)
    names = ("base_filters", "depth", "batch_size", "learning_rate", "precision", "seed")
    return Recipe(
        run=run or objective,
        objective=objective,
        epochs=settings["epochs"][objective] if epochs is None else epochs,
        preprocessing=storage.read_json(study.need("preprocessing")),
        **{name: settings[name] for name in names},
    )


def train(recipe, study, report=None):
    """Train a run and keep the weights of its best epoch.

    Best is the first epoch with the highest score of the run's own metric on the validation slices. The order of
    slices in an epoch follows from seed and epoch alone.

    Parameters
    ----------
    recipe : Recipe
    study : Study
        With processed_data in it.
    report : function of str, optional
        Gets one line an epoch, for example `print`.

    Returns
    -------
    Run, with the best weights
    """
    keras.utils.set_random_seed(recipe.seed)
    metric = recipe.objective
    train_set, validation_set = slices.load(study, "train"), slices.load(study, "validation")
    mixed = np.random.default_rng(recipe.seed).permutation(len(validation_set[0]))  # no batch of healthy slices only
    validation_set = tuple(array[mixed] for array in validation_set)
    model = compile_model(recipe)
    study.path("timing", run=recipe.run).unlink(missing_ok=True)
    storage.write_json(study.path("recipe", run=recipe.run), asdict(recipe))
    weights_only = keras.Model(model.inputs, model.outputs)  # shares the weights, leaves the optimizer's state out
    history, best = [], -np.inf
    for epoch in range(recipe.epochs):
        start = time.perf_counter()
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(train_set[0]))
        logs = model.fit(
            *(array[order] for array in train_set),
            batch_size=recipe.batch_size,
            shuffle=False,
            validation_data=validation_set,
            verbose=0,
        ).history
        scores = {name: values[0] for name, values in logs.items()}
        history.append({"epoch": epoch + 1, **scores, "seconds": time.perf_counter() - start})
        storage.write_csv(study.path("history", run=recipe.run), pd.DataFrame(history))
        if scores[f"val_{metric}"] > best:
            best = scores[f"val_{metric}"]
            with storage.atomic(study.path("weights", run=recipe.run)) as temporary:
                weights_only.save_weights(temporary)
        if report:
            report(_line(recipe, metric, history))
    storage.write_json(study.path("timing", run=recipe.run), _timing(history))
    return load_run(study, recipe.run)


def load_run(study, name):
    """Return a finished run with the weights of its best epoch.

    Raises FileNotFoundError, naming the notebooks that train, where there is no finished run of that name.
    """
    timing = storage.read_json(study.need("timing", run=name))
    recipe = Recipe(**storage.read_json(study.need("recipe", run=name)))
    model = build_model(recipe)
    model.load_weights(study.need("weights", run=name))
    return Run(recipe, model, pd.read_csv(study.need("history", run=name)), timing)


def build_model(recipe):
    """Return the recipe's U-Net with untrained weights."""
    size = recipe.preprocessing["size"]
    return build_unet(size, recipe.base_filters, recipe.depth, recipe.lesion_prior, recipe.precision)


def compile_model(recipe):
    """Return the recipe's U-Net with untrained weights, compiled with its objective and Adam."""
    model, objective = build_model(recipe), OBJECTIVES[recipe.objective]
    optimizer = keras.optimizers.Adam(recipe.learning_rate, global_clipnorm=recipe.clipnorm)
    model.compile(optimizer=optimizer, loss=objective.loss, metrics=[objective.make_metric()])
    return model


def best_epoch(history, objective):
    """Return the number of the epoch whose weights were kept, counted from 1."""
    return int(history["epoch"][history[f"val_{objective}"].argmax()])


def _line(recipe, metric, history):
    now = history[-1]
    left = (recipe.epochs - now["epoch"]) * np.median([row["seconds"] for row in history])
    return (
        f"epoch {now['epoch']:3d}/{recipe.epochs}  loss {now['loss']:.4f}  {metric} {now[metric]:.4f}  "
        f"val_loss {now['val_loss']:.4f}  val_{metric} {now[f'val_{metric}']:.4f}  "
        f"{now['seconds']:.1f} s, {left / 60:.1f} min left"
    )


def _timing(history):
    """Return the times as the report gives them: the first epoch, the others (mean) and all, in seconds."""
    seconds = [row["seconds"] for row in history]
    return {
        "first_epoch_s": round(seconds[0], 2),
        "other_epochs_s": round(float(np.mean(seconds[1:] or seconds)), 2),
        "total_s": round(sum(seconds), 2),
        "device": colab.device(),
        "backend": f"{keras.backend.backend()}, Keras {keras.__version__}",
    }
