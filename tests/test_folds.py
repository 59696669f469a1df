"""One recipe on several folds of patients, and the lung model that it may use."""

import numpy as np
import pandas as pd
import pytest

from covseg_lib import files
from covseg_lib.batch import folds
from covseg_lib.data import preprocessing
from covseg_lib.evaluation import metrics, tables
from covseg_lib.training import batches, models
from covseg_lib.training.recipes import Recipe

OPTIONS = {"epochs": 1, "learning_rate": 1e-2}
CHOSEN = models.Postprocessing(threshold=0.3, zoom=1.5)


def test_a_lung_model_predicts_all_slices_for_the_models_that_use_it(trained_study):
    lungs = np.zeros((25, 16, 16, 1), np.uint8)
    lungs[:, 2:14, 2:14] = 1
    np.save(trained_study.path("lungs"), lungs)
    dice = folds.train_lungs(trained_study, "lungs", [0], **OPTIONS)
    predicted = np.load(trained_study.path("predicted_lungs", run="lungs"))
    assert predicted.shape == lungs.shape
    rows = preprocessing.subset_rows(trained_study, "test", split="patient", fold=0)
    by_hand = 2 * (lungs & predicted)[rows].sum() / (lungs[rows].sum() + predicted[rows].sum())
    assert list(dice) == pytest.approx([by_hand])  # a fold has one patient, with one case
    assert trained_study.runs() == ["dice"]  # a lung model is not compared with the others

    (recipe,) = folds.cross_validate(trained_study, "new", [0], lungs="lungs", **OPTIONS)
    inputs, _ = batches.open_inputs(trained_study, recipe)
    assert (inputs[:][..., 1] == predicted[..., 0]).all()
    assert trained_study.path("postprocessing", run="new").exists()


def test_what_is_predicted_is_not_trained_again(trained_study, monkeypatch):
    """A run that was killed between training and prediction is predicted; another one is left."""
    lines = []
    recipe = files.read_json(trained_study.path("recipe", run="dice"))
    same = {name: recipe[name] for name in ("epochs", "learning_rate", "batch_size", "seed")}
    monkeypatch.setattr(folds.recipes, "make_recipe", lambda *_, **__: Recipe(**recipe))
    for _ in range(2):
        made = folds.cross_validate(trained_study, "dice", [0], lines.append, **same)
    assert [one.run for one in made] == ["dice"]
    assert [line.split(":")[0] for line in lines] == [
        "run dice has finished after 2 epochs",
        "dice",
    ]
    assert list(tables.predicted_runs(trained_study)) == ["dice"]


def test_without_lung_masks_it_says_what_to_set(tiny_study):
    with pytest.raises(FileNotFoundError, match='set LUNGS = "none" and NORMALISATION = "volume"'):
        folds.train_lungs(tiny_study, "lungs", [0])


def test_the_other_folds_choose_zoom_and_threshold(trained_study):
    """Where no patient is left for validation; again for an interrupted call."""
    options = OPTIONS | {"selection": "none", "seed": 1}
    for tested in ([0], [0, 1], [0, 1]):
        made = folds.cross_validate(trained_study, "all", tested, **options)
    scores = folds.score_folds(trained_study, made)
    (masks,) = preprocessing.open_arrays(trained_study, ["masks"])
    for recipe, other in zip(made, made[::-1], strict=True):
        rules = models.load_run(trained_study, recipe.run).postprocessing
        of_others = scores.loc[other.fold].mean()
        assert of_others[rules] == of_others.max()
        test = preprocessing.subset_rows(trained_study, "test", split="patient", fold=recipe.fold)
        probabilities = np.load(trained_study.path("prediction", run=recipe.run))
        counts = tables.read_counts(trained_study, recipe.run).query("subset == 'test'")
        predicted = probabilities >= rules.threshold
        assert (counts["tp"] + counts["fp"]).sum() == predicted.sum()
        by_hand = metrics.dice(masks[test], predicted)  # a fold has one case
        assert scores.loc[recipe.fold, rules].item() == pytest.approx(by_hand)


def test_a_choice_that_was_interrupted_is_made_again(trained_study, monkeypatch):
    """Rules are kept after the prediction with them; then nothing is chosen any more."""
    options = OPTIONS | {"selection": "none"}

    def stop(run, study):
        if run.postprocessing != models.Postprocessing():
            raise KeyboardInterrupt
        return predict(run, study)

    predict = folds.prediction.predict_study
    monkeypatch.setattr(folds.prediction, "predict_study", stop)
    monkeypatch.setattr(folds.prediction, "best_rules", lambda scores: CHOSEN)
    with pytest.raises(KeyboardInterrupt):
        folds.cross_validate(trained_study, "all", [0, 1], **options)
    monkeypatch.setattr(folds.prediction, "predict_study", predict)
    lines = []
    for _ in range(2):
        folds.cross_validate(trained_study, "all", [0, 1], lines.append, **options)
    chosen = [line for line in lines if "by the other folds" in line]
    assert chosen == [
        f"{run}: zoom 1.5, threshold 0.3, by the other folds" for run in ("all", "all_fold1")
    ]
    for run in ("all", "all_fold1"):
        assert models.load_run(trained_study, run).postprocessing == CHOSEN


def test_a_patient_in_all_folds_chooses_nothing(trained_study, monkeypatch):
    made = folds.cross_validate(trained_study, "new", [0, 1], **OPTIONS)
    before = [models.load_run(trained_study, one.run).postprocessing for one in made]
    index = pd.MultiIndex.from_tuples(
        [(0, "p", "c"), (1, "p", "c")], names=["fold", "patient", "case"]
    )
    scores = pd.DataFrame({CHOSEN: [0.5, 0.5]}, index)
    monkeypatch.setattr(folds, "score_folds", lambda *_: scores)
    folds.choose_rules(trained_study, made)
    assert [models.load_run(trained_study, one.run).postprocessing for one in made] == before


def test_the_cross_validation_of_a_final_model_chooses_its_rules(trained_study):
    """Also of one that was trained before the cross-validation, with augmentation."""
    options = OPTIONS | {"augmentation": True, "selection": "none"}
    made = folds.cross_validate(trained_study, "new", [0, 1], **options)
    before = folds.train_final(trained_study, "final", **options)
    assert before.postprocessing == models.Postprocessing(mirror=True)
    run = folds.train_final(trained_study, "final", made, **options)
    scores = folds.score_folds(trained_study, made).mean()
    assert scores[run.postprocessing] == scores.max()
    assert models.load_run(trained_study, "final").postprocessing == run.postprocessing
    other = folds.train_final(trained_study, "other", made, **options, neighbours=1)
    assert other.postprocessing == before.postprocessing  # another recipe: nothing is chosen
