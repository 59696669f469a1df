import numpy as np
import pytest
from sklearn import metrics

from covseg_lib import prediction, scores, training

TRUE, HALF, NONE = np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]), np.zeros(4)


@pytest.mark.parametrize(
    ("true", "pred", "expected"),
    [
        pytest.param(TRUE, TRUE, (1, 1, 1, 1, 1, 1, 1), id="perfect"),
        pytest.param(TRUE, 1 - TRUE, (0, 0, 0, 0, 0, 0, 0), id="disjoint"),
        pytest.param(TRUE, HALF, (3 / 4, 1 / 2, (1 / 2 + 2 / 3) / 2, 2 / 3, 1, 1 / 2, 1), id="half"),
        pytest.param(TRUE, NONE, (1 / 2, 0, 1 / 4, 0, 0, 0, 1), id="nothing found"),
        pytest.param(NONE, HALF, (3 / 4, 0, 3 / 8, 0, 0, 0, 3 / 4), id="false alarm"),
        pytest.param(1 - NONE, 1 - NONE, (1, 1, 1, 1, 1, 1, 1), id="both full"),
        pytest.param(NONE, 1 - NONE, (0, 0, 0, 0, 0, 0, 0), id="empty against full"),
        pytest.param(NONE, NONE, (1, 1, 1, 1, 1, 1, 1), id="both empty"),
    ],
)
def test_worked_by_hand(true, pred, expected):
    names = ("accuracy", "iou", "mean_iou", "dice", "precision", "recall", "specificity")
    assert tuple(scores.SCORES) == names
    assert {name: of(true, pred) for name, of in scores.SCORES.items()} == pytest.approx(
        dict(zip(names, expected, strict=True))
    )


def test_scores_are_those_of_scikit_learn():
    reference = {
        "accuracy": metrics.accuracy_score,
        "iou": metrics.jaccard_score,
        "mean_iou": lambda true, pred: metrics.jaccard_score(true, pred, average="macro"),
        "dice": metrics.f1_score,
        "precision": metrics.precision_score,
        "recall": metrics.recall_score,
        "specificity": lambda true, pred: metrics.recall_score(true, pred, pos_label=0),
    }
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.98):
        true, pred = rng.random((2, 500)) < share
        for name, of in reference.items():
            assert scores.SCORES[name](true, pred) == pytest.approx(of(true, pred)), name


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


def test_the_usual_place_is_cut_where_its_dice_is_highest():
    masks = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]]).reshape(3, 2, 2, 1)  # shares 1, 2/3, 1/3, 0
    assert scores.usual_place(masks).ravel().tolist() == [True, True, False, False]  # Dice 10/12; one 6/9, three 12/15
    assert not scores.usual_place(np.zeros_like(masks)).any()


def test_the_reports_iou_fits_the_mean_over_both_classes():
    dice = scores.REPORT["dice"]["test"]
    lesion = dice / (2 - dice)
    assert lesion == pytest.approx(0.755, abs=1e-3)
    assert (lesion + 0.995) / 2 == pytest.approx(scores.REPORT["iou"]["test"], abs=2e-3)


def test_the_tables_hold_runs_baselines_and_the_report(tiny_study, tiny_recipe):
    run = training.train(tiny_recipe, tiny_study)
    assert len(scores.table(tiny_study)) == 3
    prediction.predict_study(run, tiny_study)
    table = scores.table(tiny_study)
    assert list(table.index) == ["dice", "(grey band)", "(usual place)", "(empty mask)"]
    assert list(table.columns) == list(scores.SCORES)
    assert table.loc["(empty mask)", "dice"] == 0
    row = scores.table_2_1(tiny_study).loc["dice"]
    assert row["test"] == table.loc["dice", "dice"]
    assert (row["epochs"], row["report_epochs"], row["report_test"]) == (2, 250, 0.8603)
