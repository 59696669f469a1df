"""Which runs are compared, and as which models: the folds of a model, each a run, are scored together."""

from dataclasses import asdict

from covseg_lib import recipes


def predicted_runs(study):
    """Return the names of the runs that notebook 06 has predicted, in the order of `Study.runs`."""
    return [run for run in study.recipes() if study.path("counts", run=run).exists()]


def compared(study):
    """Return the predicted runs of those folds that all models of a split have: all are scored on the same slices.

    Runs that differ in nothing but the fold are one model.

    Returns
    -------
    dict, {run: its recipe, as a dict}, in the order of `Study.runs`

    Raises
    ------
    FileNotFoundError
        No run is predicted.
    ValueError
        The models of a split have no fold in common, a fold of a model was trained twice, or folds of one model were
        trained by different recipes.
    """
    predicted = {run: fields for run, fields in study.recipes().items() if study.path("counts", run=run).exists()}
    found = {run: asdict(recipes.of_fields(fields)) for run, fields in predicted.items()}
    if not found:
        raise FileNotFoundError(f"no predictions in {study.path('predictions')}: run notebook 06 first")
    common = {split: _common_folds(found, split) for split in {recipe["split"] for recipe in found.values()}}
    return {run: recipe for run, recipe in found.items() if recipe["fold"] in common[recipe["split"]]}


def _common_folds(found, split):
    """Return the folds that all models of a split have."""
    folds, but_fold = {}, {}
    for run, recipe in found.items():
        if recipe["split"] == split:
            of_model = folds.setdefault(recipe["model"], {})
            other = of_model.setdefault(recipe["fold"], run)
            if other != run:
                raise ValueError(
                    f"{other} and {run} are both fold {recipe['fold']} of the model {recipe['model']}: its test slices "
                    "would count twice; remove one of the two folders from models/"
                )
            alike = recipe | {"run": "", "fold": 0}
            if but_fold.setdefault(recipe["model"], alike) != alike:
                raise ValueError(f"{run} was trained by another recipe than the other folds of it: train all alike")
    common = set.intersection(*map(set, folds.values()))
    if not common:
        said = "; ".join(f"{model} {sorted(its)}" for model, its in folds.items())
        raise ValueError(
            f"no fold that all models were tested on (folds of {said}): train them on one FOLD, compare again"
        )
    return common
