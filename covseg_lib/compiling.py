"""The model that a recipe makes: its U-Net, in the recipe's precision, compiled with its objective and Adam."""

import keras

from covseg_lib import hardware
from covseg_lib.objectives import OBJECTIVES, Marked
from covseg_lib.unet import build_unet


def build_model(recipe):
    """Return the recipe's U-Net with untrained weights, in the precision that the recipe means on this machine."""
    size, precision = recipe.preprocessing["size"], hardware.precision(recipe.precision)
    return build_unet(size, recipe.base_filters, recipe.depth, recipe.lesion_prior, precision)


def compile_model(recipe):
    """Return the recipe's U-Net with untrained weights, compiled with its objective and Adam."""
    model, objective = build_model(recipe), OBJECTIVES[recipe.objective]
    optimizer = hardware.adam(recipe.learning_rate, recipe.clipnorm)
    if hardware.precision(recipe.precision) == "mixed_float16":  # small gradients would vanish in float16
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer=optimizer, loss=objective.loss, metrics=[objective.make_metric(), Marked(name="marked")])
    return model
