import numpy as np

from covseg_lib import charts, drawings, figures, guesses, planes
from covseg_lib.objectives import OBJECTIVES
from covseg_lib.unet import build_unet


def test_the_drawn_unet_has_the_models_own_shapes():
    model = build_unet(size=16, base_filters=4, depth=2)
    ax = drawings.unet(model).axes[0]
    boxes = [text.get_text().split("\n") for text in ax.texts if "maps" in text.get_text()]
    assert [box[:2] for box in boxes] == [
        ["16 x 16", "4 maps"],
        ["8 x 8", "8 maps"],
        ["4 x 4", "16 maps"],
        ["8 x 8", "8 maps"],
        ["16 x 16", "4 maps"],
    ]
    assert sum(int(box[2].replace(",", "")) for box in boxes) == model.count_params()
    assert list(drawings._skips(drawings._stages(model))) == [(1, 3), (0, 4)]


def test_feature_maps_are_those_that_vary_most():
    maps = np.zeros((2, 2, 3))
    maps[0, 0] = 1, 5, 3
    tiles = drawings._tiles(maps, 1)
    assert tiles.tolist() == [[1, 0], [0, 0]]
    assert drawings._tiles(maps * (1, 0, 1), 4).shape == (4, 4)


def test_feature_maps_show_every_stage_and_the_probability():
    model = build_unet(size=16, base_filters=4, depth=2)
    image = np.random.default_rng(0).normal(size=(16, 16, 1)).astype("float32")
    figure = drawings.feature_maps(model, image)
    assert len(figure.axes) == 5 + 2
    found = next(ax for ax in figure.axes if ax.get_title() == "probability of a lesion").images[0].get_array()
    assert np.allclose(found, model(image[None])[0, ..., 0], atol=1e-6)


def test_the_losses_of_the_objective_are_thick():
    figure = charts.losses(guesses.toy_losses(size=16, radius=3, steps=3), OBJECTIVES["dice"])
    thick = [line.get_label() for line in figure.axes[0].lines if line.get_linewidth() > 2]
    assert thick == ["soft Dice loss", "1 - Dice"]


def test_guesses_bear_their_scores():
    truth = np.zeros((8, 8), bool)
    truth[2:4, 2:4] = True
    figure = figures.guesses(np.ones((8, 8)), truth, [truth, np.zeros_like(truth)])
    assert [ax.get_title() for ax in figure.axes] == [
        "Dice 1.00\nIoU 1.00, accuracy 1.00",
        "Dice 0.00\nIoU 0.00, accuracy 0.94",
    ]


def test_planes_are_cut_from_the_volume_upright():
    volume = np.random.default_rng(0).integers(0, 255, (6, 20, 16)).astype(np.uint8)
    stored = np.transpose(volume, (2, 1, 0))
    axes = planes.upright(stored, volume, (5.0, 1.0, 1.0)).axes
    shown = [ax.images[0].get_array() for ax in axes]
    assert (shown[0] == stored[:, :, 3]).all()
    assert (shown[1] == volume[3]).all()
    assert (shown[2] == volume[::-1, 10]).all()
    assert axes[2].lines[0].get_ydata()[0] == 2  # slice 3 of 6, with the head on top


def test_a_volume_in_hu_is_shown_through_windows_and_grey_levels_once():
    volume = np.linspace(-1000, 1499, 3 * 20 * 16).astype(np.int16).reshape(3, 20, 16)
    titles = [ax.get_title() for ax in planes.windows(volume, (-1250, 250)).axes[1:]]
    assert titles == ["all:\n-1000 to 1499", "lungs:\n-1250 to 250", "soft tissue:\n-160 to 240"]
    assert len(planes.windows(volume.clip(0, 255), (-1250, 250)).axes) == 2
