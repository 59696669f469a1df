"""Cross-validation: one recipe trained and tested on several folds of patients."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from covseg_lib.data.slices import Slices
from covseg_lib.evaluation import metrics, prediction
from covseg_lib.study import Study
from covseg_lib.training import models, recipes, run_folder, trainer
from covseg_lib.training.recipes import Recipe
from covseg_lib.training.run_folder import NOTHING, VALIDATION, RunFolder

BACKUP_EVERY = 5  # epochs
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
    slices: Slices,
    model: str,
    folds: Sequence[int],
    log: Callable[[str], None] = print,
    **options,
) -> list[Recipe]:
    """Train a model on each fold, and predict the test patients of the fold.

    The validation patients of the fold choose the epoch and the `Postprocessing`. If they are
    trained on as well (`selection` "none"), the last epoch is kept, and with several folds
    `choose_rules` uses the test patients of the other folds. What has been done is not done again,
    so an interrupted call can be repeated.

    Parameters
    ----------
    slices : Slices
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
    made = [recipes.make_recipe(slices.study, run=model, fold=fold, **options) for fold in folds]
    for recipe in made:
        _train(recipe, slices, log)
        if recipe.selection == "validation":
            choose_by_validation(slices, recipe, log)
    if len(made) > 1 and made[0].selection == "none":
        choose_rules(slices, made, log)
    for recipe in made:
        if not prediction.is_predicted(slices.study, recipe.run):
            prediction.predict_study(models.load_run(slices.study, recipe.run), slices)
    return made


def _train(recipe, slices, log):
    """Train a run, unless it has finished."""
    folder = RunFolder.of(slices.study, recipe.run)
    if trainer.is_trained(folder, recipe, slices):
        return

    def only_warnings(line):
        if not line.startswith("epoch "):
            log(line)

    run = trainer.train(recipe, slices, backup_every=BACKUP_EVERY, log=only_warnings)
    log(f"{recipe.run}: trained in {run.timing['total_s']:.0f} s")


def choose_by_validation(
    slices: Slices, recipe: Recipe, log: Callable[[str], None] = print
) -> None:
    """Choose the `Postprocessing` of a run by its validation patients, unless that was done.

    The choice has the highest mean Dice over the validation cases. Test slices play no part in it.
    """
    folder = RunFolder.of(slices.study, recipe.run)
    if folder.read().rules_chosen_by != VALIDATION:
        run = models.load_run(slices.study, recipe.run)
        rules = prediction.best_rules(prediction.score_rules(run, slices, "validation"))
        folder.choose_rules(rules, VALIDATION, run.state.weights)
        log(f"{recipe.run}: {rules}, chosen by {VALIDATION}")


def choose_rules(
    slices: Slices, made: Sequence[Recipe], log: Callable[[str], None] = print
) -> None:
    """Choose zoom and threshold of each fold by the test patients of the other folds.

    For runs with `selection` "none", which have no validation patients. No prediction of a patient
    plays a part in the choice for the fold that tests this patient. But the models of the other
    folds have been trained on this patient. If the same runs have chosen before, nothing is done.

    Parameters
    ----------
    slices : Slices
    made : sequence of Recipe
        The result of `cross_validate`: runs of one model, of different folds.
    log : function of str
        Gets a line for each fold.
    """
    chosen_by = {}
    for recipe in made:
        others = [other for other in made if _patients(slices, other) - _patients(slices, recipe)]
        if others:  # some splits test the same patients in all folds
            chosen_by[recipe.run] = _tests_of(slices.study, others)
    folders = {run: RunFolder.of(slices.study, run) for run in chosen_by}
    states = {run: folder.read() for run, folder in folders.items()}
    if all(states[run].rules_chosen_by == by for run, by in chosen_by.items()):
        return
    scores = score_folds(slices, made)
    patients = scores.index.get_level_values("patient")
    for recipe in made:
        if recipe.run in chosen_by:
            others = scores[~patients.isin(_patients(slices, recipe))]
            rules = prediction.best_rules(others)
            folders[recipe.run].choose_rules(
                rules, chosen_by[recipe.run], states[recipe.run].weights
            )
            log(
                f"{recipe.run}: zoom {rules.zoom:g}, threshold {rules.threshold:g}, by the other "
                "folds"
            )


def _patients(slices, recipe):
    """Return the patients that a recipe is tested on."""
    rows = slices.rows("test", split=recipe.split, fold=recipe.fold)
    return set(slices.table.loc[rows, "patient"])


def _tests_of(study, made):
    """Say which runs' test patients choose rules, with the checksums of their weights."""
    weights = {recipe.run: RunFolder.of(study, recipe.run).read().weights for recipe in made}
    return "the test patients of " + ", ".join(f"{run} ({weights[run][:8]})" for run in weights)


def score_folds(slices: Slices, made: Sequence[Recipe]) -> pd.DataFrame:
    """Return `prediction.score_rules` of the tests of several runs; index (fold, patient, case)."""
    scores = {}
    for recipe in made:
        run = models.load_run(slices.study, recipe.run)
        scores[recipe.fold] = prediction.score_rules(
            run, slices, "test", mirrors=[recipe.augmentation], smallest_ml=[0.0]
        )
    return pd.concat(scores, names=["fold"])


def train_lungs(
    slices: Slices,
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
    study = slices.study
    options = {"split": "patient"} | _for_lungs(study, options)
    if slices.lungs is None:
        raise FileNotFoundError(
            f"no {study.path('lungs').name} in {study.path('lungs').parent}: a lung model needs a "
            'lung mask for every case. Add them in notebook 01, or set LUNGS = "none" and '
            'NORMALISATION = "volume"'
        )
    scores = {}
    for fold in folds:
        recipe = recipes.make_recipe(study, run=model, fold=fold, **options)
        predicted = _predicted_lungs(recipe, slices, log)
        test = slices.rows("test", split=recipe.split, fold=fold)
        for case, rows in slices.table.loc[test].groupby("case").groups.items():
            scores[case] = metrics.dice(slices.lungs[rows], predicted[rows])
    return pd.Series(scores, name="dice").rename_axis("case")


def _predicted_lungs(recipe, slices, log):
    """Return the masks of a lung model, (N, size, size, 1) uint8; train and predict if needed."""
    _train(recipe, slices, log)
    if not run_folder.is_made(slices.study, "predicted_lungs", recipe.run):
        prediction.predict_lungs(models.load_run(slices.study, recipe.run), slices)
    return np.load(slices.study.path("predicted_lungs", run=recipe.run), mmap_mode="r")


def train_final(
    slices: Slices,
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
    study = slices.study
    options = {"objective": "iou"} | options | {"split": "all", "selection": "none"}
    if options.get("lungs", "none") not in ("none", "given"):
        of_lungs = _for_lungs(study, options) | {"run": f"{model}_lungs"}
        lung_recipe = recipes.make_recipe(study, **of_lungs)
        _predicted_lungs(lung_recipe, slices, log)
        options["lungs"] = lung_recipe.run
    recipe = recipes.make_recipe(study, run=model, **options)
    _train(recipe, slices, log)
    names = {*recipes.SWITCHES, "neighbours"} - {"selection"}
    switches = {name: getattr(recipe, name) for name in names}
    tested = [one for one in tested if switches == {name: getattr(one, name) for name in names}]
    chosen_by = _tests_of(study, tested) if tested else NOTHING
    folder = RunFolder.of(study, recipe.run)
    state = folder.read()
    if state.rules_chosen_by != chosen_by:
        rules = run_folder.default_rules(recipe)
        if tested:
            rules = prediction.best_rules(score_folds(slices, tested))
        folder.choose_rules(rules, chosen_by, state.weights)
    return models.load_run(study, recipe.run)


def _for_lungs(study: Study, options: dict) -> dict:
    """Return the options of a lung model, from those of the lesion model that uses it.

    Its seed is the study's: lesion models of several seeds share it.
    """
    settings = study.settings()
    epochs = options.get("epochs") or settings["epochs"]["dice"]
    filters = options.get("base_filters") or settings["base_filters"]
    halved = {"epochs": max(epochs // 2, 1), "base_filters": max(filters // 2, 1)}
    kept = ("split", "batch_size", "learning_rate", "precision", "depth")
    return {name: options[name] for name in kept if name in options} | halved | LUNG_RECIPE
