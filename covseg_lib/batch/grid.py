"""The grid of a sweep: its runs, checked before anything starts."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from covseg_lib.batch import notebooks
from covseg_lib.parameters import notebook_kinds, read_parameters
from covseg_lib.study import Study
from covseg_lib.training import recipes
from covseg_lib.training.recipes import Recipe
from covseg_lib.training.run_folder import RunFolder

RECIPE_PARAMETERS = ["EPOCHS", "FOLD", "SPLIT", "BATCH_SIZE", "LEARNING_RATE", "BASE_FILTERS"]
RECIPE_PARAMETERS += ["PRECISION", "SEED", *map(str.upper, recipes.SWITCH_NAMES)]
OWN_PARAMETERS = {"STUDY", "RUN", "RESUME"}  # a sweep sets these itself


@dataclass(frozen=True)
class SweepJob:
    """One run of a sweep.

    notebook : the notebook that trains it
    parameters : {name: value} for the notebook
    recipe : the recipe that results from them
    out : the executed copy of the notebook
    """

    notebook: Path
    parameters: dict
    recipe: Recipe
    out: Path


def parse_vary(texts: Sequence[str]) -> dict[str, list[str]]:
    """Convert texts NAME=VALUE,VALUE of the command line to {name: texts of the values}.

    Raises ValueError for a text of another form, and for a name that is given twice.

    Examples
    --------
    >>> parse_vary(["EPOCHS=10,50", "SPLIT=slice"])
    {'EPOCHS': ['10', '50'], 'SPLIT': ['slice']}
    """
    wrong = [text for text in texts if not re.fullmatch(r"\w+=[^,=]+(,[^,=]+)*", text)]
    if wrong:
        raise ValueError(
            f"cannot read {wrong[0]!r}: expected NAME=VALUE,VALUE, for example EPOCHS=10,50,100"
        )
    pairs = [text.split("=") for text in texts]
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError(f"{' '.join(texts)}: give each parameter once, with all of its values")
    return {name: values.split(",") for name, values in pairs}


def plan_sweep(
    study: Study,
    numbers: Sequence[str],
    vary: dict[str, list],
    parameters: dict | None = None,
) -> list[SweepJob]:
    """Return the jobs of a sweep: every notebook with every combination of values.

    A run is named after its objective and what is varied, for example dice_epochs10_seed0.

    Parameters
    ----------
    study : Study
        A study with processed_data.
    numbers : sequence of str
        Notebooks that train, for example "03".
    vary : dict of lists
        {name: values} of the parameters to vary. A value may be text, as on the command line.
    parameters : dict, optional
        {name: value} of parameters that all runs have.

    Raises
    ------
    ValueError
        A notebook that does not train, an unknown parameter, an invalid value, two runs of one
        name, or an existing run of that name with another recipe.
    FileNotFoundError
        The study has no processed_data.
    """
    parameters = dict(parameters or {})
    _check_names(vary, parameters)
    if not numbers:
        raise ValueError("no notebook given: choose among 03, 04 and 05")
    combinations = [
        dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())
    ]
    jobs = []
    for path in notebooks.find_notebooks(numbers):
        kinds = notebook_kinds(path)
        _check_notebook(path, kinds, vary.keys() | parameters.keys())
        given = read_parameters(parameters, kinds)
        for combination in combinations:
            jobs.append(_plan_job(study, path, read_parameters(combination, kinds), given))
    names = [job.recipe.run for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{twice[0]} would be trained twice: give each notebook and each value once"
        )
    return jobs


def _check_names(vary, parameters):
    """Raise ValueError for a name that cannot be given, is given twice, or has no value."""
    own = sorted(OWN_PARAMETERS & (parameters.keys() | vary.keys()))
    if own:
        raise ValueError(
            f"{own[0]} cannot be given here: a sweep sets STUDY, RUN and RESUME itself"
        )
    both = sorted(parameters.keys() & vary.keys())
    if both:
        raise ValueError(f"{both[0]} is varied and set for all runs: give it only once")
    for name, values in vary.items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ValueError(f"{name} is {values!r}: expected a list of the values to vary")
        if not values:
            raise ValueError(f"{name} has no value to vary: give at least one")


def _check_notebook(path, kinds, names):
    """Raise ValueError if a notebook does not train, or lacks one of the parameters `names`."""
    if "RUN" not in kinds:
        raise ValueError(f"notebook {path.stem} does not train: choose among 03, 04 and 05")
    unknown = sorted(names - kinds.keys())
    if unknown:
        raise ValueError(
            f"no parameter {', '.join(unknown)} in {path.stem}: it has {', '.join(kinds)}"
        )


def _plan_job(study, path, varied, parameters):
    given = parameters | varied
    objective = given.get("OBJECTIVE", path.stem.rsplit("_", 1)[1])
    parts = [
        f"{name.lower()}{value}"
        for name, value in varied.items()
        if name not in ("FOLD", "OBJECTIVE")  # make_recipe adds the fold
    ]
    run = "_".join([objective, *parts])
    run = re.sub(r"[^\w.-]", "_", run.replace("+", ""))  # 1e+30 must differ from 1e-30
    options = {name.lower(): given[name] for name in RECIPE_PARAMETERS if name in given}
    recipe = recipes.make_recipe(study, objective, run, **options)
    RunFolder.of(study, recipe.run).is_finished(
        recipe
    )  # raises if the folder holds a run with another recipe
    given |= {"RUN": run, "STUDY": str(study.root.resolve())}
    return SweepJob(path, given, recipe, study.path("executed", run=recipe.run).resolve())
