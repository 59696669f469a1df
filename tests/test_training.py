import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import after_epoch

from covseg_lib import files
from covseg_lib.batch import runs
from covseg_lib.data.slices import open_slices
from covseg_lib.evaluation import metrics, prediction
from covseg_lib.training import batches, callbacks, models, recipes, trainer
from covseg_lib.training.run_folder import RunFolder


def test_a_run_leaves_what_the_design_says(tiny_study, tiny_recipe):
    objective = "iou"
    recipe = replace(tiny_recipe, run="iou_test", objective=objective)
    lines = []
    run = trainer.train(recipe, open_slices(tiny_study), log=lines.append)
    folder = tiny_study.path("run", run=recipe.run).parent
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["backup", "best.weights.h5", "history.csv", "run.json"]
    assert list(run.history) == [
        "epoch",
        objective,
        "loss",
        "positive_rate",
        f"val_{objective}",
        "val_loss",
        "val_positive_rate",
        "seconds",
    ]
    assert run.history["epoch"].tolist() == [1, 2]
    assert run.timing["first_epoch_s"] > 0
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    state = RunFolder(folder).read()
    assert (state.recipe, state.epochs_done, state.finished) == (recipe, 2, True)
    slices = open_slices(tiny_study)
    (tested,) = slices.table.loc[slices.rows("test"), "case"].unique()
    assert state.trained_on.keys() == set(slices.table["case"]) - {tested}


def test_the_kept_weights_are_those_of_the_best_epoch(trained_study):
    run = models.load_run(trained_study, "dice")
    images, masks = open_slices(trained_study).subset("validation")
    found = prediction.predict_slices(run, images) >= 0.5
    assert metrics.dice(masks, found) == pytest.approx(run.history["val_dice"].max(), abs=1e-4)


def test_a_run_just_trained_is_the_run_that_is_loaded_later(tiny_study, tiny_recipe):
    trained = trainer.train(tiny_recipe, open_slices(tiny_study))
    loaded = models.load_run(tiny_study, tiny_recipe.run)
    images, _ = open_slices(tiny_study).subset("validation")
    found = [prediction.predict_slices(run, images) for run in (trained, loaded)]
    assert trained.model.output.shape == loaded.model.output.shape  # a tensor, not a list of one
    assert (found[0] == found[1]).all()


def test_a_seed_gives_the_same_run_and_another_seed_another(trained_study):
    """The run of the study trained with seed 0, here again; then one with seed 1."""
    first = models.load_run(trained_study, "dice")
    again, other = (
        trainer.train(replace(first.recipe, seed=seed), open_slices(trained_study), resume=False)
        for seed in (0, 1)
    )
    assert again.history["loss"].tolist() == first.history["loss"].tolist()
    assert other.history["loss"].tolist() != pytest.approx(first.history["loss"].tolist(), rel=1e-3)
    images, _ = open_slices(trained_study).subset("test")
    assert (
        prediction.predict_slices(again, images) == prediction.predict_slices(first, images)
    ).all()


@pytest.mark.slow
def test_models_that_share_the_loss_go_through_the_same_weights(tiny_study, tiny_recipe):
    accuracy, iou = (
        trainer.train(
            replace(tiny_recipe, run=name, objective=name), open_slices(tiny_study)
        ).history["loss"]
        for name in ("accuracy", "iou")
    )
    assert np.allclose(accuracy, iou, rtol=1e-5)


@pytest.mark.slow
def test_it_learns(tiny_study, tiny_recipe):
    run = trainer.train(replace(tiny_recipe, epochs=40, base_filters=4), open_slices(tiny_study))
    assert run.history["val_dice"].max() > 0.8


def test_the_best_epoch_is_the_first_of_equals():
    history = pd.DataFrame({"epoch": [1, 2, 3], "val_dice": [0.1, 0.5, 0.5]})
    assert callbacks.best_epoch(history, "dice") == 2
    assert callbacks.best_epoch(history, "dice", "none") == len(history)


def test_without_selection_the_last_weights_are_kept(tiny_study, tiny_recipe):
    """Even if the first epoch is the best on validation slices."""
    last = []
    keep = after_epoch(lambda epoch, model: last.append(model.get_weights()))
    recipe = replace(tiny_recipe, selection="none", learning_rate=1.0, run="last", model="last")
    run = trainer.train(recipe, open_slices(tiny_study), [keep])
    assert all((a == b).all() for a, b in zip(run.model.get_weights(), last[-1], strict=True))
    assert runs.list_runs(tiny_study).loc["last", "best_epoch"] == recipe.epochs


def test_a_recipe_takes_study_settings_unless_told_otherwise(tiny_study):
    recipe = recipes.make_recipe(tiny_study, "iou", learning_rate=0.5, seed=None)
    assert (recipe.run, recipe.epochs, recipe.base_filters) == ("iou", 2, 2)
    assert (recipe.learning_rate, recipe.seed) == (0.5, 0)
    with pytest.raises(ValueError, match="accuracy, iou, dice"):
        recipes.make_recipe(tiny_study, "jaccard")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 0}, "epochs is 0: expected a positive integer"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"base_filters": "32"}, "base_filters is '32'"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"precision": "bf16"}, "no precision 'bf16': choose one of auto, float32"),
        ({"run": ".."}, r"run '\.\.' is not a folder name"),
        ({"run": "a/b"}, "run 'a/b' is not"),
        ({"normalisation": "slice"}, "normalisation is 'slice': expected 'dataset', 'volume', 'la"),
        ({"augmentation": "yes"}, "augmentation is 'yes': expected False, True"),
        ({"neighbours": -1}, "neighbours is -1: expected an integer, 0 or higher"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(tiny_recipe, change, said):
    with pytest.raises(ValueError, match=said):
        replace(tiny_recipe, **change)


def test_switches_are_fields_of_the_recipe(tiny_study):
    recipe = recipes.make_recipe(tiny_study, "dice", norm_layer="instance", sampling=None)
    assert (recipe.norm_layer, recipe.sampling, recipe.channels) == ("instance", "all", 1)
    assert replace(recipe, neighbours=2, lungs="given").channels == 6
    with pytest.raises(ValueError, match="no setting norm_layers"):
        recipes.make_recipe(tiny_study, "dice", norm_layers="instance")


def test_the_learning_rate_rises_and_falls_as_a_cosine(tiny_recipe):
    recipe = replace(tiny_recipe, optimizer="adamw", learning_rate=0.1)
    recipe = replace(recipe, epochs=20)
    rates = [callbacks.one_cycle(recipe, epoch) for epoch in (0, 1, 2, 10, 19)]
    falling = [0.05 + 0.05 * math.cos(math.pi * part / 36) for part in (1, 17, 35)]
    assert rates == pytest.approx([0.025, 0.075, *falling])
    assert models.make_optimizer(recipe).weight_decay == 1e-4
    assert models.make_optimizer(replace(recipe, optimizer="adam")).weight_decay is None


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_adamw_trains_with_the_rates_of_the_cycle(tiny_study, tiny_recipe, precision):
    recipe = replace(tiny_recipe, optimizer="adamw", precision=precision, epochs=3)
    rates = []
    note = after_epoch(lambda _, model: rates.append(float(model.optimizer.learning_rate)))
    trainer.train(recipe, open_slices(tiny_study), [note])
    assert rates == pytest.approx([callbacks.one_cycle(recipe, epoch) for epoch in range(3)])


def test_with_all_switches_a_training_resumes_with_the_same_bits(tiny_study, tiny_recipe):
    np.save(tiny_study.path("lungs"), np.load(tiny_study.path("masks")))
    recipe = replace(
        tiny_recipe,
        epochs=4,
        normalisation="volume",
        norm_layer="group",
        augmentation=True,
        loss="bce_dice",
        optimizer="adamw",
        sampling="balanced",
        neighbours=1,
        lungs="given",
    )
    whole = trainer.train(replace(recipe, run="whole"), open_slices(tiny_study))

    def stop(epoch, model):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(recipe, open_slices(tiny_study), [after_epoch(stop)])
    resumed = trainer.train(recipe, open_slices(tiny_study))
    columns = ["loss", "dice", "val_loss", "val_dice"]
    assert (resumed.history[columns] == whole.history[columns]).all(axis=None)


def test_backups_cannot_be_made_every_no_epochs(tiny_study, tiny_recipe):
    with pytest.raises(ValueError, match="backup_every is 0: expected a positive integer"):
        trainer.train(tiny_recipe, open_slices(tiny_study), backup_every=0)
    assert not tiny_study.path("run", run="dice").parent.exists()


def test_a_run_that_is_not_there_names_the_notebooks(tiny_study):
    with pytest.raises(FileNotFoundError, match="run notebook 03, 04 or 05 first"):
        models.load_run(tiny_study, "dice")


def test_a_run_named_after_its_fold_is_that_fold(tiny_study):
    """RUN = "dice_fold1" with FOLD = 1 made dice_fold1_fold1."""
    made = [
        recipes.make_recipe(tiny_study, "dice", run, fold=fold)
        for run, fold in (("", 1), ("dice_fold1", 1))
    ]
    assert [(recipe.run, recipe.model) for recipe in made] == [("dice_fold1", "dice")] * 2
    alone = recipes.make_recipe(tiny_study, "dice", "dice_fold0")
    assert (alone.run, alone.model) == ("dice_fold0", "dice_fold0")


def test_without_a_lesion_in_training_nothing_is_trained(tiny_study, tiny_recipe):
    table = open_slices(tiny_study).table
    files.write_csv(tiny_study.path("slices"), table.assign(lesion_pixels=0))
    with pytest.raises(
        ValueError, match="no training slice of the patient split, fold 0, has a lesion"
    ):
        trainer.train(tiny_recipe, open_slices(tiny_study))
    assert not list(tiny_study.path("models").glob("*/*"))


def test_without_a_lesion_in_validation_it_says_so(tiny_study, tiny_recipe):
    validation = open_slices(tiny_study).rows("validation")
    table = open_slices(tiny_study).table
    table.loc[validation, "lesion_pixels"] = 0
    files.write_csv(tiny_study.path("slices"), table)
    lines = []
    recipes.check_lesions(open_slices(tiny_study), tiny_recipe, lines.append)
    assert lines[0].startswith("WARNING: no validation slice has a lesion")


def test_the_order_of_slices_follows_from_seed_and_epoch(tiny_study, tiny_recipe, monkeypatch):
    """Keras calls a dataset's `on_epoch_end` once more than there are epochs."""
    seen, read = [], batches.Batches.__getitem__
    training_rows = set(open_slices(tiny_study).rows("train"))

    def note(self, number):
        if set(self.rows) == training_rows:
            seen.append((number, self.batches[number].tolist()))
        return read(self, number)

    model = models.compile_model(tiny_recipe)
    with trainer.open_training(
        tiny_recipe, open_slices(tiny_study), log=lambda line: None
    ) as training:
        monkeypatch.setattr(batches.Batches, "__getitem__", note)
        own = after_epoch(lambda epoch, model: seen.append("epoch"))
        callbacks = [*training.callbacks, own]
        model.fit(
            training.batches,
            epochs=2,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
            validation_data=training.validation,
        )
    rows = open_slices(tiny_study).rows("train")
    first, second = (np.random.default_rng((0, epoch)).permutation(rows) for epoch in (0, 1))
    ends = [place for place, entry in enumerate(seen) if entry == "epoch"]
    for order, part in ((first, seen[: ends[0]]), (second, seen[ends[0] + 1 : ends[1]])):
        assert {number: tuple(batch) for number, batch in part} == {
            number: tuple(order[8 * number : 8 * number + 8])
            for number in range(-(-len(rows) // 8))
        }
