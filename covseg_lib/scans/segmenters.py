"""Models that segment scans: one trained run or several, each with its lung model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from covseg_lib.training import models, run_folder
from covseg_lib.training.models import Run
from covseg_lib.training.recipes import run_name
from covseg_lib.training.run_folder import Postprocessing

SHIPPED_LUNGS = run_folder.SHIPPED.with_name("final_lungs")


@dataclass(frozen=True)
class Segmenter:
    """One or several runs whose probabilities are averaged, and the lung model of each.

    runs : the runs, trained on slices of the same size
    lung_runs : a lung model for each run; it is not used for a scan that has a lung mask
    rules : how the averaged probabilities become a mask
    """

    runs: tuple[Run, ...]
    lung_runs: tuple[Run, ...]
    rules: Postprocessing

    @property
    def name(self) -> str:
        """The names of the runs, for the headers of masks."""
        names = [run.recipe.run for run in self.runs]
        return f"run {names[0]}" if len(names) == 1 else f"runs {', '.join(names)}"

    @property
    def checksum(self) -> str:
        """A checksum of all weights and rules: other ones make other masks."""
        runs = [run.state.checksum for run in (*self.runs, *self.lung_runs)]
        text = json.dumps([runs, asdict(self.rules)])
        return hashlib.sha256(text.encode()).hexdigest()


def read_segmenter(
    folders: Sequence[Path] = (),
    threshold: float | None = None,
    smallest_ml: float | None = None,
    mirror: bool | None = None,
) -> Segmenter:
    """Read one run, or an ensemble of several.

    Parameters
    ----------
    folders : sequence of path
        Folders of finished runs, as study/models/dice, or "shipped". Default: "shipped", the model
        that comes with covseg.
        A run that has lungs as a channel uses its own lung model, from the folder beside it;
        others use the lung model that ships.
    threshold, smallest_ml, mirror : optional
        Replace what was chosen for the runs, see `run_folder.Postprocessing`. Default: the mean
        threshold and smallest lesion of the runs, and mirror averaging where a run has it.

    Raises
    ------
    FileNotFoundError
        A run, or its lung model, is missing.
    ValueError
        A run is damaged, is a lung model, is given twice, or differs from the others in the size of
        its slices; or a number is out of its range.
    """
    folders = [run_folder.locate(folder) for folder in folders or [run_folder.SHIPPED]]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is given twice: expected different runs")
    runs = [models.read_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        if run.recipe.target == "lungs":
            raise ValueError(f"{folder} is a lung model: expected a run that segments lesions")
        if _slices(run) != _slices(runs[0]):
            raise ValueError(
                f"{folders[0]} and {folder} were trained on slices of {_slices(runs[0])} and "
                f"{_slices(run)}: an ensemble needs runs of the same slices"
            )
    if mirror is not None:
        runs = [models.with_rules(run, replace(run.rules, mirror=mirror)) for run in runs]
    lung_runs: dict[Path, Run] = {}
    of_runs = []
    for folder, run in zip(folders, runs, strict=True):
        place = _lung_folder(folder, run)
        if not place.exists():
            raise FileNotFoundError(
                f"no lung model in {place}, which the run {run.recipe.run} needs: copy it there "
                "(notebook 08 makes it)"
            )
        if place not in lung_runs:
            lung_runs[place] = models.read_run(place)
        of_own = run.recipe.lungs not in ("none", "given")
        if of_own and run.state.lungs != lung_runs[place].state.checksum:
            raise ValueError(
                f"{place} holds another lung model than the run {run.recipe.run} was trained with: "
                "copy both folders again, or train the run again"
            )
        of_runs.append(lung_runs[place])
    return Segmenter(tuple(runs), tuple(of_runs), _shared_rules(runs, threshold, smallest_ml))


def _shared_rules(runs, threshold, smallest_ml):
    """Return the `Postprocessing` of averaged probabilities."""
    rules = [run.rules for run in runs]
    if threshold is None:
        threshold = float(np.mean([one.threshold for one in rules]))
    if smallest_ml is None:
        smallest_ml = float(np.mean([one.smallest_ml for one in rules]))
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold is {threshold:g}: expected above 0, and at most 1")
    if not 0 <= smallest_ml < np.inf:
        raise ValueError(f"the smallest lesion is {smallest_ml:g} ml: expected 0 or more")
    zoom = float(np.mean([one.zoom for one in rules]))  # each run keeps its own
    return Postprocessing(threshold, smallest_ml, any(one.mirror for one in rules), zoom)


def _slices(run):
    """Describe the slices that a run was trained on."""
    made_with = run.recipe.preprocessing
    low, high = made_with["window_hu"]
    return f"{made_with['size']} pixels, step {made_with['step']}, window {low:g} to {high:g} HU"


def _lung_folder(folder, run):
    """Return the folder of a run's lung model."""
    if run.recipe.lungs in ("none", "given"):
        return SHIPPED_LUNGS
    return folder.resolve().parent / run_name(run.recipe.lungs, run.recipe.fold)
