from dataclasses import replace

import numpy as np
import pytest

from covseg_lib import figures, slices, training, watching


def _history(*marked):
    return [
        {"epoch": n, "loss": 0.5, "val_loss": 0.5, "dice": 0.1, "val_dice": 0.1, "val_marked": share, "seconds": 60.0}
        for n, share in enumerate(marked, start=1)
    ]


def test_a_line_says_epoch_scores_and_time_left(tiny_recipe):
    (line,) = watching.lines(_history(0.1, 0.2), replace(tiny_recipe, epochs=5))
    assert line.startswith("epoch   2/5  loss 0.5000  dice 0.1000  val_loss 0.5000  val_dice 0.1000")
    assert line.endswith("60.0 s, 3.0 min left")


def test_the_first_epoch_which_builds_the_network_does_not_tell_how_long_the_others_take(tiny_recipe):
    history = _history(0.1, 0.2)
    history[0]["seconds"] = 300.0
    recipe = replace(tiny_recipe, epochs=5)
    assert watching.lines(history[:1], recipe)[0].endswith("300.0 s, less than 20.0 min left")
    assert watching.lines(history, recipe)[0].endswith("60.0 s, 3.0 min left")


@pytest.mark.parametrize(
    ("marked", "warned"),
    [
        ((0, 0), False),
        ((0, 0, 0), True),
        ((0, 0, 0, 0), False),  # said once
        ((0.1, 0, 0, 0), True),
        ((0, 0, 0, 0.1), False),
        ((0, 0, 0, 0.1, 0, 0, 0), True),
    ],
)
def test_a_collapse_is_said_once(tiny_recipe, marked, warned):
    lines = watching.lines(_history(*marked), tiny_recipe)
    assert len(lines) == 1 + warned
    if warned:
        assert "collapsed to the empty mask" in lines[1]
        assert "SEED (now 0)" in lines[1]


def test_a_model_that_collapses_is_noticed(tiny_study, tiny_recipe):
    lines = []
    training.train(replace(tiny_recipe, epochs=4, lesion_prior=1e-30, learning_rate=1e-9), tiny_study, lines.append)
    assert ["collapsed" in line for line in lines] == [False, False, False, True, False]


def test_a_loss_that_is_no_number_stops_and_keeps_what_was_good(tiny_study, tiny_recipe):
    recipe = replace(tiny_recipe, epochs=4)

    def poison(history, model):
        if len(history) == 2:
            model.set_weights([np.full_like(weights, np.nan) for weights in model.get_weights()])

    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 3.*LEARNING_RATE \(now 0.01\).*RESUME = False"):
        training.train(recipe, tiny_study, watchers=[poison])
    assert tiny_study.path("weights", run="dice").exists()
    lines = []
    training.train(recipe, tiny_study, lines.append)
    assert lines[0] == "going on with run dice after epoch 2 of 4"


def test_tensorboard_logs_hold_every_epoch(tiny_study, tiny_recipe):
    folder = tiny_study.path("tensorboard", run="dice")
    training.train(tiny_recipe, tiny_study, watchers=[watching.tensorboard_tensorflow(folder)])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    assert {"loss/train", "loss/validation", "dice/validation"} <= set(logs.Tags()["tensors"])
    assert [event.step for event in logs.Tensors("loss/train")] == [1, 2]


def test_a_training_is_redrawn_on_one_spot(tiny_study, tiny_recipe, monkeypatch):
    shown = []

    class Spot:
        def update(self, figure):
            shown.append(("updated", len(figure.axes)))

    def display(figure, display_id):
        shown.append(("displayed", len(figure.axes)))
        return Spot()

    monkeypatch.setattr("IPython.display.display", display)
    watch = figures.Redraw(2, "dice", "Dice", *slices.load(tiny_study, "validation"))
    training.train(replace(tiny_recipe, epochs=5), tiny_study, watchers=[watch])
    assert shown == [("displayed", 3), ("updated", 3)]
