import numpy as np
import pytest
from keras import ops

from covseg_lib.evaluation import metrics
from covseg_lib.training import objectives

TRUE = np.array([[1, 1], [0, 0]], "float32").reshape(1, 2, 2, 1)
HALF = np.array([[1, 0], [0, 0]], "float32").reshape(1, 2, 2, 1)
NONE = np.zeros((1, 2, 2, 1), "float32")


@pytest.mark.parametrize(
    ("true", "pred", "dice", "iou"),
    [
        pytest.param(TRUE, TRUE, 1, 1, id="perfect"),
        pytest.param(TRUE, 1 - TRUE, 0, 0, id="disjoint"),
        pytest.param(TRUE, HALF, 2 / 3, 1 / 2, id="half"),
        pytest.param(TRUE, NONE, 0, 0, id="nothing found"),
        pytest.param(NONE, HALF, 0, 0, id="false alarm"),
        pytest.param(NONE, NONE, 1, 1, id="both empty"),
        pytest.param(TRUE, TRUE * 0.5, 2 / 3, 1 / 2, id="half sure"),
    ],
)
def test_worked_by_hand(true, pred, dice, iou):
    assert float(objectives.dice(true, pred)) == pytest.approx(dice, abs=1e-6)
    assert float(objectives.iou(true, pred)) == pytest.approx(iou, abs=1e-6)
    assert float(objectives.soft_dice_loss(true, pred)) == pytest.approx(1 - dice, abs=1e-6)


def test_a_batch_is_pooled_not_averaged():
    true, pred = np.concatenate([TRUE, NONE]), np.concatenate([TRUE, HALF])
    assert float(objectives.dice(true, pred)) == pytest.approx(2 * 2 / (2 + 3))


@pytest.mark.parametrize("name", ["accuracy", "iou", "dice"])
def test_the_metric_over_batches_is_the_score_over_all(name):
    rng = np.random.default_rng(0)
    true, pred = rng.integers(0, 2, (7, 4, 4, 1)), rng.random((7, 4, 4, 1)).astype("float32")
    metric = objectives.OBJECTIVES[name].metric()
    for rows in (slice(0, 3), slice(3, 6), slice(6, 7)):
        metric.update_state(ops.convert_to_tensor(true[rows]), ops.convert_to_tensor(pred[rows]))
    assert float(metric.result()) == pytest.approx(
        metrics.METRICS[name](true, pred >= 0.5), abs=1e-5
    )
    metric.reset_state()
    metric.update_state(ops.convert_to_tensor(TRUE), ops.convert_to_tensor(TRUE))
    assert float(metric.result()) == pytest.approx(1)


def test_two_models_share_the_loss_and_one_does_not():
    accuracy, iou, dice = (objective.loss for objective in objectives.OBJECTIVES.values())
    assert accuracy == iou == "binary_crossentropy"
    assert float(dice(TRUE, HALF)) == pytest.approx(1 / 3)


def test_bce_and_soft_dice_are_added():
    true = np.array([1, 0, 0, 0], "float32").reshape(1, 2, 2, 1)
    pred = np.full((1, 2, 2, 1), 0.5, "float32")
    dice = 2 * 0.5 / (1 + 2)
    loss = ops.convert_to_numpy(objectives.bce_dice_loss(true, pred))
    assert float(loss) == pytest.approx(np.log(2) + 1 - dice, abs=1e-5)
