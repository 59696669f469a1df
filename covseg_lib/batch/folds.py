"""Cross-validation: one recipe trained and tested on several folds of patients."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from covseg_lib.data import preprocessing
from covseg_lib.evaluation import metrics, prediction
from covseg_lib.study import Study
from covseg_lib.training import models, recipes, trainer
from covseg_lib.training.recipes import Recipe

# Lungs are large and have sharp edges: nothing has to be selected, and no layer normalises (in
# slices without lungs, instance normalisation finds lungs everywhere).
LUNG_RECIPE = {
    "target": "lungs",
    "objective": "dice",
    "augmentation": True,
    "sampling": "balanced",
    "loss": "bce_dice",
    "optimizer": "adamw",
    "selection": "none",
}


def cross_validate(
    study: Study,
    model: str,
    folds: Sequence[int],
    log: Callable[[str], None] = print,
    **options,
) -> list[Recipe]:
    """Train a model on each fold, and predict the test patients of the fold.

    The validation patients of the fold choose the epoch and the `Postprocessing`. If they are
    trained on as well (`selection` "none"), the last epoch is kept, and `choose_rules` uses the
    test patients of the other folds. Runs that have been predicted are not trained again, so an
    interrupted call can be repeated.

    Parameters
    ----------
    study : Study
        With processed_data in it.
    model : str
        The name of the model.
    folds : sequence of int
        The folds that are tested.
    log : function of str
        Gets a line for each run.
    options
        Other arguments of `recipes.make_recipe`. Default: the objective "iou", as in notebook 04,
        and patients held out.

    Returns
    -------
    list of Recipe, one for each fold
    """
    options = {"objective": "iou", "split": "patient"} | options
    made = [recipes.make_recipe(study, run=model, fold=fold, **options) for fold in folds]
    for recipe in made:
        counts = study.path("counts", run=recipe.run)
        if not (recipes.is_finished(recipe, study) and counts.exists()):
            run = trainer.train(recipe, study, backup_every=5, log=_only_warnings(log))
            run = prediction.choose_postprocessing(run, study)
            prediction.predict_study(run, study)
            log(f"{recipe.run}: {run.timing['total_s']:.0f} s, {run.postprocessing}")
    if len(made) > 1 and made[0].selection == "none":
        folders = [study.path("recipe", run=recipe.run).parent for recipe in made]
        if not all(_are_chosen(models.read_postprocessing(folder)) for folder in folders):
            choose_rules(study, made, log)
    return made


def choose_rules(study: Study, made: Sequence[Recipe], log: Callable[[str], None] = print) -> None:
    """Choose zoom and threshold of each fold by the test patients of the other folds.

    For runs with `selection` "none", which have no validation patients. No prediction of a patient
    plays a part in the choice for the fold that tests this patient. But the models of the other
    folds have been trained on this patient. The runs are predicted again.

    Parameters
    ----------
    study : Study
    made : sequence of Recipe
        The result of `cross_validate`: runs of one model, of different folds.
    log : function of str
        Gets a line for each fold.
    """
    scores = score_folds(study, made)
    patients = scores.index.get_level_values("patient")
    for recipe in made:
        others = scores[~patients.isin(scores.loc[recipe.fold].index.unique("patient"))]
        if others.empty:  # a split that tests the same patients in all folds
            continue
        rules, run = prediction.best_rules(others), models.load_run(study, recipe.run)
        prediction.predict_study(models.with_rules(run, rules), study)
        prediction.keep_rules(run, study, rules)  # at the end: what was stopped is done again
        log(f"{recipe.run}: zoom {rules.zoom:g}, threshold {rules.threshold:g}, by the other folds")


def score_folds(study: Study, made: Sequence[Recipe]) -> pd.DataFrame:
    """Return `prediction.score_rules` of the tests of several runs; index (fold, patient, case)."""
    scores = {}
    for recipe in made:
        run, mirrors = models.load_run(study, recipe.run), [recipe.augmentation]
        scores[recipe.fold] = prediction.score_rules(run, study, "test", mirrors, [0.0])
    return pd.concat(scores, names=["fold"])


def train_lungs(
    study: Study,
    model: str,
    folds: Sequence[int],
    log: Callable[[str], None] = print,
    **options,
) -> pd.Series:
    """Train a lung model on each fold, and predict the lungs of all slices of the study.

    Recipes with `lungs` = `model` use the predicted masks. Parameters as for `cross_validate`, for
    the lesion model: the lung model has half of its epochs and filters, and `LUNG_RECIPE`.

    Returns
    -------
    Series, index case: Dice of the predicted lungs of the cases that are tested

    Raises
    ------
    FileNotFoundError
        The study has no lung masks to learn from.
    """
    options = {"split": "patient"} | _for_lungs(study, options)
    if not study.path("lungs").exists():
        raise FileNotFoundError(
            f"no {study.path('lungs').name} in {study.path('lungs').parent}: a lung model needs a "
            'lung mask for every case. Add them in notebook 01, or set LUNGS = "none" and '
            'NORMALISATION = "volume"'
        )
    (true,) = preprocessing.open_arrays(study, ["lungs"])
    table, scores = preprocessing.slice_table(study), {}
    for fold in folds:
        recipe = recipes.make_recipe(study, run=model, fold=fold, **options)
        path = study.path("predicted_lungs", run=recipe.run)
        if not (recipes.is_finished(recipe, study) and path.exists()):
            run = trainer.train(recipe, study, backup_every=5, log=_only_warnings(log))
            prediction.predict_lungs(run, study)
        predicted = np.load(path, mmap_mode="r")
        test = preprocessing.subset_rows(study, "test", split="patient", fold=fold)
        for case, rows in table.loc[test].groupby("case").groups.items():
            scores[case] = metrics.dice(true[rows], predicted[rows])
    return pd.Series(scores, name="dice").rename_axis("case")


def train_final(
    study: Study,
    model: str,
    tested: Sequence[Recipe] = (),
    log: Callable[[str], None] = print,
    **options,
) -> models.Run:
    """Train a model on all patients of the study; there is nobody left to test it on.

    If it uses the lungs of a lung model, that is trained first, as `model`_lungs. A finished run is
    loaded. The last epoch is kept. If `tested` has the runs of a cross-validation with the same
    switches, zoom and threshold are those with the highest mean Dice over its test cases. Otherwise
    zoom is 1 and the threshold 0.5. Other parameters as for `cross_validate`.
    """
    options = {"objective": "iou"} | options | {"split": "all", "selection": "none"}
    if options.get("lungs", "none") not in ("none", "given"):
        lungs = _for_lungs(study, options) | {"run": f"{model}_lungs"}
        recipe = recipes.make_recipe(study, **lungs)
        run = trainer.train(recipe, study, backup_every=5, log=_only_warnings(log))
        prediction.predict_lungs(run, study)
        options["lungs"] = recipe.run
    recipe = recipes.make_recipe(study, run=model, **options)
    run = trainer.train(recipe, study, backup_every=5, log=_only_warnings(log))
    names = {*recipes.SWITCHES, "neighbours"} - {"selection"}
    switches = {name: getattr(recipe, name) for name in names}
    tested = [one for one in tested if switches == {name: getattr(one, name) for name in names}]
    if not tested:
        return prediction.choose_postprocessing(run, study)
    if _are_chosen(run.postprocessing):
        return run
    return prediction.keep_rules(run, study, prediction.best_rules(score_folds(study, tested)))


def _are_chosen(rules):
    """Return whether zoom and threshold were chosen before: they are not the defaults."""
    return replace(rules, mirror=False) != models.Postprocessing()


def _for_lungs(study, options):
    """Return the options of a lung model, from those of the lesion model that uses it.

    Its seed is the study's: lesion models of several seeds share it.
    """
    settings = study.settings()
    epochs = options.get("epochs") or settings["epochs"]["dice"]
    filters = options.get("base_filters") or settings["base_filters"]
    halved = {"epochs": max(epochs // 2, 1), "base_filters": max(filters // 2, 1)}
    kept = ("split", "batch_size", "learning_rate", "precision", "depth")
    return {name: options[name] for name in kept if name in options} | halved | LUNG_RECIPE


def _only_warnings(log):
    """Return a log that leaves out the line of each epoch."""
    return lambda line: None if line.startswith("epoch ") else log(line)
