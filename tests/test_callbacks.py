from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import after_epoch

from covseg_lib.data.slices import open_slices
from covseg_lib.evaluation import metrics
from covseg_lib.plots import run_plots
from covseg_lib.training import trainer


def _history(*rates):
    return [
        {
            "epoch": n,
            "loss": 0.5,
            "val_loss": 0.5,
            "dice": 0.1,
            "val_dice": 0.1,
            "positive_rate": rate,
            "val_positive_rate": rate,
            "seconds": 60.0,
        }
        for n, rate in enumerate(rates, start=1)
    ]


def test_a_line_has_epoch_scores_and_time_left():
    line = trainer.progress_line(_history(0.1, 0.2), "dice", 5)
    assert line.startswith(
        "epoch   2/5  loss 0.5000  dice 0.1000  val_loss 0.5000  val_dice 0.1000"
    )
    assert line.endswith("60.0 s, 3.0 min left")


def test_the_slow_first_epoch_does_not_count_for_the_time_left():
    history = _history(0.1, 0.2)
    history[0]["seconds"] = 300.0
    first = trainer.progress_line(history[:1], "dice", 5)
    assert first.endswith("300.0 s, less than 20.0 min left")
    assert trainer.progress_line(history, "dice", 5).endswith("60.0 s, 3.0 min left")


@pytest.mark.parametrize(
    ("rates", "warned"),
    [
        ((0, 0), False),
        ((0, 0, 0), True),
        ((0, 0, 0, 0), False),  # only once
        ((0.1, 0, 0, 0), True),
        ((0, 0, 0, 0.1), False),
        ((0, 0, 0, 0.1, 0, 0, 0), True),
    ],
)
def test_a_collapse_is_reported_once(rates, warned):
    assert trainer.has_just_collapsed(_history(*rates)) == warned


def test_nothing_found_in_validation_slices_alone_is_no_collapse():
    rows = [row | {"positive_rate": 0.01} for row in _history(0, 0, 0)]
    assert not trainer.has_just_collapsed(rows)


def test_a_model_that_collapses_is_noticed(tiny_study, tiny_recipe):
    lines = []
    trainer.train(
        replace(tiny_recipe, epochs=4, lesion_prior=1e-30, learning_rate=1e-9),
        open_slices(tiny_study),
        log=lines.append,
    )
    assert "SEED (now 0)" in lines[3]
    assert ["collapsed" in line for line in lines] == [False, False, False, True, False]


def test_a_nan_loss_stops_and_keeps_what_was_good(tiny_study, tiny_recipe):
    recipe = replace(tiny_recipe, epochs=4)

    def poison(epoch, model):
        if epoch == 2:
            model.set_weights([np.full_like(weights, np.nan) for weights in model.get_weights()])

    with pytest.raises(
        FloatingPointError,
        match=r"loss is nan in epoch 3.*LEARNING_RATE \(now 0.01\).*RESUME = False",
    ):
        trainer.train(recipe, open_slices(tiny_study), callbacks=[after_epoch(poison)])
    assert tiny_study.path("weights", run="dice").exists()
    lines = []
    trainer.train(recipe, open_slices(tiny_study), log=lines.append)
    assert lines[0] == "resuming run dice after epoch 2 of 4"


def test_a_callback_of_keras_works(tiny_study, tiny_recipe):
    folder = tiny_study.path("tensorboard", run="dice")
    trainer.train(
        tiny_recipe, open_slices(tiny_study), callbacks=[keras.callbacks.TensorBoard(folder)]
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = EventAccumulator(str(folder / "validation"), size_guidance={"tensors": 0}).Reload()
    assert {"epoch_loss", "epoch_dice"} <= set(logs.Tags()["tensors"])
    assert [event.step for event in logs.Tensors("epoch_loss")] == [0, 1]


@pytest.fixture
def displayed(monkeypatch):
    """What a notebook would display: (how, the epochs in the titles of the figure)."""
    shown = []

    def record(how, figure):
        titles = [ax.get_title().split() for ax in figure.axes]
        shown.append((how, [int(title[1]) for title in titles]))

    class Handle:
        def update(self, figure):
            record("updated", figure)

    def display(figure, display_id):
        assert display_id
        record("displayed", figure)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    return shown


def test_live_predictions_replace_each_other(tiny_study, tiny_recipe, displayed):
    live = run_plots.LivePredictions(open_slices(tiny_study), tiny_recipe, every=2)
    trainer.train(replace(tiny_recipe, epochs=5), open_slices(tiny_study), callbacks=[live])
    epochs = [1], [1, 2], [1, 2, 4]
    assert displayed == list(zip(["displayed", "updated", "updated"], epochs, strict=True))


def test_live_predictions_keep_the_first_and_the_last_three(tiny_study, tiny_recipe, displayed):
    live = run_plots.LivePredictions(open_slices(tiny_study), tiny_recipe, every=1)
    trainer.train(replace(tiny_recipe, epochs=6), open_slices(tiny_study), callbacks=[live])
    assert displayed[-1] == ("updated", [1, 4, 5, 6])


def test_live_predictions_show_the_dice_of_the_trained_model(tiny_study, tiny_recipe, monkeypatch):
    figures = []
    monkeypatch.setattr(
        "IPython.display.display", lambda figure, display_id: figures.append(figure)
    )
    live = run_plots.LivePredictions(open_slices(tiny_study), tiny_recipe, every=1)
    trainer.train(replace(tiny_recipe, epochs=1), open_slices(tiny_study), callbacks=[live])
    found = live.predicted["epoch 1"]
    title = figures[0].axes[0].get_title()
    assert title == f"epoch 1\nDice {metrics.dice(live.mask, found):.2f}"
    assert live.mask.sum() > 0


def test_live_predictions_every_0_epochs_are_never_drawn(tiny_study, tiny_recipe, displayed):
    live = run_plots.LivePredictions(open_slices(tiny_study), tiny_recipe, every=0)
    trainer.train(tiny_recipe, open_slices(tiny_study), callbacks=[live])
    assert displayed == []
