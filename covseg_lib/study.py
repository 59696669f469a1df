"""One study is one folder. This module knows every path in it and the settings it was made with."""

import contextlib
from pathlib import Path

import pandas as pd

from covseg_lib import storage

LAYOUT = {  # name: (path below the study's folder, what makes it)
    "settings": ("study.json", "notebook 01"),
    "dataset": ("dataset", "notebook 01"),
    "images": ("processed_data/images.npy", "notebook 02"),
    "masks": ("processed_data/masks.npy", "notebook 02"),
    "lungs": ("processed_data/lungs.npy", "notebook 02, where every case has a lung mask"),
    "slices": ("processed_data/slices.csv", "notebook 02"),
    "preprocessing": ("processed_data/preprocessing.json", "notebook 02"),
    "sliced_data": ("sliced_data", "notebook 01"),
    "downloads": ("downloads", "notebook 01"),
    "cases": ("sliced_data/cases.csv", "notebook 01"),
    "sliced_case": ("sliced_data/{case}.npz", "notebook 01"),
    "models": ("models", "notebook 03, 04 or 05"),
    "recipe": ("models/{run}/recipe.json", "notebook 03, 04 or 05"),
    "history": ("models/{run}/history.csv", "notebook 03, 04 or 05"),
    "timing": ("models/{run}/timing.json", "notebook 03, 04 or 05"),
    "weights": ("models/{run}/best.weights.h5", "notebook 03, 04 or 05"),
    "backup": ("models/{run}/backup", "notebook 03, 04 or 05"),
    "tensorboard": ("models/{run}/tensorboard", "notebook 03, 04 or 05 with TENSORBOARD"),
    "predictions": ("predictions", "notebook 06"),
    "prediction": ("predictions/{run}.npy", "notebook 06"),
    "counts": ("predictions/{run}.csv", "notebook 06"),
    "nifti": ("predictions/nifti/{run}/{case}.nii.gz", "notebook 06"),
    "scores": ("scores/scores.csv", "notebook 06"),
    "table": ("scores/table_2_1.csv", "notebook 06"),
    "differences": ("scores/differences.csv", "notebook 06"),
    "cases_scores": ("scores/cases.csv", "notebook 06"),
    "report_numbers": ("scores/report_numbers.csv", "notebook 06"),
    "runs": ("scores/runs.csv", "notebook 07"),
    "figures": ("figures", "notebooks 00 to 07"),
    "figure": ("figures/{name}.png", "notebooks 00 to 07"),
    "notebooks": ("notebooks", "the command `covseg run`"),
    "executed": ("notebooks/{run}.ipynb", "the command `covseg sweep`"),
    "sweep_log": ("notebooks/sweep.log", "the command `covseg sweep`"),
    "report": ("report.html", "the command `covseg run`"),
}

LUNG_WINDOW_HU = (-1250, 250)  # the window with which the data's authors bring HU to 0..255

LESION_FROM = 0.5  # probability from which a pixel counts as lesion

DOWNLOADS = ("zenodo", "medseg")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
OBJECTIVE_NAMES = ("accuracy", "iou", "dice")

REPORT = {  # the report's own sizes, split and epochs; `recipes.Recipe` says why the others are as they are
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
DEMO = REPORT | {  # phantoms and a small network: the whole study in a few minutes on two cores
    "source": "phantom",
    "cases": "all",
    "size": 64,
    "split": "patient",
    "base_filters": 12,
    "depth": 2,
    "epochs": {"accuracy": 10, "iou": 10, "dice": 10},
    "batch_size": 4,  # more steps in an epoch
    "learning_rate": 4e-3,  # a small network bears more
    "precision": "float32",  # the same on every machine
}
PROFILES = {"demo": DEMO, "report": REPORT}


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

    def path(self, name, /, **parts):
        """Return the path called `name` in `LAYOUT`, its {parts} filled in."""
        return self.root / LAYOUT[name][0].format(**parts)

    def need(self, name, /, **parts):
        """Return the same path, or raise FileNotFoundError naming the notebook or command that makes it."""
        path = self.path(name, **parts)
        if not path.exists():
            raise FileNotFoundError(f"no {path.name} in {path.parent}: run {LAYOUT[name][1]} first")
        return path

    @contextlib.contextmanager
    def locked(self, purpose):
        """Let one program at a time make the study's slices; a study that stays empty is removed again."""
        lock = self.root / ".study.lock"
        try:
            with storage.locked(lock, f"{purpose} the study {self.root}"):
                yield
        finally:
            if self.root.is_dir() and list(self.root.iterdir()) == [lock]:
                lock.unlink()
                with contextlib.suppress(OSError):  # a disk of its own stays
                    self.root.rmdir()

    def dataset(self, settings=None):
        """Return the folder of the NIfTI volumes: the setting `dataset`, or the study's own dataset/.

        What is drawn or downloaded has a folder of its own in dataset/, or it would be mixed with the user's volumes.
        """
        settings = settings or self.settings()
        if settings["source"] in (*DOWNLOADS, "phantom"):
            return self.path("dataset") / settings["source"]
        return Path(settings["dataset"] or self.path("dataset"))

    def create(self, profile, why="", **overrides):
        """Write study.json: the profile's settings, with those of `overrides` that are not None put over them.

        Raises ValueError for a profile or setting that does not exist.
        """
        settings = plan(profile, **overrides)
        storage.write_json(self.path("settings"), {"profile": profile, "why": why, "settings": settings})

    def settings(self, **overrides):
        """Return the settings of study.json, with those of `overrides` that are not None put over them."""
        stored = storage.read_json(self.need("settings"))
        return _merge(stored["settings"], overrides)

    def listing(self, *names, **parts):
        """Return a table of files and their sizes in MB; a folder stands for all files in it.

        A name is one of `LAYOUT`, its {parts} given for all. Files whose names begin with a dot are left out.
        """
        paths = [self.path(name, **parts) for name in names]
        files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        sizes = [(file, file.stat().st_size / 1e6) for file in files if file.is_file() and file.name[0] != "."]
        rows = [(file.relative_to(self.root).as_posix(), round(size, 3)) for file, size in sizes]
        return pd.DataFrame(rows, columns=["file", "MB"])

    def runs(self):
        """Return the names of the finished runs in models/ that were trained on processed_data as it is now.

        In the report's order (accuracy, IoU, Dice), then by name. Raises FileNotFoundError where there is none.
        """
        fitting = list(self.recipes())
        if not fitting:
            raise FileNotFoundError(
                f"no finished run of these slices in {self.path('models')}: run {LAYOUT['models'][1]} first"
            )
        return fitting

    def recipes(self):
        """Return {run: its recipe.json as a dict} of the runs that `runs` names, in the same order."""
        made_with = storage.read_json(self.need("preprocessing"))
        recipes = {name: storage.read_json(self.need("recipe", run=name)) for name in self._finished()}
        fitting = [name for name, recipe in recipes.items() if recipe["preprocessing"] == made_with]
        fitting.sort(key=lambda name: (OBJECTIVE_NAMES.index(recipes[name]["objective"]), name))
        return {name: recipes[name] for name in fitting}

    def stale_runs(self):
        """Return the names of the finished runs that were trained on another processed_data."""
        return sorted(set(self._finished()) - set(self.recipes()))

    def _finished(self):
        return [path.parent.name for path in self.path("models").glob("*/timing.json")]


def plan(profile, **overrides):
    """Return the settings that `Study.create` would write; a relative `dataset` is one of the working folder."""
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}: choose one of {', '.join(PROFILES)}")
    if overrides.get("dataset"):
        overrides["dataset"] = str(Path(overrides["dataset"]).expanduser().resolve())
    return _merge(PROFILES[profile], overrides)


def _merge(settings, overrides):
    unknown = sorted(set(overrides) - set(settings))
    if unknown:
        raise ValueError(f"no setting {', '.join(unknown)}: the settings are {', '.join(settings)}")
    return settings | {name: value for name, value in overrides.items() if value is not None}
