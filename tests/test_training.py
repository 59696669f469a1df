from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from covseg_lib import prediction, recipes, scores, slices, storage, training, watching


@pytest.mark.parametrize("objective", ["accuracy", "iou", "dice"])
def test_a_run_leaves_what_the_design_says(tiny_study, tiny_recipe, objective):
    recipe = replace(tiny_recipe, run=f"{objective}_test", objective=objective)
    lines = []
    run = training.train(recipe, tiny_study, lines.append)
    folder = tiny_study.path("recipe", run=recipe.run).parent
    files = sorted(file.name for file in folder.iterdir())
    assert files == ["backup", "best.weights.h5", "history.csv", "recipe.json", "timing.json"]
    assert list(run.history) == [
        "epoch",
        objective,
        "loss",
        "marked",
        f"val_{objective}",
        "val_loss",
        "val_marked",
        "seconds",
    ]
    assert run.history["epoch"].tolist() == [1, 2]
    assert run.timing["first_epoch_s"] > 0
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert storage.read_json(tiny_study.path("recipe", run=recipe.run)) == asdict(recipe)


def test_the_kept_weights_are_those_of_the_best_epoch(tiny_study, tiny_recipe):
    run = training.train(replace(tiny_recipe, epochs=4), tiny_study)
    images, masks = slices.load(tiny_study, "validation")
    found = prediction.predict_slices(run, images) >= 0.5
    assert scores.dice(masks, found) == pytest.approx(run.history["val_dice"].max(), abs=1e-4)


def test_a_loaded_run_predicts_as_the_trained_one(tiny_study, tiny_recipe):
    images, _ = slices.load(tiny_study, "test")
    trained = prediction.predict_slices(training.train(tiny_recipe, tiny_study), images)
    loaded = training.load_run(tiny_study, tiny_recipe.run)
    assert loaded.recipe == tiny_recipe
    assert (prediction.predict_slices(loaded, images) == trained).all()


def test_a_seed_gives_the_same_run_and_another_seed_another(tiny_study, tiny_recipe):
    losses = [
        training.train(replace(tiny_recipe, seed=seed), tiny_study, resume=False).history["loss"].tolist()
        for seed in (1, 1, 2)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


def test_models_that_share_the_loss_go_through_the_same_weights(tiny_study, tiny_recipe):
    accuracy, iou = (
        training.train(replace(tiny_recipe, run=name, objective=name), tiny_study).history["loss"]
        for name in ("accuracy", "iou")
    )
    assert np.allclose(accuracy, iou, rtol=1e-5)


def test_it_learns(tiny_study, tiny_recipe):
    run = training.train(replace(tiny_recipe, epochs=40, base_filters=4), tiny_study)
    assert run.history["val_dice"].max() > 0.8


def test_the_best_epoch_is_the_first_of_equals():
    history = pd.DataFrame({"epoch": [1, 2, 3], "val_dice": [0.1, 0.5, 0.5]})
    assert watching.best_epoch(history, "dice") == 2


def test_a_recipe_takes_study_settings_unless_told_otherwise(tiny_study):
    recipe = recipes.make_recipe(tiny_study, "iou", learning_rate=0.5, seed=None)
    assert (recipe.run, recipe.epochs, recipe.base_filters) == ("iou", 2, 2)
    assert (recipe.learning_rate, recipe.seed) == (0.5, 0)
    with pytest.raises(ValueError, match="accuracy, iou, dice"):
        recipes.make_recipe(tiny_study, "jaccard")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 0}, "epochs is 0: expected a whole number from 1 on"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"base_filters": "32"}, "base_filters is '32'"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"precision": "bf16"}, "no precision 'bf16': choose one of auto, float32"),
        ({"run": ".."}, r"run '\.\.' cannot be a folder's name"),
        ({"run": "a/b"}, "run 'a/b' cannot be"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(tiny_recipe, change, said):
    with pytest.raises(ValueError, match=said):
        replace(tiny_recipe, **change)


def test_backups_cannot_be_made_every_no_epochs(tiny_study, tiny_recipe):
    with pytest.raises(ValueError, match="backup_every is 0: expected a number of epochs"):
        training.train(tiny_recipe, tiny_study, backup_every=0)
    assert not tiny_study.path("models").exists()


def test_a_run_that_is_not_there_names_the_notebooks(tiny_study):
    with pytest.raises(FileNotFoundError, match="run notebook 03, 04 or 05 first"):
        training.load_run(tiny_study, "dice")
