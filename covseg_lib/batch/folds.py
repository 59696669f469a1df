"""Cross-validation: one recipe trained and tested on several folds of patients."""

from collections.abc import Callable, Sequence

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
    trained on as well (`selection` "none"), the last epoch is kept, and `choose_rules` asks the
    other folds. Runs that have been predicted are not trained again, so an interrupted call can be
    repeated.

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
    if made[0].selection == "none" and len(made) > 1:
        choose_rules(study, made, log)
    return made


def choose_rules(study: Study, made: Sequence[Recipe], log: Callable[[str], None] = print) -> None:
    """Choose zoom and threshold of each fold by the test patients of the other folds.

    For runs with `selection` "none", which have no validation patients. The patients that are
    tested in a fold play no part in the choice for it; but the models of the other folds, whose
    predictions choose, have been trained on them. The runs are predicted again.

    Parameters
    ----------
    study : Study
    made : sequence of Recipe
        The result of `cross_validate`: runs of one model, of different folds.
    log : function of str
        Gets a line for each fold.
    """
    scores = score_rules(study, made)
    for recipe in made:
        rules = prediction.best_rules(scores.drop(recipe.fold))
        run = models.load_run(study, recipe.run)
        if run.postprocessing != rules:
            prediction.predict_study(prediction.keep_rules(run, study, rules), study)
        log(f"{recipe.run}: zoom {rules.zoom:g}, threshold {rules.threshold:g}, by the other folds")


def score_rules(study: Study, made: Sequence[Recipe]) -> pd.DataFrame:
    """Return `prediction.score_rules` of the test cases of several runs; index (fold, case)."""
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
    loaded. The last epoch is kept. Zoom and threshold have the highest mean Dice over the test
    cases of `tested`, the runs of a cross-validation; without them they are 1 and 0.5. Other
    parameters as for `cross_validate`.
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
    if not tested:
        return prediction.choose_postprocessing(run, study)
    return prediction.keep_rules(run, study, prediction.best_rules(score_rules(study, tested)))


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
