import numpy as np

from covseg_lib.plots import network_plots
from covseg_lib.training.unet import build_unet


def test_the_drawn_unet_has_the_models_own_shapes():
    model = build_unet(size=16, base_filters=4, depth=2)
    ax = network_plots.architecture(model).axes[0]
    boxes = [text.get_text().split("\n") for text in ax.texts if "maps" in text.get_text()]
    assert [box[:2] for box in boxes] == [
        ["16 x 16", "4 maps"],
        ["8 x 8", "8 maps"],
        ["4 x 4", "16 maps"],
        ["8 x 8", "8 maps"],
        ["16 x 16", "4 maps"],
    ]
    assert sum(int(box[2].replace(",", "")) for box in boxes) == model.count_params()
    assert list(network_plots._skips(network_plots._stages(model))) == [(1, 3), (0, 4)]


def test_feature_maps_are_those_that_vary_most():
    maps = np.zeros((2, 2, 3))
    maps[0, 0] = 1, 5, 3
    tiles = network_plots._tiles(maps, 1)
    assert tiles.tolist() == [[1, 0], [0, 0]]
    assert network_plots._tiles(maps * (1, 0, 1), 4).shape == (4, 4)


def test_feature_maps_show_every_stage_and_the_probability():
    model = build_unet(size=16, base_filters=4, depth=2)
    image = np.random.default_rng(0).normal(size=(16, 16, 1)).astype("float32")
    figure = network_plots.feature_maps(model, image)
    assert len(figure.axes) == 5 + 2
    axes = {ax.get_title(): ax for ax in figure.axes}
    shown = axes["probability of a lesion"].images[0].get_array()
    assert np.allclose(shown, model(image[None])[0, ..., 0], atol=1e-6)


def test_a_network_with_few_maps_is_drawn():
    model = build_unet(size=8, base_filters=1, depth=1)
    figure = network_plots.feature_maps(model, np.zeros((8, 8, 1), "float32"))
    assert [ax.get_title() for ax in figure.axes].count("8 x 8: 1 of 1 maps") == 2
    assert network_plots.architecture(model).axes


def test_matrices_show_every_number_once():
    figure = network_plots.matrices(
        {"input": np.arange(6).reshape(2, 3), "kernel": [[-1.5]]}, columns=2
    )
    assert [text.get_text() for text in figure.axes[0].texts] == list("012345")
    assert [text.get_text() for text in figure.axes[1].texts] == ["-1.5"]
    assert [ax.get_title() for ax in figure.axes] == ["input", "kernel"]
