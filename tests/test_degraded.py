"""Degraded masks, and how losses and metrics score them."""

import numpy as np
import pytest

from covseg_lib.evaluation import metrics
from covseg_lib.lessons import degraded
from covseg_lib.plots import charts, slice_plots
from covseg_lib.training.objectives import OBJECTIVES

SQUARE = np.zeros((64, 64), np.uint8)
SQUARE[20:40, 20:40] = 1


@pytest.mark.parametrize("wanted", [0.9, 0.7, 0.5])
def test_a_mask_is_degraded_to_the_dice_wanted(wanted):
    found = degraded.degrade_to_dice(SQUARE, wanted)
    assert found.shape == SQUARE.shape
    assert metrics.dice(SQUARE, found) == pytest.approx(wanted, abs=0.03)


def test_losses_change_gradually_and_metrics_in_steps():
    table = degraded.loss_examples(size=32, radius=5, steps=9)
    uncertain = table.loc["the network becomes uncertain"]
    for name in uncertain:
        assert uncertain[name].is_monotonic_increasing
        assert uncertain[name].nunique() == (2 if name.startswith("1 - ") else 9), name


def test_a_missed_lesion_costs_the_whole_dice_but_little_accuracy():
    table = degraded.loss_examples(size=32, radius=5, steps=3)
    share = degraded._disc(32, 5).mean()
    missed = table.loc[("the prediction shrinks", 1.0)]
    assert missed["1 - Dice"] == missed["1 - IoU"] == pytest.approx(1)
    assert missed["soft Dice loss"] > 0.98
    assert missed["1 - Accuracy"] == pytest.approx(share, abs=1e-6)
    assert missed["binary cross-entropy"] == pytest.approx(
        -share * np.log(0.001) - (1 - share) * np.log(0.999), rel=1e-3
    )


def test_the_losses_of_the_objective_are_thick():
    figure = charts.loss_curves(
        degraded.loss_examples(size=16, radius=3, steps=3), OBJECTIVES["dice"]
    )
    thick = [line.get_label() for line in figure.axes[0].lines if line.get_linewidth() > 2]
    assert thick == ["soft Dice loss", "1 - Dice"]


def test_degraded_masks_are_titled_with_their_scores():
    truth = np.zeros((8, 8), bool)
    truth[2:4, 2:4] = True
    figure = slice_plots.degraded_masks(np.ones((8, 8)), truth, [truth, np.zeros_like(truth)])
    assert [ax.get_title() for ax in figure.axes] == [
        "Dice 1.00\nIoU 1.00, accuracy 1.00",
        "Dice 0.00\nIoU 0.00, accuracy 0.94",
    ]
