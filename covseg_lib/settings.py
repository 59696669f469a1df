"""The settings of a study, and the profiles that set them all at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

LUNG_WINDOW_HU = (-1250, 250)  # the data's authors convert HU to 0..255 with this window
LESION_THRESHOLD = 0.5  # a pixel with at least this probability is predicted as lesion

INTENSITIES = ("auto", "hu", "grey")  # what the numbers of a CT volume are


@dataclass(frozen=True)
class Reading:
    """How scans and masks are read: parameters of notebook 01.

    window_hu : Hounsfield units that become black and white
    step : every `step`-th row and column is kept
    intensities : "auto", "hu" or "grey", see `intensities.intensity_unit`
    lesion_labels : the values of a mask that are lesion; empty: all above 0
    orientation : where the axes of files point, see `geometry.state_orientation`; "": as they say
    """

    window_hu: tuple[float, float] = LUNG_WINDOW_HU
    step: int = 1
    intensities: str = "auto"
    lesion_labels: tuple[int, ...] = ()
    orientation: str = ""

    def __post_init__(self):
        for name in ("window_hu", "step", "intensities", "lesion_labels", "orientation"):
            check_setting(name, getattr(self, name))


def reading_of(settings: dict[str, Any]) -> Reading:
    """Return how the scans of a study with these settings are read."""
    window, labels = tuple(settings["window_hu"]), tuple(settings["lesion_labels"])
    intensities, orientation = settings["intensities"], settings["orientation"]
    return Reading(window, settings["step"], intensities, labels, orientation)


PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
OBJECTIVE_NAMES = ("accuracy", "iou", "dice")

# The report's own sizes, split and epochs; `recipes.Recipe` has the reasons for the others.
REPORT_PROFILE: dict[str, Any] = {
    "source": "zenodo",
    "dataset": "",
    "cases": "report",
    "window_hu": LUNG_WINDOW_HU,
    "step": 2,
    "intensities": "auto",
    "lesion_labels": [],
    "orientation": "",
    "size": 256,
    "split": "slice",
    "folds": 5,
    "base_filters": 32,
    "depth": 4,
    "epochs": {"accuracy": 100, "iou": 100, "dice": 250},
    "batch_size": 8,
    "learning_rate": 2e-4,
    "precision": "auto",
    "seed": 0,
}
# Phantoms and a small network: the whole study takes a few minutes on two cores.
DEMO_PROFILE: dict[str, Any] = REPORT_PROFILE | {
    "source": "phantom",
    "cases": "all",
    "size": 64,
    "split": "patient",
    "base_filters": 12,
    "depth": 2,
    "epochs": {"accuracy": 10, "iou": 10, "dice": 10},
    "batch_size": 4,  # more steps in an epoch
    "learning_rate": 4e-3,  # a small network tolerates a larger one
    "precision": "float32",  # the same on every machine
}
PROFILES = {"demo": DEMO_PROFILE, "report": REPORT_PROFILE}


def plan_settings(profile: str, **overrides: Any) -> dict[str, Any]:
    """Return the settings that `Study.create` would write, with its parameters and errors.

    A relative path `dataset` starts at the working directory and becomes absolute.
    """
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}: choose one of {', '.join(PROFILES)}")
    settings = merge_settings(PROFILES[profile], overrides)
    if overrides.get("dataset"):
        settings["dataset"] = str(Path(overrides["dataset"]).expanduser().resolve())
    return settings


def merge_settings(settings: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return settings, replaced by those overrides that are not None or "default", and checked.

    Raises ValueError for an unknown setting or a wrong value, before anything is written.
    """
    unknown = sorted(set(overrides) - set(settings))
    if unknown:
        raise ValueError(f"no setting {', '.join(unknown)}: the settings are {', '.join(settings)}")
    given = {name: value for name, value in overrides.items() if value not in (None, "default")}
    return settings | {name: check_setting(name, value) for name, value in given.items()}


def check_setting(name: str, value: Any) -> Any:
    """Return the value of a setting, or raise ValueError that says what was expected.

    Numbers that are cases' names become text. Examples:

    >>> check_setting("cases", [1, "2"])
    ['1', '2']
    """
    if name == "cases" and isinstance(value, (list, tuple)):
        return [str(case) for case in value]
    if name in EXPECTED:
        expected, is_right = EXPECTED[name]
        if not is_right(value):
            raise ValueError(f"{name.upper()} is {value!r}: expected {expected}")
    return value


def _is_int(least):
    return lambda value: type(value) is int and value >= least


def _is_window(value):
    numbers = list(value) if isinstance(value, (list, tuple)) else []
    are_numbers = all(type(number) in (int, float) for number in numbers)
    return len(numbers) == 2 and are_numbers and numbers[0] < numbers[1]


def _are_labels(value):
    return isinstance(value, (list, tuple)) and all(_is_int(1)(label) for label in value)


def is_orientation(value: Any) -> bool:
    """Return whether a value is three letters, one for each axis of the body, as LPS; or empty."""
    axes = {"L": 0, "R": 0, "A": 1, "P": 1, "I": 2, "S": 2}
    return value == "" or sorted(axes.get(letter, -1) for letter in str(value)) == [0, 1, 2]


def _is_text(value):
    return isinstance(value, (str, Path))


EXPECTED: dict[str, tuple[str, Any]] = {
    "dataset": ("a folder as text (plain papermill: -r DATASET 2024_01)", _is_text),
    "cases": ('"report", "all" or a list of case names', _is_text),
    "window_hu": ("two numbers in HU, the lower one first, as (-1250, 250)", _is_window),
    "step": ("an integer, 1 or higher", _is_int(1)),
    "intensities": (f"one of {', '.join(INTENSITIES)}", INTENSITIES.__contains__),
    "lesion_labels": ("a list of whole numbers above 0, as [3]", _are_labels),
    "orientation": (
        "three letters that say where the axes of the files point: L or R, A or P, I or S, as LPS",
        is_orientation,
    ),
    "size": ("an integer, 16 or higher", _is_int(16)),
    "folds": ("an integer, 3 or higher: train, validation and test need one each", _is_int(3)),
    "seed": ("an integer, 0 or higher", _is_int(0)),
}
DEFAULT_READING = Reading()
