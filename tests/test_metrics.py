import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from covseg_lib.evaluation import metrics

TRUE, HALF, NONE = np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]), np.zeros(4)


@pytest.mark.parametrize(
    ("true", "pred", "expected"),
    [
        pytest.param(TRUE, TRUE, (1, 1, 1, 1, 1, 1, 1), id="perfect"),
        pytest.param(TRUE, 1 - TRUE, (0, 0, 0, 0, 0, 0, 0), id="disjoint"),
        pytest.param(
            TRUE, HALF, (3 / 4, 1 / 2, (1 / 2 + 2 / 3) / 2, 2 / 3, 1, 1 / 2, 1), id="half"
        ),
        pytest.param(TRUE, NONE, (1 / 2, 0, 1 / 4, 0, 0, 0, 1), id="nothing found"),
        pytest.param(NONE, HALF, (3 / 4, 0, 3 / 8, 0, 0, 0, 3 / 4), id="false alarm"),
        pytest.param(1 - NONE, 1 - NONE, (1, 1, 1, 1, 1, 1, 1), id="both full"),
        pytest.param(NONE, 1 - NONE, (0, 0, 0, 0, 0, 0, 0), id="empty against full"),
        pytest.param(NONE, NONE, (1, 1, 1, 1, 1, 1, 1), id="both empty"),
    ],
)
def test_worked_by_hand(true, pred, expected):
    names = ("accuracy", "iou", "mean_iou", "dice", "precision", "recall", "specificity")
    assert tuple(metrics.METRICS) == names
    assert {name: of(true, pred) for name, of in metrics.METRICS.items()} == pytest.approx(
        dict(zip(names, expected, strict=True))
    )


def test_scores_are_those_of_scikit_learn():
    reference = {
        "accuracy": sklearn_metrics.accuracy_score,
        "iou": sklearn_metrics.jaccard_score,
        "mean_iou": lambda true, pred: sklearn_metrics.jaccard_score(true, pred, average="macro"),
        "dice": sklearn_metrics.f1_score,
        "precision": sklearn_metrics.precision_score,
        "recall": sklearn_metrics.recall_score,
        "specificity": lambda true, pred: sklearn_metrics.recall_score(true, pred, pos_label=0),
    }
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.98):
        true, pred = rng.random((2, 500)) < share
        for name, of in reference.items():
            assert metrics.METRICS[name](true, pred) == pytest.approx(of(true, pred)), name


def test_iou_is_never_above_dice_and_follows_from_it():
    rng = np.random.default_rng(0)
    for _ in range(50):
        true, pred = rng.random((2, 30)) < rng.random((2, 1))
        dice = metrics.dice(true, pred)
        assert metrics.iou(true, pred) <= dice
        assert metrics.iou(true, pred) == pytest.approx(dice / (2 - dice))


def test_masks_of_two_shapes_are_an_error():
    with pytest.raises(ValueError, match="expected one shape"):
        metrics.dice(np.zeros(3), np.zeros(4))


def test_scores_of_many_counts_are_those_of_each():
    true, pred = np.random.default_rng(0).random((2, 6, 8, 8)) < 0.3
    pred[0], true[1], true[2], pred[2] = False, False, False, False
    counted = metrics.counts_by_slice(true, pred)
    for name, of in metrics.METRICS.items():
        assert metrics.score_from_counts(name, *counted.T) == pytest.approx(
            [of(a, b) for a, b in zip(true, pred, strict=True)]
        )


def test_one_voxel():
    true, pred = np.zeros((2, 5, 5))
    true[2, 2] = 1
    assert (metrics.dice(true, pred), metrics.iou(true, pred), metrics.accuracy(true, pred)) == (
        0,
        0,
        24 / 25,
    )
    pred[2, 2] = 1
    assert (metrics.dice(true, pred), metrics.iou(true, pred), metrics.accuracy(true, pred)) == (
        1,
        1,
        1,
    )
    pred[2, 3] = 1
    assert (metrics.dice(true, pred), metrics.iou(true, pred), metrics.precision(true, pred)) == (
        2 / 3,
        1 / 2,
        1 / 2,
    )
