import numpy as np
import pytest
from matplotlib import image as png

from covseg_lib import files
from covseg_lib.plots import network_plots


def test_matrices_show_every_number_once():
    figure = network_plots.matrices(
        {"input": np.arange(6).reshape(2, 3), "kernel": [[-1.5]]}, columns=2
    )
    assert [text.get_text() for text in figure.axes[0].texts] == list("012345")
    assert [text.get_text() for text in figure.axes[1].texts] == ["-1.5"]
    assert [ax.get_title() for ax in figure.axes] == ["input", "kernel"]


def test_activations_are_those_of_keras(tmp_path):
    figure = network_plots.activations("sigmoid", "tanh", "relu", "leaky_relu", low=-2, high=2)
    curves = {ax.get_title(): ax.lines[-1].get_data() for ax in figure.axes}
    at = {name: dict(zip(x.round(2).tolist(), y, strict=True)) for name, (x, y) in curves.items()}
    assert [float(at[name][0.0]) for name in at] == [0.5, 0, 0, 0]
    assert float(at["relu"][-2.0]) == 0
    assert float(at["leaky_relu"][-2.0]) == pytest.approx(-0.4)
    assert float(at["tanh"][1.0]) == pytest.approx(2 * float(at["sigmoid"][2.0]) - 1)
    assert len(network_plots.activations("relu").axes) == 1
    files.write_figure(tmp_path / "figure.png", figure)
    assert png.imread(tmp_path / "figure.png").std() > 0.02
