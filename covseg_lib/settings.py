"""The settings of a study, and the profiles that set them all at once."""

from pathlib import Path
from typing import Any

LUNG_WINDOW_HU = (-1250, 250)  # the data's authors convert HU to 0..255 with this window
LESION_THRESHOLD = 0.5  # a pixel with at least this probability is predicted as lesion

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
OBJECTIVE_NAMES = ("accuracy", "iou", "dice")

# The report's own sizes, split and epochs; `recipes.Recipe` has the reasons for the others.
REPORT_PROFILE: dict[str, Any] = {
    "source": "zenodo",
    "dataset": "",
    "cases": "report",
    "window_hu": LUNG_WINDOW_HU,
    "step": 2,
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
    if overrides.get("dataset"):
        overrides["dataset"] = str(Path(overrides["dataset"]).expanduser().resolve())
    return merge_settings(PROFILES[profile], overrides)


def merge_settings(settings: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return settings, replaced by those overrides that are not None; ValueError for others."""
    unknown = sorted(set(overrides) - set(settings))
    if unknown:
        raise ValueError(f"no setting {', '.join(unknown)}: the settings are {', '.join(settings)}")
    return settings | {name: value for name, value in overrides.items() if value is not None}
