"""The network, drawn: its shape, and what its layers make of a slice. Functions return the Figure and never show it."""

import itertools
import math

import keras
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

DOWN, UP, ACROSS = "#0072B2", "#D55E00", "0.55"


def unet(model):
    """Draw a U-Net from its own layers: a box a stage with the shape that leaves it, arrows between them."""
    stages = _stages(model)
    spots = [(number, -_level(stages, number)) for number in range(len(stages))]
    figure = Figure(figsize=(10.5, 1.4 + 0.85 * (len(stages) // 2 + 1)), layout="constrained")
    ax = figure.subplots()
    most, bottom = max(_maps(stage).shape[-1] for stage in stages), len(stages) // 2
    boxes = [
        _box(ax, *spot, stage, most, DOWN if number <= bottom else UP)
        for number, (stage, spot) in enumerate(zip(stages, spots, strict=True))
    ]
    for number, (start, end) in enumerate(itertools.pairwise(boxes)):
        _arrow(ax, start, end, DOWN if number < bottom else UP)
    for start, end in _skips(stages):
        _arrow(ax, boxes[start], boxes[end], ACROSS, "--")
    ax.annotate("slice", (-0.45, 0), (-1.15, 0), va="center", arrowprops={"arrowstyle": "->"})
    side = len(stages) - 1
    ax.annotate("", (side + 0.75, 0), (side + 0.45, 0), arrowprops={"arrowstyle": "->"})
    ax.text(side + 0.8, 0, "lesion?\n0 to 1", va="center")
    lines = {"halved": (DOWN, "-"), "doubled": (UP, "-"), "kept and put beside it": (ACROSS, "--")}
    handles = [Line2D([], [], color=colour, linestyle=style, label=said) for said, (colour, style) in lines.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    ax.set(xlim=(-1.2, side + 1.4), ylim=(min(y for _, y in spots) - 0.55, 0.45))
    ax.set_title(f"{model.count_params():,} parameters; in each box rows x columns, maps, parameters", fontsize=10)
    ax.set_axis_off()
    return figure


def feature_maps(model, image, count=4):
    """Show what a U-Net's stages make of one slice: way down above, way up below, in each its strongest maps.

    Parameters
    ----------
    model : keras.Model, as `unet.build_unet` makes it
    image : (H, W, 1) array, a standardised slice
    count : int
        Maps a stage, or all where it has fewer; the strongest are those that vary most over the slice.
    """
    stages = _stages(model)
    seen = keras.Model(model.input, [*map(_maps, stages), model.output])(np.asarray(image)[None], training=False)
    *maps, found = (keras.ops.convert_to_numpy(keras.ops.cast(tensor[0], "float32")) for tensor in seen)
    depth = len(stages) // 2
    down, up = [str(number) for number in range(depth)], [str(2 * depth - number) for number in range(depth)]
    figure = Figure(figsize=(1.8 * (depth + 2), 4.3), layout="constrained")
    axes = figure.subplot_mosaic([["slice", *down, str(depth)], ["found", *up, str(depth)]])
    for name, array, title in (("slice", image, "the slice"), ("found", found, "probability of a lesion")):
        axes[name].imshow(array[..., 0], cmap="gray")
        axes[name].set_title(title, fontsize=9)
    for number, of_stage in enumerate(maps):
        ax, (rows, columns, filters) = axes[str(number)], of_stage.shape
        tiles = _tiles(of_stage, count)
        ax.imshow(tiles, cmap="viridis", interpolation="nearest")
        ax.set_title(f"{rows} x {columns}: {min(count, filters)} of {filters} maps", fontsize=9)
        for between in range(rows, len(tiles), rows):
            ax.axhline(between - 0.5, color="white", linewidth=2)
            ax.axvline(between - 0.5, color="white", linewidth=2)
    for ax in axes.values():
        ax.set_axis_off()
    figure.suptitle("Above the way down, below the way up, on the right the bottom")
    return figure


def _stages(model):
    """Return a model's layers in order, as lists of those with one size of picture."""
    stages = []
    for layer in model.layers:
        if not stages or layer.output.shape[1] != stages[-1][-1].output.shape[1]:
            stages.append([])
        stages[-1].append(layer)
    return stages


def _level(stages, number):
    """Return how often the picture was halved in a stage."""
    return np.log2(stages[0][0].output.shape[1] / stages[number][0].output.shape[1])


def _maps(stage):
    """Return the last output of a stage, not yet the probabilities."""
    sigmoid = keras.activations.sigmoid
    return [layer.output for layer in stage if getattr(layer, "activation", None) is not sigmoid][-1]


def _skips(stages):
    """Yield (from, to), the stages that a layer of two inputs joins."""
    made_in = {id(layer.output): number for number, stage in enumerate(stages) for layer in stage}
    for number, stage in enumerate(stages):
        for layer in stage:
            inputs = layer.input if isinstance(layer.input, list) else []
            yield from ((made_in[id(tensor)], number) for tensor in inputs if made_in[id(tensor)] != number)


def _box(ax, x, y, stage, most, colour):
    """Draw a stage: the larger the picture the higher, the more maps of the `most` there are the wider."""
    maps = _maps(stage)
    _, rows, columns, filters = maps.shape
    weights = sum(layer.count_params() for layer in stage)
    high, wide = 0.74 + 0.07 * y, 0.6 + 0.24 * np.log2(filters) / np.log2(most)
    place = (x - wide / 2, y - high / 2)
    box = FancyBboxPatch(place, wide, high, boxstyle="round,pad=0", facecolor="white", edgecolor=colour, zorder=1)
    ax.add_patch(box)
    ax.text(x, y, f"{rows} x {columns}\n{filters} maps\n{weights:,}", ha="center", va="center", fontsize=8)
    return box


def _tiles(maps, count):
    """Return up to `count` maps of (H, W, maps) that vary most, each from 0 to 1, as one square (side H, side W)."""
    spread = maps.std(axis=(0, 1))
    chosen = np.moveaxis(maps[..., np.argsort(-spread, kind="stable")[:count]], -1, 0)
    side = math.ceil(len(chosen) ** 0.5)
    low, high = (end(chosen, axis=(1, 2), keepdims=True) for end in (np.min, np.max))
    scaled = np.zeros((side**2, *chosen.shape[1:]))
    scaled[: len(chosen)] = (chosen - low) / np.maximum(high - low, 1e-6)
    return np.block([list(scaled[row * side : (row + 1) * side]) for row in range(side)])


def _arrow(ax, start, end, colour, style="-"):
    """Draw an arrow from the rim of one box to that of another."""
    middles = [(box.get_x() + box.get_width() / 2, box.get_y() + box.get_height() / 2) for box in (start, end)]
    shape = {"arrowstyle": "->", "color": colour, "linestyle": style, "linewidth": 1.5, "patchA": start, "patchB": end}
    ax.annotate("", middles[1], middles[0], arrowprops=shape | {"shrinkA": 2, "shrinkB": 2})
