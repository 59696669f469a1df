"""Small matrices and curves, drawn: what a network is built of. Functions return the Figure and never show it."""

import keras
import numpy as np
from matplotlib.figure import Figure

from covseg_lib.charts import COLOURS


def matrices(named, columns=4):
    """Show matrices (H, W), {title: matrix}, as grids of their numbers, `columns` a row, one size for all squares."""
    rows = -(-len(named) // columns)
    squares = max(max(np.shape(matrix)) for matrix in named.values())
    figure = Figure(figsize=(columns * 2.4, rows * 2.7), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, (title, matrix) in zip(axes.flat, named.items(), strict=False):
        height, width = np.shape(matrix)
        ax.pcolormesh(np.abs(matrix), cmap="Blues", vmin=0, vmax=2.2 * np.abs(matrix).max(), edgecolors="0.6")
        for (row, column), value in np.ndenumerate(matrix):
            ax.text(column + 0.5, row + 0.5, f"{value:g}", ha="center", va="center", fontsize=9)
        spare = (squares - width) / 2, (squares - height) / 2
        ax.set(xlim=(-spare[0], width + spare[0]), ylim=(height + spare[1], -spare[1]), aspect="equal")
        ax.set_title(title, fontsize=9)
    return figure


def activations(*names, low=-4, high=4):
    """Show activation functions by the names that `keras.activations` has for them, a panel each."""
    x = np.linspace(low, high, 401, dtype="float32")
    figure = Figure(figsize=(2.5 * len(names), 2.5), layout="constrained")
    for ax, name, colour in zip(figure.subplots(1, len(names), squeeze=False)[0], names, COLOURS, strict=False):
        ax.axhline(0, color="0.8", linewidth=0.8)
        ax.axvline(0, color="0.8", linewidth=0.8)
        ax.plot(x, keras.ops.convert_to_numpy(keras.activations.get(name)(x)), color=colour, linewidth=2)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel("x")
    return figure


def losses(table, objective):
    """Show what losses and scores say of a worse and worse guess; thick what one of `OBJECTIVES` learns and is kept by.

    `table` is as `guesses.toy_losses` returns it.
    """
    ways = list(dict.fromkeys(table.index.get_level_values("way")))
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    panels = figure.subplots(1, len(ways), sharey=True, squeeze=False)[0]
    for ax, way in zip(panels, ways, strict=True):
        for name, colour in zip(table, COLOURS, strict=False):
            own = name in (objective.loss_title, f"1 - {objective.title}")
            style = {"linewidth": 3 if own else 1, "linestyle": "--" if name.startswith("1") else "-"}
            ax.plot(table.loc[way].index, table.loc[way, name], color=colour, label=name, **style)
        ax.set(xlabel="how far it is wrong", title=way, ylim=(-0.03, 1.03))
    panels[0].set_ylabel("loss: 0 is perfect")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure
