"""Which runs are compared, and as which models: the folds of a model, each a run, are scored together."""

from covseg_lib import storage


def predicted_runs(study):
    """Return the names of the runs that notebook 06 has predicted, in the order of `Study.runs`."""
    return [run for run in study.runs() if study.path("counts", run=run).exists()]


def compared(study):
    """Return the predicted runs of those folds that all models of a split have: all are scored on the same slices.

    Runs that differ in nothing but the fold are one model.

    Returns
    -------
    dict, {run: its recipe, and under "model" what it is scored as}, in the order of `Study.runs`

    Raises
    ------
    FileNotFoundError
        No run is predicted.
    ValueError
        The models of a split have no fold in common, or folds of one model were trained by different recipes.
    """
    recipes = {run: storage.read_json(study.need("recipe", run=run)) for run in predicted_runs(study)}
    if not recipes:
        raise FileNotFoundError(f"no predictions in {study.path('predictions')}: run notebook 06 first")
    recipes = {run: recipe | {"model": model_of(run, recipe)} for run, recipe in recipes.items()}
    common = {split: _common_folds(recipes, split) for split in {recipe["split"] for recipe in recipes.values()}}
    return {run: recipe for run, recipe in recipes.items() if recipe["fold"] in common[recipe["split"]]}


def model_of(run, recipe):
    """Return the name under which the folds of a model are scored together.

    >>> model_of("dice_patient_fold2", {"fold": 2})
    'dice_patient'
    """
    return run.removesuffix(f"_fold{recipe['fold']}")


def _common_folds(recipes, split):
    """Return the folds that all models of a split have."""
    folds, but_fold = {}, {}
    for run, recipe in recipes.items():
        if recipe["split"] == split:
            folds.setdefault(recipe["model"], set()).add(recipe["fold"])
            alike = recipe | {"run": "", "fold": 0}
            if but_fold.setdefault(recipe["model"], alike) != alike:
                raise ValueError(f"{run} was trained by another recipe than the other folds of it: train all alike")
    common = set.intersection(*folds.values())
    if not common:
        said = "; ".join(f"{model} {sorted(its)}" for model, its in folds.items())
        raise ValueError(
            f"no fold that all models were tested on (folds of {said}): train them on one FOLD, compare again"
        )
    return common
