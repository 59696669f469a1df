"""One study is one folder. This module knows every path in it and the settings it was made with."""

from pathlib import Path

from covseg_lib import storage

LAYOUT = {  # name: (path below the study's folder, the notebook that makes it)
    "settings": ("study.json", "01"),
    "dataset": ("dataset", "01"),
    "images": ("processed_data/images.npy", "02"),
    "masks": ("processed_data/masks.npy", "02"),
    "slices": ("processed_data/slices.csv", "02"),
    "preprocessing": ("processed_data/preprocessing.json", "02"),
    "sliced_data": ("sliced_data", "01"),
    "sliced_case": ("sliced_data/{case}.npz", "01"),
    "models": ("models", "03, 04 or 05"),
    "recipe": ("models/{run}/recipe.json", "03, 04 or 05"),
    "history": ("models/{run}/history.csv", "03, 04 or 05"),
    "timing": ("models/{run}/timing.json", "03, 04 or 05"),
    "weights": ("models/{run}/best.weights.h5", "03, 04 or 05"),
    "prediction": ("predictions/{run}.npy", "06"),
    "seen": ("predictions/{run}_seen.npy", "06"),
    "nifti": ("predictions/nifti/{run}/{case}.nii.gz", "06"),
    "scores": ("scores/scores.csv", "06"),
    "table": ("scores/table_2_1.csv", "06"),
    "figure": ("figures/{name}.png", "01 to 06"),
    "notebooks": ("notebooks", "the command `covseg run`"),
    "report": ("report.html", "the command `covseg run`"),
}

LUNG_WINDOW_HU = (-1250, 250)  # the window with which the data's authors bring HU to 0..255

PROFILES = {
    "demo": {  # phantom volumes; the whole study in two minutes on a laptop
        "source": "phantom",
        "window_hu": LUNG_WINDOW_HU,
        "step": 2,
        "size": 64,
        "split": "patient",
        "base_filters": 8,
        "depth": 4,
        "epochs": {"accuracy": 25, "iou": 25, "dice": 25},
        "batch_size": 8,
        "learning_rate": 1e-3,
        "precision": "float32",
        "seed": 0,
    },
    "report": {  # the report's own sizes, split and epochs
        "source": "folder",
        "window_hu": LUNG_WINDOW_HU,
        "step": 2,
        "size": 256,
        "split": "slice",
        "base_filters": 32,
        "depth": 4,
        "epochs": {"accuracy": 100, "iou": 100, "dice": 250},
        "batch_size": 8,
        "learning_rate": 1e-4,
        "precision": "float32",
        "seed": 0,
    },
}


class Study:
    """The folder of one study: paths and settings.

    Parameters
    ----------
    root : path
        The study's folder. It need not exist yet.

    Examples
    --------
    >>> Study("study").path("weights", run="dice").as_posix()
    'study/models/dice/best.weights.h5'
    """

    def __init__(self, root):
        self.root = Path(root)

    def __repr__(self):
        return f"Study({str(self.root)!r})"

    def path(self, name, **parts):
        """Return the path called `name` in `LAYOUT`, its {parts} filled in."""
        return self.root / LAYOUT[name][0].format(**parts)

    def need(self, name, **parts):
        """Return the same path, or raise FileNotFoundError naming the notebook that makes it."""
        path = self.path(name, **parts)
        if not path.exists():
            raise FileNotFoundError(f"no {path.name} in {path.parent}: run notebook {LAYOUT[name][1]} first")
        return path

    def create(self, profile, why="", **overrides):
        """Write study.json: the profile's settings, with those of `overrides` that are not None put over them.

        Returns the settings. Raises ValueError for a profile or setting that does not exist.
        """
        if profile not in PROFILES:
            raise ValueError(f"no profile {profile!r}: choose one of {', '.join(PROFILES)}")
        settings = _merge(PROFILES[profile], overrides)
        storage.write_json(self.path("settings"), {"profile": profile, "why": why, "settings": settings})
        return self.settings()

    def settings(self, **overrides):
        """Return the settings of study.json, with those of `overrides` that are not None put over them."""
        stored = storage.read_json(self.need("settings"))
        return _merge(stored["settings"], overrides)

    def runs(self):
        """Return the names of the finished runs in models/, sorted."""
        return sorted(path.parent.name for path in self.path("models").glob("*/timing.json"))


def _merge(settings, overrides):
    unknown = sorted(set(overrides) - set(settings))
    if unknown:
        raise ValueError(f"no setting {', '.join(unknown)}: the settings are {', '.join(settings)}")
    return settings | {name: value for name, value in overrides.items() if value is not None}
