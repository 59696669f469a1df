"""A study is one folder. This module knows all paths in it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from covseg_lib import files
from covseg_lib.settings import Reading, merge_settings, plan_settings, reading_of

if TYPE_CHECKING:  # Matplotlib is slow to import
    from matplotlib.figure import Figure

LAYOUT = {  # name: (path below the study's folder, what makes it)
    "settings": ("study.json", "notebook 01"),
    "dataset": ("dataset", "notebook 01"),
    "images": ("processed_data/images.npy", "notebook 02"),
    "masks": ("processed_data/masks.npy", "notebook 02"),
    "lungs": ("processed_data/lungs.npy", "notebook 02 (if every case has a lung mask)"),
    "slices": ("processed_data/slices.csv", "notebook 02"),
    "preprocessing": ("processed_data/preprocessing.json", "notebook 02"),
    "sliced_data": ("sliced_data", "notebook 01"),
    "downloads": ("downloads", "notebook 01"),
    "cases": ("sliced_data/cases.csv", "notebook 01"),
    "sliced_case": ("sliced_data/{case}.npz", "notebook 01"),
    "models": ("models", "notebook 03, 04 or 05"),
    "run": ("models/{run}/run.json", "notebook 03, 04 or 05"),
    "history": ("models/{run}/history.csv", "notebook 03, 04 or 05"),
    "weights": ("models/{run}/best.weights.h5", "notebook 03, 04 or 05"),
    "backup": ("models/{run}/backup", "notebook 03, 04 or 05"),
    "tensorboard": ("models/{run}/tensorboard", "notebook 03, 04 or 05 with TENSORBOARD"),
    "predictions": ("predictions", "notebook 06"),
    "prediction": ("predictions/{run}.npy", "notebook 06"),
    "counts": ("predictions/{run}.csv", "notebook 06"),
    "predicted_lungs": ("predictions/{run}_lungs.npy", "notebook 08"),
    "nifti": ("predictions/nifti/{run}/{case}.nii.gz", "notebook 06"),
    "scores": ("scores/scores.csv", "notebook 06"),
    "table": ("scores/table_2_1.csv", "notebook 06"),
    "differences": ("scores/differences.csv", "notebook 06"),
    "cases_scores": ("scores/cases.csv", "notebook 06"),
    "report_numbers": ("scores/report_numbers.csv", "notebook 06"),
    "runs": ("scores/runs.csv", "notebook 07"),
    "new_patients": ("scores/new_patients.csv", "notebook 08"),
    "scans": ("scans", "notebook 09 with UPLOAD"),
    "segmented": ("segmented", "notebook 09"),
    "segmented_table": ("scores/segmented.csv", "notebook 09"),
    "figures": ("figures", "notebooks 00 to 08"),
    "figure": ("figures/{name}.png", "notebooks 00 to 08"),
    "notebooks": ("notebooks", "the command `covseg run`"),
    "executed": ("notebooks/{run}.ipynb", "the command `covseg sweep`"),
    "sweep_log": ("notebooks/sweep.log", "the command `covseg sweep`"),
    "report": ("report.html", "the command `covseg run`"),
}


class Study:
    """The folder of one study: paths and settings.

    Parameters
    ----------
    root : path
        The study's folder. It does not have to exist yet.

    Examples
    --------
    >>> Study("study").path("weights", run="dice").as_posix()
    'study/models/dice/best.weights.h5'
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def __repr__(self):
        return f"Study({str(self.root)!r})"

    def path(self, name: str, /, **parts: str) -> Path:
        """Return the path called `name` in `LAYOUT`; `parts` replace {run}, {case} and {name}."""
        return self.root / LAYOUT[name][0].format(**parts)

    def need(self, name: str, /, **parts: str) -> Path:
        """Return the same path if it exists.

        Raises FileNotFoundError, which names the notebook or command that makes it, if it does not.
        """
        path = self.path(name, **parts)
        if not path.exists():
            raise FileNotFoundError(f"no {path.name} in {path.parent}: run {LAYOUT[name][1]} first")
        return path

    @contextlib.contextmanager
    def locked(self, purpose: str) -> Iterator[None]:
        """Let only one program at a time change the study's slices.

        `purpose` tells a waiting program what this one does, for example "slicing". If the study
        is still empty afterwards, its folder is removed.
        """
        lock = self.root / ".study.lock"
        try:
            with files.locked(lock, f"{purpose} the study {self.root}"):
                yield
        finally:
            if self.root.is_dir() and list(self.root.iterdir()) == [lock]:
                lock.unlink()
                with contextlib.suppress(OSError):  # a mounted disk cannot be removed
                    self.root.rmdir()

    def dataset(self, settings: dict[str, Any] | None = None) -> Path:
        """Return the folder of the NIfTI volumes: the setting `dataset`, or the study's dataset/.

        Phantoms and downloads have folders of their own in the study's dataset/, so that they are
        not mixed with the user's volumes. `settings` replace those of study.json.
        """
        settings = settings or self.settings()
        if settings["source"] == "folder":
            return Path(settings["dataset"] or self.path("dataset"))
        return self.path("dataset") / settings["source"]

    def create(self, profile: str, why: str = "", **overrides: Any) -> None:
        """Write study.json.

        Parameters
        ----------
        profile : "demo" or "report"
        why : str
            The reason for this profile, stored for the reader.
        **overrides
            Settings that replace those of the profile if they are not None.

        Raises
        ------
        ValueError
            An unknown profile or setting.
        """
        settings = plan_settings(profile, **overrides)
        path = self.path("settings")
        with self.locked("creating"):
            files.remove_temporary_files(path.parent, path.name)
            files.write_json(path, {"profile": profile, "why": why, "settings": settings})

    def save_figure(self, name: str, figure: "Figure") -> "Figure":
        """Write figures/<name>.png, and return the figure, so that a notebook shows it."""
        return files.write_figure(self.path("figure", name=name), figure)

    def save_table(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """Write a table to the path called `name` in `LAYOUT`, and return it."""
        return files.write_csv(self.path(name), table)

    def settings(self, **overrides: Any) -> dict[str, Any]:
        """Return the settings of study.json, replaced by those `overrides` that are not None."""
        stored = files.read_json(self.need("settings"))
        return merge_settings(stored["settings"], overrides)

    def reading(self) -> Reading:
        """Return how the scans of this study are read."""
        return reading_of(self.settings())

    def listing(self, *names: str, **parts: str) -> pd.DataFrame:
        """Return a table of files and their sizes: columns file and MB.

        `names` and `parts` are those of `path`. A folder stands for all files in it, without those
        whose names begin with a dot.
        """
        rows = []
        for path in (self.path(name, **parts) for name in names):
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and not file.name.startswith("."):
                    megabytes = round(file.stat().st_size / 1e6, 3)
                    rows.append((file.relative_to(self.root).as_posix(), megabytes))
        return pd.DataFrame(rows, columns=["file", "MB"])
