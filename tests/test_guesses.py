import numpy as np
import pytest

from covseg_lib import drawings, figures, guesses, scores
from covseg_lib.objectives import OBJECTIVES

SQUARE = np.zeros((64, 64), np.uint8)
SQUARE[20:40, 20:40] = 1


@pytest.mark.parametrize("wanted", [0.9, 0.7, 0.5])
def test_a_mask_is_spoiled_to_the_dice_wanted(wanted):
    guess = guesses.of_dice(SQUARE, wanted)
    assert guess.shape == SQUARE.shape
    assert scores.dice(SQUARE, guess) == pytest.approx(wanted, abs=0.03)


def test_losses_have_slopes_where_scores_have_steps():
    unsure = guesses.toy_losses(size=32, radius=5, steps=9).loc["the network gets unsure"]
    for name in unsure:
        assert unsure[name].is_monotonic_increasing
        assert unsure[name].nunique() == (2 if name.startswith("1 - ") else 9), name


def test_a_lesion_missed_costs_all_by_overlap_and_its_share_by_accuracy():
    table = guesses.toy_losses(size=32, radius=5, steps=3)
    share = guesses._disc(32, 5).mean()
    missed = table.loc[("what is found shrinks", 1.0)]
    assert missed["1 - Dice"] == missed["1 - IoU"] == pytest.approx(1)
    assert missed["soft Dice loss"] > 0.98
    assert missed["1 - Accuracy"] == pytest.approx(share, abs=1e-6)
    assert missed["binary cross-entropy"] == pytest.approx(
        -share * np.log(0.001) - (1 - share) * np.log(0.999), rel=1e-3
    )


def test_the_losses_of_the_objective_are_thick():
    figure = drawings.losses(guesses.toy_losses(size=16, radius=3, steps=3), OBJECTIVES["dice"])
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
