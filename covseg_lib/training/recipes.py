"""The recipe of a run: everything that decides its result."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass

from covseg_lib import files
from covseg_lib.data import splits
from covseg_lib.data.slices import Slices
from covseg_lib.settings import OBJECTIVE_NAMES, PRECISIONS
from covseg_lib.study import Study

# What makes a model find lesions in new patients (notebook 08); the report's choice comes first.
SWITCHES: dict[str, tuple] = {
    "target": ("lesions", "lungs"),
    "normalisation": ("dataset", "volume", "landmarks"),
    "norm_layer": ("none", "instance", "group"),
    "augmentation": (False, True),
    "loss": ("objective", "bce_dice"),
    "optimizer": ("adam", "adamw"),
    "sampling": ("all", "balanced"),
    "selection": ("validation", "none"),
}
LUNG_PRIOR = 0.2  # the share of lung pixels in a slice, roughly
SWITCH_NAMES = (*SWITCHES, "neighbours", "lungs", "start_from")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result of a run; stored in run.json beside the weights.

    The report names Adam and the epochs. Batch size, learning rate and initialiser are ours, from
    trials on its 661 slices (128 px, 32 filters, slice split, mixed_bfloat16; Dice on validation
    slices after some epochs):

    - He kernels, prior 1 %, batch 8, 1e-4, no clipping: BCE trains (0.70 after 5). Soft Dice with
      a smoothing of 1 collapses to the empty mask in epoch 3 (seed 0); with 1e-7 seeds 0, 1, 2
      train, and seed 3 collapses in epoch 2.
    - The same with 3e-4: both train (0.76 and 0.67 after 5); with batch 16: both train (0.73 and
      0.72 after 5). Seed 0 only.
    - Gradient clipped to 0.1, 1e-4: seed 3 trains (0.54 after 3); clipped to 1.0, hardly (0.20).
    - Gradient clipped to 0.1, 2e-4, batch 8 (chosen): all train. After 4 epochs seeds 0 to 4 have
      0.65, 0.54, 0.73, 0.81, 0.77 with BCE and 0.75, 0.60, 0.50, 0.76, 0.74 with soft Dice.
    """

    run: str  # name of the run's folder
    model: str  # the runs of a model differ only in the fold, and are scored together
    objective: str
    split: str  # "slice" (the report's), "patient" or others, see `splits.subsets`
    fold: int  # of a patient split: the fold that is tested on
    epochs: int
    preprocessing: dict  # how processed_data was made: preprocessing.json
    base_filters: int
    depth: int
    batch_size: int
    learning_rate: float
    precision: str  # see `devices.dtype_policy`; run.json has the policy that was used
    seed: int
    clipnorm: float = 0.1  # the gradient of all weights together is clipped to this length
    lesion_prior: float = 0.01
    target: str = "lesions"  # what the masks show: "lesions" or "lungs"
    normalisation: str = "dataset"  # see `resizing.normalising_scales`
    norm_layer: str = "none"  # see `unet.build_unet`
    augmentation: bool = False  # see `augmentation.Augmentation`
    loss: str = "objective"  # the objective's own, or "bce_dice"
    optimizer: str = "adam"  # "adamw": weight decay, and `callbacks.one_cycle`
    sampling: str = "all"  # "balanced": see `batches.balanced_rows`
    neighbours: int = 0  # slices below, and above, that become channels
    lungs: str = "none"  # the lung mask as a channel: "given", or the name of a lung model
    start_from: str = ""  # a run's folder, or "shipped": its weights are the first ones
    selection: str = "validation"  # "none": validation slices are trained on, the last epoch kept

    @property
    def channels(self) -> int:
        """Number of channels of the network's input."""
        return 1 + 2 * self.neighbours + (self.lungs != "none")

    def __post_init__(self):
        for name, choices in SWITCHES.items():
            if getattr(self, name) not in choices:
                expected = ", ".join(map(repr, choices))
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected {expected}")
        if type(self.neighbours) is not int or self.neighbours < 0:
            raise ValueError(f"neighbours is {self.neighbours!r}: expected an integer, 0 or higher")
        if not re.fullmatch(r"\w[\w.-]*", self.run):
            raise ValueError(
                f"run {self.run!r} is not a folder name: expected letters, digits, _ . and -"
            )
        splits.check_fold(self.split, self.fold, self.preprocessing.get("patient_folds", 1))
        for name in ("epochs", "base_filters", "depth", "batch_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}: expected a positive integer")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed is {self.seed!r}: expected an integer, 0 or higher")
        if not isinstance(self.learning_rate, (int, float)) or not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate!r}: expected a number above 0")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"no precision {self.precision!r}: choose one of {', '.join(PRECISIONS)}"
            )


def make_recipe(
    study: Study,
    objective: str,
    run: str = "",
    epochs: int | None = None,
    fold: int = 0,
    **overrides,
) -> Recipe:
    """Return the recipe of a run: the study's settings, with overrides that are not None.

    Parameters
    ----------
    study : Study
        With processed_data in it.
    objective : "accuracy", "iou" or "dice"
    run : str
        The name of the model. Default: the objective, with the split if it is not the study's. The
        run's folder is named after the model, with the fold except for the first: dice, dice_fold1.
    epochs : int, optional
    fold : int
    overrides
        Other settings: split, base_filters, depth, batch_size, learning_rate, precision, seed; and
        the fields of `Recipe` from `target` on.

    Raises
    ------
    ValueError
        An unknown objective or setting, or an impossible value.
    """
    if objective not in OBJECTIVE_NAMES:
        raise ValueError(f"no objective {objective!r}: choose one of {', '.join(OBJECTIVE_NAMES)}")
    switches = {name: overrides.pop(name) for name in SWITCH_NAMES if name in overrides}
    settings = study.settings(**overrides)
    names = ("split", "base_filters", "depth", "batch_size", "learning_rate", "precision", "seed")
    default_split = settings["split"] == study.settings()["split"]
    model = str(run) or (objective if default_split else f"{objective}_{settings['split']}")
    model = model.removesuffix(run_name("", fold))  # "dice_fold1", fold 1: a fold of the model dice
    if switches.get("target") == "lungs":
        switches |= {"lesion_prior": LUNG_PRIOR}
    return Recipe(
        run=run_name(model, fold),
        model=model,
        objective=objective,
        fold=fold,
        epochs=settings["epochs"][objective] if epochs is None else epochs,
        preprocessing=files.read_json(study.need("preprocessing")),
        **{name: settings[name] for name in names},
        **{name: value for name, value in switches.items() if value is not None},
    )


def run_name(model: str, fold: int) -> str:
    """Return the name of the run of a model for a fold: dice, dice_fold1, dice_fold2."""
    return f"{model}_fold{fold}" if fold else model


def changed_fields(stored: Recipe, recipe: Recipe) -> str:
    """Return which fields differ in a stored recipe and another one, without epochs; "" if none."""
    before, now = (_flat(asdict(one) | {"epochs": None}) for one in (stored, recipe))
    names = sorted(before.keys() | now.keys())
    changed = [name for name in names if before.get(name) != now.get(name)]
    return "; ".join(f"{name} {before.get(name)!r}, now {now.get(name)!r}" for name in changed)


def _flat(fields):
    """Return {"a.b": value} for {"a": {"b": value}}."""
    flat = {}
    for name, value in fields.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{name}.{key}".rstrip("."): item for key, item in inner}
    return flat


def check_lesions(slices: Slices, recipe: Recipe, log: Callable[[str], None] = print) -> None:
    """Raise ValueError if no training slice has a lesion; warn if no validation slice has one."""
    lesions = slices.table["lesion_pixels"].to_numpy()
    for subset in ("train", "validation"):
        rows = slices.rows(subset, split=recipe.split, fold=recipe.fold)
        if lesions[rows].any():
            continue
        if subset == "train":
            raise ValueError(
                f"no training slice of the {recipe.split} split, fold {recipe.fold}, has a lesion: "
                "there is nothing to learn. Choose another SPLIT or FOLD, or another SEED in "
                "notebook 02"
            )
        log(
            "WARNING: no validation slice has a lesion, so the best epoch means little: choose "
            "another SEED in notebook 02"
        )
