"""The folder of a run, models/<run>/, and run.json, in which the run says its own state.

Nothing is concluded from which files exist, nor from a value that differs from a default: run.json
says whether the training has finished, what chose the threshold, and which files were made by the
weights that the folder holds now.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import h5py  # Keras needs it as well
import pandas as pd

from covseg_lib import files
from covseg_lib.data.slices import Slices
from covseg_lib.settings import LESION_THRESHOLD, OBJECTIVE_NAMES
from covseg_lib.study import LAYOUT, Study
from covseg_lib.training.recipes import Recipe, changed_fields, run_name

SHIPPED = Path(__file__).parents[1] / "shipped" / "final"  # the run that comes with covseg
NOTHING = "nothing: they are the defaults"  # what chose the rules of a run
VALIDATION = "the validation patients"


@dataclass(frozen=True)
class Postprocessing:
    """How probabilities become a mask: the rules of a run; the default is the report's.

    threshold : a pixel with at least this probability is predicted as lesion
    smallest_ml : connected lesions of a scan that are smaller are dropped
    mirror : whether each slice is also predicted mirrored left-right, and both are averaged
    zoom : slices are enlarged by this factor before the network sees them, and the prediction is
        reduced again; the network has no layer that depends on the size
    """

    threshold: float = LESION_THRESHOLD
    smallest_ml: float = 0.0
    mirror: bool = False
    zoom: float = 1.0


@dataclass(frozen=True)
class RunState:
    """What run.json says about a run.

    recipe : Recipe
    epochs_done : int
    finished : bool
        Whether the training has ended. One that a callback stopped early has ended, too.
    timing : dict
        Seconds of the first epoch, of the others (median) and in all; device, number format,
        backend. Empty before the end.
    weights : str
        `checksum_of_weights` of the best weights; "" before the end.
    trained_on : dict
        {case: patient} of the slices that the weights or the best epoch come from, also those of
        the run that this one started from.
    lungs : str
        The checksum of the lung model whose masks were a channel; "" without one.
    rules : Postprocessing
    rules_chosen_by : str
        What chose the rules.
    made : dict
        {name of a path in `study.LAYOUT`: checksum of the weights and rules that made the file}
    """

    recipe: Recipe
    epochs_done: int = 0
    finished: bool = False
    timing: dict = field(default_factory=dict)
    weights: str = ""
    trained_on: dict[str, str] = field(default_factory=dict)
    lungs: str = ""
    rules: Postprocessing = Postprocessing()
    rules_chosen_by: str = NOTHING
    made: dict[str, str] = field(default_factory=dict)

    @property
    def checksum(self) -> str:
        """A checksum of weights and rules: other ones make other masks."""
        text = json.dumps([self.weights, asdict(self.rules)])
        return hashlib.sha256(text.encode()).hexdigest()


class RunFolder:
    """The folder of a run. All changes of run.json go through this class.

    Parameters
    ----------
    path : Path
        models/<run> of a study, or a copy of it anywhere.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    @classmethod
    def of(cls, study: Study, run: str) -> RunFolder:
        """Return the folder of a study's run."""
        return cls(study.path("run", run=run).parent)

    def file(self, name: str) -> Path:
        """Return the path of a file of this folder; `name` as in `study.LAYOUT`."""
        return self.path / Path(LAYOUT[name][0]).name

    def exists(self) -> bool:
        """Return whether a training has begun here."""
        return self.file("run").exists()

    def read(self) -> RunState:
        """Return the state of the run.

        Raises
        ------
        FileNotFoundError
            There is no run; the message names the notebooks that train.
        ValueError
            run.json is damaged.
        """
        path = self.file("run")
        if not path.exists():
            raise FileNotFoundError(
                f"no run in {self.path} (no {path.name}): expected the folder of a run, as "
                "study/models/dice; run notebook 03, 04 or 05 first"
            )
        fields = files.read_json(path)
        try:
            fields["recipe"] = Recipe(**fields["recipe"])
            fields["rules"] = Postprocessing(**fields["rules"])
            return RunState(**fields)
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"{path} does not describe a run ({error}): copy the run again, or train it again"
            ) from error

    def read_finished(self) -> RunState:
        """Return the state of a finished run; FileNotFoundError if it has not finished."""
        state = self.read()
        if not state.finished:
            raise FileNotFoundError(
                f"the run in {self.path} has not finished ({state.epochs_done} of "
                f"{state.recipe.epochs} epochs are done): run its notebook again, it continues"
            )
        return state

    def is_finished(self, recipe: Recipe) -> bool:
        """Return whether this run has finished by a recipe.

        Raises ValueError if the folder holds a run of another recipe, or one that cannot be
        continued to the recipe's epochs.
        """
        if not self.exists():
            return False
        state = self.read()
        changed = changed_fields(state.recipe, recipe) or self._why_not_these_epochs(state, recipe)
        if changed:
            raise ValueError(
                f"run {recipe.run} in {self.path} was trained with another recipe: {changed}. "
                f'Train this one beside it (RUN = "{recipe.run}_2"), or discard the old run '
                "(RESUME = False; for a sweep, remove the folder)"
            )
        return state.finished and recipe.epochs in (state.epochs_done, state.recipe.epochs)

    def _why_not_these_epochs(self, state, recipe):
        """Return why a run cannot go on, or stop, at the epochs of a recipe; "" if it can."""
        stored = state.recipe.epochs
        done = state.epochs_done
        wanted = recipe.epochs
        if recipe.optimizer == "adamw" and wanted != stored:
            return (
                f"epochs {stored}, now {wanted} (its learning rate rises and falls once over all "
                "epochs, so other epochs are another training)"
            )
        if done > wanted:
            return f"epochs {done}, now {wanted}"
        backup = self.file("backup")
        extended = state.finished and done < wanted != stored
        if extended and not any(backup.glob("*.npz")):
            return f"epochs {done}, now {wanted}, and no {backup} to resume from"
        return ""

    @contextlib.contextmanager
    def locked(self, purpose: str) -> Iterator[None]:
        """Let only one program at a time change this run; `purpose` as for `files.locked`."""
        lock = self.path.parent / f".{self.path.name}.lock"
        with files.locked(lock, f"{purpose} the run {self.path.name} in {self.path.parent}"):
            yield

    # A training calls the next three, and holds the lock all the time.

    def start(
        self, recipe: Recipe, rows: Sequence[dict], trained_on: dict[str, str], lungs: str
    ) -> None:
        """Say that the training goes on after the epochs in `rows`, with default rules.

        What was made by the weights before counts no longer.
        """
        files.remove_temporary_files(self.path)
        rules = default_rules(recipe)
        self.write(RunState(recipe, len(rows), trained_on=trained_on, lungs=lungs, rules=rules))
        if rows:
            files.write_csv(self.file("history"), pd.DataFrame(rows))

    def epoch_done(self, rows: Sequence[dict]) -> None:
        """Write the history, whose last row is the epoch that has just ended."""
        files.write_csv(self.file("history"), pd.DataFrame(rows))
        self.write(replace(self.read(), epochs_done=len(rows)))

    def finish(self, timing: dict) -> None:
        """Say that the training has ended, and with which weights."""
        weights = checksum_of_weights(self.file("weights"))
        self.write(replace(self.read(), finished=True, timing=timing, weights=weights))

    def choose_rules(self, rules: Postprocessing, chosen_by: str, weights: str) -> None:
        """Keep rules, and what chose them.

        Raises ValueError if the run has other weights by now than the `weights` (their checksum)
        that the rules were chosen for.
        """
        with self.locked("changing"):
            state = self.read_finished()
            if state.weights != weights:
                raise self._changed()
            self.write(replace(state, rules=rules, rules_chosen_by=chosen_by))

    @contextlib.contextmanager
    def making(self, checksum: str, *names: str) -> Iterator[None]:
        """Write files with this run's predictions in the block.

        They count as made when the block has ended. Until then they count as missing.

        Parameters
        ----------
        checksum : str
            `RunState.checksum` of the weights and rules that predict.
        names : as in `study.LAYOUT`

        Raises
        ------
        ValueError
            The run has other weights or rules by now.
        """
        with self.locked("predicting with"):
            state = self.read_finished()
            if state.checksum != checksum:
                raise self._changed()
            others = {name: by for name, by in state.made.items() if name not in names}
            self.write(replace(state, made=others))
            yield
            self.write(replace(state, made=others | dict.fromkeys(names, checksum)))

    def _changed(self):
        return ValueError(
            f"the run in {self.path} was trained again, or its rules were changed, since it was "
            "read: run this again"
        )

    def write(self, state: RunState) -> None:
        """Write a state, atomically; the methods above do so."""
        files.write_json(self.file("run"), asdict(state))


def locate(name: str | Path) -> Path:
    """Return the folder of a run: a path, or "shipped" for the model that comes with covseg."""
    return SHIPPED if str(name) == "shipped" else Path(name)


def checksum_of_weights(path: Path) -> str:
    """Return the sha256 of all arrays in a file of Keras weights.

    Not of the file itself, which also holds the names of layers: Keras numbers them anew for each
    model that a program builds.
    """
    found = hashlib.sha256()

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            found.update(name.encode())
            found.update(item[...].tobytes())

    with h5py.File(path) as file:
        file.visititems(add)
    return found.hexdigest()


def finished_runs(study: Study) -> dict[str, RunState]:
    """Return {run: state} of the finished runs that were trained on the current processed_data.

    They are sorted as in the report (accuracy, IoU, Dice), then by name. Lung models, and runs of
    the split "all", which have no test slices, are left out.
    """
    current = files.read_json(study.need("preprocessing"))
    found = {
        run: state
        for run, state in _read_finished(study).items()
        if state.recipe.preprocessing == current
        and state.recipe.target == "lesions"
        and state.recipe.split != "all"
    }

    def place(run):
        return OBJECTIVE_NAMES.index(found[run].recipe.objective), run

    return {run: found[run] for run in sorted(found, key=place)}


def stale_runs(study: Study) -> list[str]:
    """Return the names of the finished runs that were trained on another processed_data."""
    current = files.read_json(study.need("preprocessing"))
    found = _read_finished(study)
    return sorted(run for run in found if found[run].recipe.preprocessing != current)


def read_runs(study: Study) -> dict[str, RunState]:
    """Return {run: state} of all runs in models/, finished or not, sorted by name."""
    names = sorted(path.parent.name for path in study.path("models").glob("*/run.json"))
    return {run: RunFolder.of(study, run).read() for run in names}


def default_rules(recipe: Recipe) -> Postprocessing:
    """Return the rules of a run that nothing has chosen yet.

    Without validation patients nothing can try the average with mirrored slices. It is used if the
    augmentation mirrored slices as well, except for lungs, which are found without it.
    """
    unchosen = recipe.selection == "none" and recipe.target == "lesions"
    return Postprocessing(mirror=unchosen and recipe.augmentation)


def trained_on(recipe: Recipe, slices: Slices) -> dict[str, str]:
    """Return {case: patient} of what the weights of a recipe, or its best epoch, come from.

    These are training and validation slices, and what the run in `start_from` was trained on.

    Raises ValueError if that run, or the lung model, was trained on a patient who is tested now:
    then no score would be one of a new patient.
    """
    table = slices.table[["case", "patient"]]
    rows = slices.rows("train", "validation", split=recipe.split, fold=recipe.fold)
    found = dict(table.loc[rows].drop_duplicates().itertuples(index=False))
    tested = table.loc[slices.rows("test", split=recipe.split, fold=recipe.fold)]
    if recipe.lungs not in ("none", "given"):
        lung_run = run_name(recipe.lungs, recipe.fold)
        _refuse_trained_on(RunFolder.of(slices.study, lung_run), "LUNGS", recipe, tested)
    if recipe.start_from:
        first = RunFolder(locate(recipe.start_from))
        found = _refuse_trained_on(first, "START_FROM", recipe, tested) | found
    return found


def _refuse_trained_on(folder, parameter, recipe, tested):
    """Return what a run was trained on; ValueError if that is tested by another recipe."""
    state = folder.read_finished()
    split = ("preprocessing", "split", "fold")
    if all(getattr(state.recipe, name) == getattr(recipe, name) for name in split):
        return state.trained_on  # the same slices are tested, so they were left out there
    patients = tested["patient"].isin(set(state.trained_on.values()))
    known = tested[tested["case"].isin(set(state.trained_on)) | patients]
    if len(known):
        raise ValueError(
            f"{parameter} is the run in {folder.path}, which was trained on "
            f"{', '.join(known['case'].unique())}: expected a run that has not seen what the "
            f"{recipe.split} split, fold {recipe.fold}, tests. Choose another run, or another "
            "SPLIT or FOLD"
        )
    return state.trained_on


def _read_finished(study):
    return {run: state for run, state in read_runs(study).items() if state.finished}


def is_made(study: Study, name: str, run: str) -> bool:
    """Return whether a file was made by the weights and rules that a run has now.

    Parameters
    ----------
    study : Study
    name : str
        As in `study.LAYOUT`: "prediction", "counts" or "predicted_lungs".
    run : str
    """
    folder = RunFolder.of(study, run)
    if not folder.exists():
        return False
    state = folder.read()
    return state.made.get(name) == state.checksum and study.path(name, run=run).exists()


def need_made(study: Study, name: str, run: str) -> Path:
    """Return the path of such a file.

    Raises FileNotFoundError, which names the notebook that makes it, if there is none, or if it was
    made by other weights or rules than the run has now.
    """
    if not is_made(study, name, run):
        path = study.path(name, run=run)
        maker = LAYOUT[name][1]
        raise FileNotFoundError(
            f"no {path.name} in {path.parent} by the present weights of the run {run}: run {maker} "
            "first"
        )
    return study.path(name, run=run)
