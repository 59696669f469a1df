"""One recipe on several folds of patients, and the lung model that it may use."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from covseg_lib.batch import folds
from covseg_lib.data.slices import open_slices
from covseg_lib.evaluation import metrics, prediction, tables
from covseg_lib.training import batches, models, recipes, run_folder, trainer
from covseg_lib.training.run_folder import RunFolder

OPTIONS = {"epochs": 1, "learning_rate": 1e-2}
CHOSEN = run_folder.Postprocessing(threshold=0.3, zoom=1.5)


def test_a_lung_model_predicts_all_slices_for_the_models_that_use_it(trained_study):
    lungs = np.zeros((25, 16, 16, 1), np.uint8)
    lungs[:, 2:14, 2:14] = 1
    np.save(trained_study.path("lungs"), lungs)
    dice = folds.train_lungs(open_slices(trained_study), "lungs", [0], **OPTIONS)
    predicted = np.load(trained_study.path("predicted_lungs", run="lungs"))
    assert predicted.shape == lungs.shape
    rows = open_slices(trained_study).rows("test", split="patient", fold=0)
    by_hand = 2 * (lungs & predicted)[rows].sum() / (lungs[rows].sum() + predicted[rows].sum())
    assert list(dice) == pytest.approx([by_hand])  # a fold has one patient, with one case
    # a lung model is not compared with the others
    assert list(run_folder.finished_runs(trained_study)) == ["dice"]

    (recipe,) = folds.cross_validate(
        open_slices(trained_study), "new", [0], lungs="lungs", **OPTIONS
    )
    inputs = batches.open_inputs(recipe, open_slices(trained_study))
    assert (inputs[:][..., 1] == predicted[..., 0]).all()
    state = RunFolder.of(trained_study, "new").read()
    assert state.rules_chosen_by == run_folder.VALIDATION


def test_what_is_done_is_not_done_again(trained_study):
    """The study's run is trained already: its rules are chosen, it is predicted; then nothing."""
    recipe = RunFolder.of(trained_study, "dice").read().recipe
    same = {"learning_rate": recipe.learning_rate, "objective": "dice", "depth": recipe.depth}
    slices = open_slices(trained_study)
    lines = []
    for _ in range(2):
        made = folds.cross_validate(slices, "dice", [0], lines.append, **same)
    assert made == [recipe]
    assert len(lines) == 1
    assert "chosen by the validation patients" in lines[0]
    assert list(tables.predicted_runs(trained_study)) == ["dice"]


def test_without_lung_masks_it_says_what_to_set(tiny_study):
    with pytest.raises(FileNotFoundError, match='set LUNGS = "none" and NORMALISATION = "volume"'):
        folds.train_lungs(open_slices(tiny_study), "lungs", [0])


def test_the_other_folds_choose_zoom_and_threshold(trained_study):
    """Where no patient is left for validation; again for an interrupted call."""
    options = OPTIONS | {"selection": "none", "seed": 1}
    for tested in ([0], [0, 1], [0, 1]):
        made = folds.cross_validate(open_slices(trained_study), "all", tested, **options)
    scores = folds.score_folds(open_slices(trained_study), made)
    masks = open_slices(trained_study).masks
    for recipe, other in zip(made, made[::-1], strict=True):
        rules = models.load_run(trained_study, recipe.run).rules
        of_others = scores.loc[other.fold].mean()
        assert of_others[rules] == of_others.max()
        test = open_slices(trained_study).rows("test", split="patient", fold=recipe.fold)
        probabilities = np.load(trained_study.path("prediction", run=recipe.run))
        counts = tables.read_counts(trained_study, recipe.run).query("subset == 'test'")
        predicted = probabilities >= rules.threshold
        assert (counts["tp"] + counts["fp"]).sum() == predicted.sum()
        by_hand = metrics.dice(masks[test], predicted)  # a fold has one case
        assert scores.loc[recipe.fold, rules].item() == pytest.approx(by_hand)


def test_a_prediction_between_an_interruption_and_the_choice_does_not_count_as_one(
    trained_study, monkeypatch
):
    """Notebook 08 is interrupted while it chooses, 06 predicts, and 08 is run again."""
    options = OPTIONS | {"selection": "none"}
    slices = open_slices(trained_study)

    def stop(scores):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(folds.prediction, "best_rules", stop)
        with pytest.raises(KeyboardInterrupt):
            folds.cross_validate(slices, "all", [0, 1], **options)
    for name in ("all", "all_fold1"):
        prediction.predict_study(models.load_run(trained_study, name), slices)
        assert RunFolder.of(trained_study, name).read().rules_chosen_by == run_folder.NOTHING
    monkeypatch.setattr(folds.prediction, "best_rules", lambda scores: CHOSEN)
    lines = []
    for _ in range(2):
        folds.cross_validate(slices, "all", [0, 1], lines.append, **options)
    assert lines == [
        f"{run}: zoom 1.5, threshold 0.3, by the other folds" for run in ("all", "all_fold1")
    ]
    for name in ("all", "all_fold1"):
        run = models.load_run(trained_study, name)
        assert run.rules == CHOSEN
        images, _ = slices.subset("test", fold=run.recipe.fold)
        predicted = prediction.predict_slices(run, images)
        stored = np.load(run_folder.need_made(trained_study, "prediction", name))
        assert (stored == predicted).all()


def test_a_choice_by_fewer_folds_is_made_again_and_defaults_count_as_chosen(
    trained_study, monkeypatch
):
    options = OPTIONS | {"selection": "none"}
    slices = open_slices(trained_study)
    scored = []
    score = folds.score_folds
    monkeypatch.setattr(folds, "score_folds", lambda *_: scored.append(len(_[1])) or score(*_))
    monkeypatch.setattr(folds.prediction, "best_rules", lambda scores: run_folder.Postprocessing())
    for tested in ([0, 1], [0, 1], [0, 1, 2], [0, 1, 2]):
        made = folds.cross_validate(slices, "all", tested, **options)
        for _ in range(2):
            folds.train_final(slices, "final", made, **options)
    assert scored == [2, 2, 3, 3]  # of each choice once, for the folds and for the final model
    assert "all_fold2" in RunFolder.of(trained_study, "final").read().rules_chosen_by


def test_a_patient_in_all_folds_chooses_nothing(trained_study, monkeypatch):
    slices = open_slices(trained_study)
    made = folds.cross_validate(slices, "new", [0, 1], **OPTIONS)
    before = [RunFolder.of(trained_study, one.run).read() for one in made]
    monkeypatch.setattr(folds, "_patients", lambda *_: {"p"})
    folds.choose_rules(slices, made)
    assert [RunFolder.of(trained_study, one.run).read() for one in made] == before


def test_lungs_are_scored_by_the_split_that_was_trained(trained_study, monkeypatch):
    """A slice split tests 2 slices of other cases than the patient split's fold 0."""
    np.save(trained_study.path("lungs"), np.ones((25, 16, 16, 1), np.uint8))
    slices = open_slices(trained_study)
    dice = folds.train_lungs(slices, "lungs", [0], split="slice", **OPTIONS)
    tested = slices.table.loc[slices.rows("test", split="slice"), "case"]
    assert sorted(dice.index) == sorted(tested.unique())


def test_the_cross_validation_of_a_final_model_chooses_its_rules(trained_study):
    """Also of one that was trained before the cross-validation, with augmentation."""
    options = OPTIONS | {"augmentation": True, "selection": "none"}
    made = folds.cross_validate(open_slices(trained_study), "new", [0, 1], **options)
    before = folds.train_final(open_slices(trained_study), "final", **options)
    assert before.rules == run_folder.Postprocessing(mirror=True)
    run = folds.train_final(open_slices(trained_study), "final", made, **options)
    scores = folds.score_folds(open_slices(trained_study), made).mean()
    assert scores[run.rules] == scores.max()
    assert models.load_run(trained_study, "final").rules == run.rules
    other = folds.train_final(open_slices(trained_study), "other", made, **options, neighbours=1)
    assert other.rules == before.rules  # another recipe: nothing is chosen


def test_a_run_does_not_start_from_one_that_has_seen_the_tested_patients(trained_study):
    """Fold 0 was trained on all patients but one; fold 1 tests another one."""
    slices = open_slices(trained_study)
    first = RunFolder.of(trained_study, "dice")
    options = {"start_from": str(first.path), "run": "again", "epochs": 1}
    same_fold = recipes.make_recipe(trained_study, "iou", learning_rate=1e-2, **options)
    run = trainer.train(same_fold, slices)
    assert run.state.trained_on == first.read().trained_on
    for changes in ({"fold": 1}, {"split": "slice"}):
        recipe = recipes.make_recipe(trained_study, "iou", **options | changes | {"run": "other"})
        with pytest.raises(ValueError, match=r"START_FROM is .*dice, which was trained on scan_\d"):
            trainer.train(recipe, slices)
        assert not RunFolder.of(trained_study, recipe.run).exists()


def test_what_a_run_has_seen_is_handed_on_to_runs_that_start_from_it(trained_study):
    """Also under another name of the case: the patient counts."""
    slices = open_slices(trained_study)
    first = RunFolder.of(trained_study, "dice")
    state = first.read()
    tested = slices.table.loc[slices.rows("test"), "patient"].iloc[0]
    first.write(replace(state, trained_on={"elsewhere": "someone", "copy": tested}))
    recipe = recipes.make_recipe(trained_study, "dice", "all", epochs=1, split="all", depth=2)
    recipe = replace(recipe, start_from=str(first.path))
    run = trainer.train(recipe, slices)
    assert {"elsewhere", "copy", *slices.table["case"]} == run.state.trained_on.keys()
    of_slices = recipes.make_recipe(trained_study, "dice", "third", split="slice", depth=2)
    of_slices = replace(of_slices, start_from=str(RunFolder.of(trained_study, "all").path))
    with pytest.raises(ValueError, match="expected a run that has not seen what the slice split"):
        trainer.train(of_slices, slices)


def test_lungs_of_a_model_that_has_seen_the_tested_patients_are_refused(trained_study):
    np.save(trained_study.path("lungs"), np.ones((25, 16, 16, 1), np.uint8))
    slices = open_slices(trained_study)
    folds.train_lungs(slices, "lungs", [0], epochs=1, split="slice")
    with pytest.raises(ValueError, match=r"LUNGS is the run in .*lungs, which was trained on"):
        folds.cross_validate(slices, "new", [0], lungs="lungs", epochs=1)


def test_a_lung_model_that_was_trained_again_makes_its_users_stale(trained_study):
    np.save(trained_study.path("lungs"), np.ones((25, 16, 16, 1), np.uint8))
    slices = open_slices(trained_study)
    options = {"epochs": 2, "learning_rate": 1e-2}
    folds.train_lungs(slices, "lungs", [0], **options)
    folds.cross_validate(slices, "new", [0], lungs="lungs", **options)
    shutil.rmtree(RunFolder.of(trained_study, "lungs").path)
    folds.train_lungs(slices, "lungs", [0], **options | {"learning_rate": 1e-3})
    with pytest.raises(ValueError, match=r"run new .* with other lung masks than lungs"):
        folds.cross_validate(slices, "new", [0], lungs="lungs", **options)
