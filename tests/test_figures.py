import numpy as np
import pandas as pd
from matplotlib import image as png

from covseg_lib import figures, storage

RNG = np.random.default_rng(0)
IMAGES, MASKS = RNG.random((3, 16, 16)), RNG.random((3, 16, 16)) > 0.7


def _drawn(figure, tmp_path):
    storage.write_figure(tmp_path / "figure.png", figure)
    return png.imread(tmp_path / "figure.png").std() > 0.02


def test_overlays_show_prediction_left_and_truth_right(tmp_path):
    figure = figures.overlays(IMAGES, MASKS, ~MASKS, ["a", "b", "c"])
    assert [ax.get_title() for ax in figure.axes[:2]] == ["a: predicted", "a: true"]
    left, right = (ax.images[1].get_array()[..., 3] > 0 for ax in figure.axes[:2])
    assert (left == MASKS[0]).all()
    assert (right == ~MASKS[0]).all()
    assert _drawn(figure, tmp_path)


def test_curves_mark_the_kept_epoch(tmp_path):
    columns = ("dice", "loss", "val_dice", "val_loss")
    history = pd.DataFrame({"epoch": [1, 2, 3], **{name: [0.1, 0.2, 0.3] for name in columns}})
    figure = figures.training_curves(history, "dice", "Dice")
    assert [ax.get_ylabel() for ax in figure.axes] == ["Dice", "loss"]
    assert "kept: epoch 3" in [line.get_label() for line in figure.axes[0].lines]
    assert _drawn(figure, tmp_path)


def test_the_others_draw(tmp_path):
    table = pd.DataFrame({"patient": list("aab"), "split": ["train", "test", "validation"]})
    scores = pd.DataFrame({"iou": [0.5, 0], "dice": [0.6, 0]}, index=["dice", "(empty mask)"])
    for figure in (
        figures.gallery(IMAGES, np.zeros_like(MASKS), ["a", "b", "c"]),
        figures.resizing(IMAGES[0], MASKS[0], IMAGES[0, ::2, ::2], MASKS[0, ::2, ::2]),
        figures.histograms(IMAGES, IMAGES - 0.5),
        figures.split_bars(table),
        figures.score_bars(scores),
    ):
        assert _drawn(figure, tmp_path)
