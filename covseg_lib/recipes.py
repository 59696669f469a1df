"""The recipe of a run: all that decides how it comes out."""

import re
from dataclasses import asdict, dataclass

from covseg_lib import splits, storage
from covseg_lib.study import OBJECTIVE_NAMES, PRECISIONS


@dataclass(frozen=True)
class Recipe:
    """All that decides how a run comes out; recipe.json holds it beside the weights.

    The report names Adam and the epochs; batch size, learning rate and initialiser are ours. Tried on its 661 slices
    (128 px, 32 filters, slice split, mixed_bfloat16, Dice after so many epochs on validation slices):

    - He kernels, prior 1 %, batch 8, 1e-4, no clipping: BCE trains (0.70 after 5), soft Dice with 1 as smoothing
      falls to the empty mask in epoch 3 (seed 0); with 1e-7 as smoothing seeds 0, 1, 2 train, seed 3 falls in epoch 2.
    - The same, 3e-4: both train (0.76 and 0.67 after 5); batch 16: both train (0.73 and 0.72 after 5). Seed 0 only.
    - Gradient clipped to 0.1, 1e-4: seed 3 trains (0.54 after 3); to 1.0, hardly (0.20 after 3).
    - Gradient clipped to 0.1, 2e-4, batch 8, taken: all train; after 4 epochs seeds 0 to 4 have 0.65, 0.54, 0.73,
      0.81, 0.77 by BCE (the accuracy and the IoU model) and 0.75, 0.60, 0.50, 0.76, 0.74 by soft Dice.
    """

    run: str  # the run's folder
    model: str  # runs of one model differ in nothing but the fold, and are scored together
    objective: str
    split: str  # who is tested on: "slice" (the report's) or "patient", see `splits`
    fold: int  # of a patient split: the fold that is tested on
    epochs: int
    preprocessing: dict  # what processed_data was made with: preprocessing.json
    base_filters: int
    depth: int
    batch_size: int
    learning_rate: float
    precision: str  # see `hardware.precision`; timing.json says what "auto" came to
    seed: int
    clipnorm: float = 0.1  # a step's gradient, all weights together, is cut to this length
    lesion_prior: float = 0.01

    def __post_init__(self):
        if not re.fullmatch(r"\w[\w.-]*", self.run):
            raise ValueError(f"run {self.run!r} cannot be a folder's name: expected letters, digits, _ . and -")
        splits.check(self.split, self.fold, self.preprocessing.get("patient_folds", 1))
        for name in ("epochs", "base_filters", "depth", "batch_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}: expected a whole number from 1 on")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed is {self.seed!r}: expected a whole number from 0 on")
        if not isinstance(self.learning_rate, (int, float)) or not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate!r}: expected a number above 0")
        if self.precision not in PRECISIONS:
            raise ValueError(f"no precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}")


def make_recipe(study, objective, run="", epochs=None, fold=0, **overrides):
    """Return the recipe of a run: the study's settings, with those arguments that are not None put over them.

    `run` names the model: by default as the objective, and as the split where that is not the study's. The run's
    folder has that name, and the fold is added for all folds but the first: dice, dice_fold1. Raises ValueError for an
    unknown objective and for a value that cannot be.

    Returns
    -------
    Recipe
    """
    if objective not in OBJECTIVE_NAMES:
        raise ValueError(f"no objective {objective!r}: choose one of {', '.join(OBJECTIVE_NAMES)}")
    settings = study.settings(**overrides)
    names = ("split", "base_filters", "depth", "batch_size", "learning_rate", "precision", "seed")
    usual = settings["split"] == study.settings()["split"]
    model = str(run) or (objective if usual else f"{objective}_{settings['split']}")
    ending = f"_fold{fold}" if fold else ""
    model = model.removesuffix(ending)  # RUN = "dice_fold1" with FOLD = 1 is fold 1 of the model dice
    return Recipe(
        run=model + ending,
        model=model,
        objective=objective,
        fold=fold,
        epochs=settings["epochs"][objective] if epochs is None else epochs,
        preprocessing=storage.read_json(study.need("preprocessing")),
        **{name: settings[name] for name in names},
    )


def of_fields(fields):
    """Return the recipe that a recipe.json holds, as a dict; ValueError where it is none.

    Version 0.1 did not store the model's name: it is that of the run, without its fold.
    """
    try:
        ending = f"_fold{fields['fold']}" if fields["fold"] else ""
        return Recipe(**{"model": fields["run"].removesuffix(ending)} | fields)
    except (TypeError, KeyError) as error:
        raise ValueError(f"recipe.json is no recipe ({error}): copy the run again, or train it anew") from error


def differences(stored, recipe):
    """Return in words how a stored recipe differs from another one, epochs left out; "" if not at all."""
    before, now = (_flat(asdict(one) | {"epochs": None}) for one in (stored, recipe))
    names = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    return "; ".join(f"{name} {before.get(name)!r}, now {now.get(name)!r}" for name in names)


def is_finished(recipe, study):
    """Tell whether a run has all the epochs of its recipe; ValueError where it cannot come to have them."""
    files = {name: study.path(name, run=recipe.run) for name in ("recipe", "history", "timing", "backup")}
    if not files["recipe"].exists():
        return False
    done = len(storage.read_csv(files["history"])) if files["history"].exists() else 0
    finished = files["timing"].exists()
    wrong = differences(of_fields(storage.read_json(files["recipe"])), recipe)
    if not wrong and done > recipe.epochs:
        wrong = f"epochs {done}, now {recipe.epochs}"
    if not wrong and finished and done < recipe.epochs and not any(files["backup"].glob("*.npz")):
        wrong = f"epochs {done}, now {recipe.epochs}, and no {files['backup']} to go on from"
    if wrong:
        raise ValueError(
            f"run {recipe.run} in {files['recipe'].parent} was trained by another recipe: {wrong}. Train this one "
            f'beside it (RUN = "{recipe.run}_2"), or discard what is there (RESUME = False; a sweep: remove the folder)'
        )
    return finished and done == recipe.epochs


def _flat(fields):
    """Return {"a.b": value} of {"a": {"b": value}}."""
    nested = {name: value for name, value in fields.items() if isinstance(value, dict)}
    flat = {f"{name}.{inner}": value for name, fields in nested.items() for inner, value in fields.items()}
    return {name: value for name, value in fields.items() if name not in nested} | flat
