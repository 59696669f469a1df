import numpy as np
import pandas as pd
from matplotlib import image as png
from PIL import Image

from covseg_lib import charts, figures, scores, storage

RNG = np.random.default_rng(0)
IMAGES, MASKS = RNG.random((3, 16, 16)), RNG.random((3, 16, 16)) > 0.7


def _drawn(figure, tmp_path):
    storage.write_figure(tmp_path / "figure.png", figure)
    return png.imread(tmp_path / "figure.png").std() > 0.02


def test_overlays_show_prediction_left_and_truth_right(tmp_path):
    figure = figures.overlays(IMAGES, MASKS, ~MASKS, ["a", "b", "c"])
    assert [ax.get_title() for ax in figure.axes[:2]] == ["a\npredicted", "a\ntrue"]
    left, right = (ax.images[1].get_array()[..., 3] > 0 for ax in figure.axes[:2])
    assert (left == MASKS[0]).all()
    assert (right == ~MASKS[0]).all()
    assert _drawn(figure, tmp_path)


def test_curves_mark_the_kept_epoch(tmp_path):
    columns = ("dice", "loss", "val_dice", "val_loss")
    history = pd.DataFrame({"epoch": [1, 2, 3], **{name: [0.1, 0.2, 0.3] for name in columns}})
    figure = charts.training_curves(history, "dice", "Dice")
    assert [ax.get_ylabel() for ax in figure.axes] == ["Dice", "loss"]
    assert "kept: epoch 3" in [line.get_label() for line in figure.axes[0].lines]
    assert _drawn(figure, tmp_path)


def test_errors_are_told_apart():
    found, truth = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]])
    layer = figures.errors(found[None], found[None], truth[None], ["a"]).axes[0].images[1].get_array()[0]
    assert len({tuple(pixel) for pixel in layer}) == 4
    assert layer[3, 3] == 0


def test_methods_stand_side_by_side_with_their_dice():
    figure = figures.methods(IMAGES[0], MASKS[0], {"right": MASKS[0], "wrong": ~MASKS[0]})
    assert [ax.get_title() for ax in figure.axes] == ["right\nDice 1.00", "wrong\nDice 0.00"]


def test_a_scroll_is_a_png_of_all_slices(tmp_path):
    (tmp_path / "scroll.png").write_bytes(figures.scroll(IMAGES, MASKS, ~MASKS, ["a", "b", "c"]))
    with Image.open(tmp_path / "scroll.png") as animation:
        assert (animation.format, animation.n_frames) == ("PNG", 3)


def test_the_others_draw(tmp_path):
    table = pd.DataFrame({"patient": list("aab")})
    keys = pd.MultiIndex.from_tuples([("slice", "dice"), ("slice", "(empty mask)")], names=["split", "model"])
    marks = pd.DataFrame({name: [0.5, 0] for name in scores.SCORES}, index=keys)
    sure = marks.assign(low=[0.4, np.nan], high=[0.6, np.nan], patients=3)
    near = pd.DataFrame({"split": ["slice", "slice", "patient"], "mm": [1, 6, np.inf], "dice": [0.9, 0.8, 0.3]})
    methods = pd.DataFrame({"whole slice": [0.2, 0.4], "in the lung field": [0, 1]}, index=["a", "b"])
    for figure, what, count in (  # count: what is drawn in all panels together, axes and their labels aside
        (figures.gallery(IMAGES, np.zeros_like(MASKS), ["a", "b", "c"]), "images", 3),
        (figures.resizing(IMAGES[0], MASKS[0], IMAGES[0, ::2, ::2], MASKS[0, ::2, ::2]), "images", 2),
        (figures.errors(IMAGES, MASKS, ~MASKS, ["a", "b", "c"]), "images", 6),
        (charts.histograms(IMAGES, IMAGES - 0.5), "patches", 2 * (60 + 1)),
        (charts.split_bars(table, {"slice": np.array(["train", "test", "validation"])}), "patches", 3 * 2),
        (charts.score_bars(marks), "patches", 2 * len(scores.SCORES)),
        (charts.method_bars(methods), "patches", 4),
        (charts.interval_bars(sure), "lines", 2 * 2),
        (charts.thresholds(pd.DataFrame({("slice", "dice"): [0.5, 0.7, 0.6]}, index=[0.3, 0.5, 0.7])), "lines", 2),
        (charts.leak(near), "lines", 2 * 2),
        (charts.leak(near[:0]), "lines", 0),
    ):
        assert sum(len(getattr(ax, what)) for ax in figure.axes) == count
        assert _drawn(figure, tmp_path)


def test_runs_are_drawn_to_scale_with_a_band_where_a_setting_has_several():
    table = pd.DataFrame({"objective": "dice", "validation": [0.5, 0.7, 0.8], "total_s": [60, 60, 120]})
    left, right = charts.runs(table.assign(epochs=[3, 3, 18]), "epochs", "dice").axes
    assert (left.get_xscale(), list(left.get_xticks())) == ("linear", [3, 18])
    assert left.collections[0].get_paths()[0].get_extents().width == 0  # no two neighbours with several runs
    assert left.lines[0].get_data()[1].tolist() == [0.6, 0.8]
    assert right.lines[0].get_data()[0].tolist() == [1, 1, 2]
    twice = pd.concat([table.assign(learning_rate=rate) for rate in (1e-4, 1e-2)])
    left, _ = charts.runs(twice, "learning_rate", "dice").axes
    assert left.get_xscale() == "log"
    assert left.collections[0].get_paths()[0].get_extents().width > 0
    left, _ = charts.runs(table.assign(precision=["auto", "float32", "auto"]), "precision", "dice").axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["auto", "float32"]
