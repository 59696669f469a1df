"""The same notebooks with other parameters: which runs a grid of values stands for, and how long they would take."""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from covseg_lib import recipes, runner, runs
from covseg_lib.recipes import Recipe

OF_RECIPE = ("EPOCHS", "FOLD", "SPLIT", "BATCH_SIZE", "LEARNING_RATE", "BASE_FILTERS", "PRECISION", "SEED")


@dataclass(frozen=True)
class Job:
    """One run of a sweep: the notebook, its parameters, the recipe that these make, and the executed copy."""

    notebook: Path
    parameters: dict
    recipe: Recipe
    out: Path


def parse_vary(texts):
    """Return {name: values} of texts as a shell gives them; ValueError where one is not NAME=VALUE,VALUE.

    >>> parse_vary(["EPOCHS=10,50", "SPLIT=slice"])
    {'EPOCHS': [10, 50], 'SPLIT': ['slice']}
    """
    wrong = [text for text in texts if not re.fullmatch(r"\w+=[^,=]+(,[^,=]+)*", text)]
    if wrong:
        raise ValueError(f"cannot read {wrong[0]!r}: expected NAME=VALUE,VALUE, as EPOCHS=10,50,100")
    pairs = [text.split("=") for text in texts]
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{' '.join(texts)}: give each parameter once, with all of its values")
    return {name: [runner.parse_value(value) for value in values.split(",")] for name, values in pairs}


def read_file(path):
    """Return notebooks, what is varied and the other parameters of a YAML file; ValueError where it says other things.

    Returns
    -------
    list of str, dict of lists, dict
    """
    try:
        said = yaml.safe_load(Path(path).read_text()) or {}
        unknown = set(said) - {"notebooks", "vary", "parameters"}
        numbers = _listed(said.get("notebooks", []))
        numbers = [f"{number:02d}" if isinstance(number, int) else number for number in numbers]
        vary = {str(name): _listed(values) for name, values in said.get("vary", {}).items()}
        parameters = {str(name): _value(value) for name, value in said.get("parameters", {}).items()}
    except (yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no file of a sweep ({error}): docs/sweeps.md shows one") from error
    if unknown:
        raise ValueError(f"{path} says {', '.join(map(str, unknown))}: expected notebooks, vary, parameters")
    return numbers, vary, parameters


def _listed(values):
    return [_value(value) for value in (values if isinstance(values, list) else [values])]


def _value(value):
    """Return a value of a YAML file, which takes 1e-4 for text, as the command line reads it."""
    return runner.parse_value(value) if isinstance(value, str) else value


def plan(study, numbers, vary, parameters=None):
    """Return the jobs of a sweep: every notebook with every combination of values.

    A run is called as its objective and what is varied: dice_epochs10_seed0.

    Parameters
    ----------
    study : Study
        With processed_data in it.
    numbers : sequence of str
        Notebooks that train, as "03".
    vary : dict of lists
        Values by parameter.
    parameters : dict, optional
        Parameters that all runs have.

    Returns
    -------
    list of Job

    Raises
    ------
    ValueError
        A notebook that does not train, a parameter that it has not, a value that cannot be, two runs of one name, or
        a run of that name by another recipe. Nothing has run then.
    FileNotFoundError
        No processed_data.
    """
    parameters = dict(parameters or {})
    taken = sorted({"STUDY", "RUN", "RESUME"} & (parameters.keys() | vary.keys()) | parameters.keys() & vary.keys())
    if taken:
        raise ValueError(
            f"{taken[0]} cannot be given here: a sweep names and resumes its runs itself, and sets each parameter once"
        )
    empty = [name for name, values in vary.items() if not values]
    if empty:
        raise ValueError(f"{empty[0]} has no value to vary: give one at least")
    if not numbers:
        raise ValueError("no notebook is named: give those that train, as 03")
    combinations = [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]
    paths = runner.notebooks(numbers)
    jobs = [_job(study, path, varied, parameters) for path in paths for varied in combinations]
    names = [job.recipe.run for job in jobs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{twice[0]} would be trained twice: give each notebook and each value once")
    return jobs


def _job(study, path, varied, parameters):
    known = runner.parameters_of(path)
    if "RUN" not in known:
        raise ValueError(f"notebook {path.stem} trains no run: choose among 03, 04 and 05")
    unknown = sorted((varied.keys() | parameters.keys()) - set(known))
    if unknown:
        raise ValueError(f"no parameter {', '.join(unknown)} in {path.stem}: it has {', '.join(known)}")
    given = parameters | varied
    objective = given.get("OBJECTIVE", path.stem.rsplit("_", 1)[1])
    in_name = {name: value for name, value in varied.items() if name not in ("FOLD", "OBJECTIVE")}  # FOLD is added
    name = "_".join([objective, *(f"{name.lower()}{value}" for name, value in in_name.items())])
    name = re.sub(r"[^\w.-]", "_", name.replace("+", ""))  # 1e+30 is not 1e-30
    options = {name.lower(): given[name] for name in OF_RECIPE if name in given}
    recipe = recipes.make_recipe(study, objective, name, **options)
    recipes.is_finished(recipe, study)  # refuses a folder with another recipe's run
    given |= {"RUN": name, "STUDY": str(study.root.resolve())}
    return Job(path, given, recipe, study.path("executed", run=recipe.run).resolve())


def seconds(study, jobs):
    """Return how long each job's training would take, as runs of the same network here did; NaN where none was.

    The start of a notebook, ten seconds or so, is not in it.
    """
    network = ["base_filters", "depth", "precision"]
    past = runs.listing(study)
    times = past[past["state"] == "finished"].groupby(network)["epoch_s"].median()
    of_jobs = [tuple(getattr(job.recipe, name) for name in network) for job in jobs]
    return [float(job.recipe.epochs * times.get(key, float("nan"))) for job, key in zip(jobs, of_jobs, strict=True)]
