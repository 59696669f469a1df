import numpy as np
import pytest

from covseg_lib import prediction, scores, training

TRUE, HALF, NONE = np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]), np.zeros(4)


@pytest.mark.parametrize(
    ("true", "pred", "accuracy", "iou", "mean_iou", "dice"),
    [
        pytest.param(TRUE, TRUE, 1, 1, 1, 1, id="perfect"),
        pytest.param(TRUE, 1 - TRUE, 0, 0, 0, 0, id="disjoint"),
        pytest.param(TRUE, HALF, 3 / 4, 1 / 2, (1 / 2 + 2 / 3) / 2, 2 / 3, id="half"),
        pytest.param(TRUE, NONE, 1 / 2, 0, 1 / 4, 0, id="nothing found"),
        pytest.param(NONE, HALF, 3 / 4, 0, 3 / 8, 0, id="false alarm"),
        pytest.param(NONE, NONE, 1, 1, 1, 1, id="both empty"),
    ],
)
def test_worked_by_hand(true, pred, accuracy, iou, mean_iou, dice):
    assert scores.accuracy(true, pred) == pytest.approx(accuracy)
    assert scores.iou(true, pred) == pytest.approx(iou)
    assert scores.mean_iou(true, pred) == pytest.approx(mean_iou)
    assert scores.dice(true, pred) == pytest.approx(dice)


def test_iou_is_never_above_dice_and_follows_from_it():
    rng = np.random.default_rng(0)
    for _ in range(50):
        true, pred = rng.random((2, 30)) < rng.random((2, 1))
        dice = scores.dice(true, pred)
        assert scores.iou(true, pred) <= dice
        assert scores.iou(true, pred) == pytest.approx(dice / (2 - dice))


def test_masks_of_two_shapes_are_an_error():
    with pytest.raises(ValueError, match="expected one shape"):
        scores.dice(np.zeros(3), np.zeros(4))


def test_the_best_band_finds_what_a_band_can_find():
    images = np.array([0.0, 1, 2, 3, 4, 5])
    low, high = scores.best_band(images, np.array([0, 0, 1, 1, 0, 0]))
    assert ((images >= low) & (images <= high)).tolist() == [False, False, True, True, False, False]


def test_the_reports_iou_fits_the_mean_over_both_classes():
    dice = scores.REPORT["dice"]["test"]
    lesion = dice / (2 - dice)
    assert lesion == pytest.approx(0.755, abs=1e-3)
    assert (lesion + 0.995) / 2 == pytest.approx(scores.REPORT["iou"]["test"], abs=2e-3)


def test_the_tables_hold_runs_baselines_and_the_report(tiny_study, tiny_recipe):
    run = training.train(tiny_recipe, tiny_study)
    assert len(scores.table(tiny_study)) == 2
    prediction.predict_study(run, tiny_study)
    table = scores.table(tiny_study)
    assert list(table.index) == ["dice", "(grey band)", "(empty mask)"]
    assert list(table.columns) == ["accuracy", "iou", "mean_iou", "dice"]
    assert table.loc["(empty mask)", "dice"] == 0
    row = scores.table_2_1(tiny_study).loc["dice"]
    assert row["test"] == table.loc["dice", "dice"]
    assert (row["epochs"], row["report_epochs"], row["report_test"]) == (2, 250, 0.8603)
