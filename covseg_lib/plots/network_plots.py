"""Figures of a network: its architecture, its feature maps, and the operations it is built of."""

import itertools
import math

import keras
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch

DOWN, UP, ACROSS = "#0072B2", "#D55E00", "0.55"


def architecture(model: keras.Model) -> Figure:
    """Draw a U-Net from its layers: a box for each stage, with the shape of its output.

    A stage is all layers whose pictures have one size.
    """
    stages = _stages(model)
    levels = [_level(stages, stage) for stage in stages]  # 0 at the top
    most_maps = max(_maps(stage).shape[-1] for stage in stages)
    last, bottom = len(stages) - 1, len(stages) // 2
    figure = Figure(figsize=(10.5, 1.4 + 0.85 * (bottom + 1)), layout="constrained")
    ax = figure.subplots()
    boxes = []
    for number, (stage, level) in enumerate(zip(stages, levels, strict=True)):
        colour = DOWN if number <= bottom else UP
        boxes.append(_box(ax, number, -level, stage, most_maps, colour))
    for number, (start, end) in enumerate(itertools.pairwise(boxes)):
        _arrow(ax, start, end, DOWN if number < bottom else UP)
    for start, end in _skips(stages):
        _arrow(ax, boxes[start], boxes[end], ACROSS, "--")
    ax.annotate("slice", (-0.45, 0), (-1.15, 0), va="center", arrowprops={"arrowstyle": "->"})
    ax.annotate("", (last + 0.75, 0), (last + 0.45, 0), arrowprops={"arrowstyle": "->"})
    ax.text(last + 0.8, 0, "lesion?\n0 to 1", va="center")
    handles = [
        Line2D([], [], color=DOWN, label="halved"),
        Line2D([], [], color=UP, label="doubled"),
        Line2D([], [], color=ACROSS, linestyle="--", label="concatenated"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    ax.set(xlim=(-1.2, last + 1.4), ylim=(-max(levels) - 0.55, 0.45))
    title = f"{model.count_params():,} parameters; in each box rows x columns, maps, parameters"
    ax.set_title(title, fontsize=10)
    ax.set_axis_off()
    return figure


def feature_maps(model: keras.Model, image: np.ndarray, count: int = 1) -> Figure:
    """Show feature maps of a U-Net for one slice: the way down on top, the way up below.

    Parameters
    ----------
    model : keras.Model, from `unet.build_unet`
    image : (H, W, 1) array, a standardised slice
    count : int
        Maps of each stage: those that vary most over the slice.
    """
    stages = _stages(model)
    with_maps = keras.Model(model.input, [*map(_maps, stages), model.output])
    outputs = with_maps(np.asarray(image)[None], training=False)
    outputs = [keras.ops.cast(output[0], "float32") for output in outputs]
    *maps, probabilities = map(keras.ops.convert_to_numpy, outputs)
    depth = len(stages) // 2
    down = [str(number) for number in range(depth)]
    up = [str(2 * depth - number) for number in range(depth)]
    figure = Figure(figsize=(1.8 * (depth + 2), 4.3), layout="constrained")
    axes = figure.subplot_mosaic([["slice", *down, str(depth)], ["output", *up, str(depth)]])
    axes["slice"].imshow(image[..., 0], cmap="gray")
    axes["slice"].set_title("the input", fontsize=9)
    axes["output"].imshow(probabilities[..., 0], cmap="gray")
    axes["output"].set_title("probability of a lesion", fontsize=9)
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
    figure.suptitle("Top: the way down. Bottom: the way up. Right: the smallest maps")
    return figure


def _stages(model):
    """Return a model's layers in order, as lists of layers with one size of picture."""
    stages = []
    for layer in model.layers:
        if not stages or layer.output.shape[1] != stages[-1][-1].output.shape[1]:
            stages.append([])
        stages[-1].append(layer)
    return stages


def _level(stages, stage):
    """Return how often the picture was halved in a stage."""
    return np.log2(stages[0][0].output.shape[1] / stage[0].output.shape[1])


def _maps(stage):
    """Return the last output of a stage, without the sigmoid layer that makes probabilities."""
    sigmoid = keras.activations.sigmoid
    maps = [layer for layer in stage if getattr(layer, "activation", None) is not sigmoid]
    return maps[-1].output


def _skips(stages):
    """Yield (from, to), the numbers of stages that are joined by a layer with two inputs."""
    made_in = {id(layer.output): number for number, stage in enumerate(stages) for layer in stage}
    for number, stage in enumerate(stages):
        for layer in stage:
            inputs = layer.input if isinstance(layer.input, list) else []
            sources = [made_in[id(tensor)] for tensor in inputs]
            yield from ((source, number) for source in sources if source != number)


def _box(ax, x, y, stage, most_maps, colour):
    """Draw a stage: higher for larger pictures, wider for more maps (at most `most_maps`)."""
    _, rows, columns, filters = _maps(stage).shape
    weights = sum(layer.count_params() for layer in stage)
    high, wide = 0.74 + 0.07 * y, 0.6 + 0.24 * np.log2(filters) / np.log2(most_maps)
    style = {"boxstyle": "round,pad=0", "facecolor": "white", "edgecolor": colour, "zorder": 1}
    box = FancyBboxPatch((x - wide / 2, y - high / 2), wide, high, **style)
    ax.add_patch(box)
    text = f"{rows} x {columns}\n{filters} maps\n{weights:,}"
    ax.text(x, y, text, ha="center", va="center", fontsize=8)
    return box


def _tiles(maps, count):
    """Return the `count` maps of (H, W, maps) that vary most, scaled to 0..1, in one square."""
    order = np.argsort(-maps.std(axis=(0, 1)), kind="stable")
    chosen = np.moveaxis(maps[..., order[:count]], -1, 0)
    low, high = (end(chosen, axis=(1, 2), keepdims=True) for end in (np.min, np.max))
    across = math.ceil(len(chosen) ** 0.5)
    scaled = np.zeros((across**2, *chosen.shape[1:]))
    scaled[: len(chosen)] = (chosen - low) / np.maximum(high - low, 1e-6)
    return np.block([list(scaled[row * across : (row + 1) * across]) for row in range(across)])


def _arrow(ax, start, end, colour, style="-"):
    """Draw an arrow from the edge of one box to the edge of another."""
    (from_x, from_y), (to_x, to_y) = (
        (box.get_x() + box.get_width() / 2, box.get_y() + box.get_height() / 2)
        for box in (start, end)
    )
    shape = {"arrowstyle": "->", "color": colour, "linestyle": style, "linewidth": 1.5}
    shape |= {"patchA": start, "patchB": end, "shrinkA": 2, "shrinkB": 2}
    ax.annotate("", (to_x, to_y), (from_x, from_y), arrowprops=shape)


def matrices(named: dict[str, np.ndarray], columns: int = 4) -> Figure:
    """Show matrices as grids of their numbers, with cells of the same size.

    Parameters
    ----------
    named : {title: (H, W) array}
    columns : int, matrices in a row
    """
    rows = math.ceil(len(named) / columns)
    longest = max(max(np.shape(matrix)) for matrix in named.values())
    figure = Figure(figsize=(columns * 2.4, rows * 2.7), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, (title, matrix) in zip(axes.flat, named.items(), strict=False):
        size, (height, width) = np.abs(matrix), np.shape(matrix)
        ax.pcolormesh(size, cmap="Blues", vmin=0, vmax=2.2 * size.max(), edgecolors="0.6")
        for (row, column), value in np.ndenumerate(matrix):
            ax.text(column + 0.5, row + 0.5, f"{value:g}", ha="center", va="center", fontsize=9)
        x_margin, y_margin = (longest - width) / 2, (longest - height) / 2
        ax.set(xlim=(-x_margin, width + x_margin), ylim=(height + y_margin, -y_margin))
        ax.set_aspect("equal")
        ax.set_title(title, fontsize=9)
    return figure
