import base64
import io
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib import image as png
from PIL import Image

from covseg_lib import files
from covseg_lib.evaluation import metrics
from covseg_lib.plots import charts, run_plots, slice_plots

RNG = np.random.default_rng(0)
IMAGES, MASKS = RNG.random((3, 16, 16)), RNG.random((3, 16, 16)) > 0.7


def _drawn(figure, tmp_path):
    files.write_figure(tmp_path / "figure.png", figure)
    return png.imread(tmp_path / "figure.png").std() > 0.02


def test_overlays_show_prediction_left_and_truth_right(tmp_path):
    figure = slice_plots.overlays(IMAGES, MASKS, ~MASKS, ["a", "b", "c"])
    assert [ax.get_title() for ax in figure.axes[:2]] == ["a\nDice 0.00", "a\ntrue"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["predicted", "true"]
    left, right = (ax.images[1].get_array()[..., 3] > 0 for ax in figure.axes[:2])
    assert (left == MASKS[0]).all()
    assert (right == ~MASKS[0]).all()
    assert _drawn(figure, tmp_path)


def test_curves_mark_the_best_epoch(tmp_path):
    columns = ("dice", "loss", "val_dice", "val_loss")
    history = pd.DataFrame({"epoch": [1, 2, 3], **{name: [0.1, 0.2, 0.3] for name in columns}})
    figure = run_plots.training_curves(history, "dice")
    assert [ax.get_ylabel() for ax in figure.axes] == ["Dice", "loss"]
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == ["training", "validation", "best: epoch 3"]
    assert _drawn(figure, tmp_path)


def test_errors_have_different_colours():
    found, truth = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]])
    figure = slice_plots.error_maps([found], [found], [truth], ["a"])
    layer = figure.axes[0].images[1].get_array()[0]
    assert len({tuple(pixel) for pixel in layer}) == 4
    assert layer[3, 3] == 0
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["true positive", "false positive", "false negative"]


def test_methods_are_titled_with_their_dice():
    figure = slice_plots.method_masks(IMAGES[0], MASKS[0], {"right": MASKS[0], "wrong": ~MASKS[0]})
    assert [ax.get_title() for ax in figure.axes] == ["right\nDice 1.00", "wrong\nDice 0.00"]


def test_a_slider_begins_with_the_slice_that_has_most_lesion_and_holds_all():
    masks = np.zeros_like(MASKS)
    masks[2, :3] = masks[1, :2] = 1
    for true in (None, masks):
        page = slice_plots.slider(IMAGES, masks, true, ["a", "b", "c"])
        frames = re.search('data-frames="([^"]+)"', page).group(1).split(" ")
        assert len(set(frames)) == 3
        assert re.search('src="([^"]+)"', page).group(1) == frames[2]
        assert 'max="2" value="2"' in page
        kind, _, picture = frames[0].partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(picture))) as opened:
            assert opened.size == (288, 324)


TITLES, SLICES = ["a", "b", "c"], pd.DataFrame({"patient": list("aab")})
SUBSETS = {"slice": np.array(["train", "test", "validation"])}
KEYS = pd.MultiIndex.from_tuples([("slice", "dice"), ("slice", "(empty mask)")])
SCORES = pd.DataFrame(
    {name: [0.5, 0] for name in metrics.METRICS}, KEYS.set_names(["split", "model"])
)
INTERVALS = SCORES.assign(low=[0.4, np.nan], high=[0.6, np.nan], patients=3)
BY_THRESHOLD = pd.DataFrame({("slice", "dice"): [0.5, 0.7, 0.6]}, [0.3, 0.5, 0.7])
SPLITS, MM = ["slice", "slice", "patient"], [1, 6, np.inf]
BY_DISTANCE = pd.DataFrame({"split": SPLITS, "mm": MM, "dice": [0.9, 0.8, 0.3]})
SMALL = IMAGES[0, ::2, ::2], MASKS[0, ::2, ::2]


@pytest.mark.parametrize(
    ("draw", "what", "count"),  # count: in all panels together
    [
        (lambda: slice_plots.gallery(IMAGES, np.zeros_like(MASKS), TITLES), "images", 3),
        (lambda: slice_plots.before_and_after(IMAGES[0], MASKS[0], *SMALL), "images", 2),
        (lambda: slice_plots.error_maps(IMAGES, MASKS, ~MASKS, TITLES), "images", 6),
        (lambda: charts.histograms(IMAGES, IMAGES - 0.5), "patches", 2 * (60 + 1)),
        (lambda: charts.split_bars(SLICES, SUBSETS), "patches", 3 * 2),
        (lambda: charts.score_bars(SCORES), "patches", 2 * len(metrics.METRICS)),
        (lambda: charts.interval_bars(INTERVALS), "lines", 3),
        (lambda: charts.threshold_curves(BY_THRESHOLD), "lines", 2),
        (lambda: charts.dice_by_distance_chart(BY_DISTANCE), "lines", 2 * 2),
        (lambda: charts.dice_by_distance_chart(BY_DISTANCE[:0]), "lines", 0),
    ],
)
def test_figures_show_everything_once(draw, what, count, tmp_path):
    figure = draw()
    assert sum(len(getattr(ax, what)) for ax in figure.axes) == count
    assert _drawn(figure, tmp_path)


def test_a_mean_near_0_has_no_minus_sign():
    figure = charts.histograms(np.array([1, 3]), np.array([-1, 0.998]))
    means = [ax.lines[0].get_label() for ax in figure.axes]
    assert means == ["mean 2.00", "mean 0.00"]


def test_runs_are_drawn_to_scale_with_a_band_where_a_setting_has_several():
    table = pd.DataFrame(
        {"objective": "dice", "validation": [0.5, 0.7, 0.8], "total_s": [60, 60, 120]}
    )
    left, right = charts.sweep_chart(table.assign(epochs=[3, 3, 18]), "epochs", "dice").axes
    assert (left.get_xscale(), list(left.get_xticks())) == ("linear", [3, 18])
    # a band needs two neighbouring settings with several runs
    assert left.collections[0].get_paths()[0].get_extents().width == 0
    assert left.lines[0].get_data()[1].tolist() == [0.6, 0.8]
    assert right.lines[0].get_data()[0].tolist() == [1, 1, 2]
    twice = pd.concat([table.assign(learning_rate=rate) for rate in (1e-4, 1e-2)])
    left, _ = charts.sweep_chart(twice, "learning_rate", "dice").axes
    assert left.get_xscale() == "log"
    assert left.collections[0].get_paths()[0].get_extents().width > 0
    named = table.assign(precision=["auto", "float32", "auto"])
    left, _ = charts.sweep_chart(named, "precision", "dice").axes
    assert [label.get_text() for label in left.get_xticklabels()] == ["auto", "float32"]


def test_two_patients_get_no_interval_and_models_are_not_called_like_metrics():
    two = charts.interval_bars(INTERVALS.assign(patients=2, low=np.nan, high=np.nan)).axes[0]
    assert len(two.lines) == 2  # the scores alone
    names = [label.get_text() for label in two.get_yticklabels()]
    assert names[0] == "dice model, slice split, 2 patients"
    assert names[1] == "(empty mask), slice split, 2 patients"


def test_short_trainings_are_shown_in_seconds():
    table = pd.DataFrame({"objective": "dice", "validation": [0.5], "total_s": [21], "epochs": [3]})
    assert charts.sweep_chart(table, "epochs", "dice").axes[1].get_xlabel() == "seconds of training"
