"""From a trained run to masks of the study's slices; `scans` predicts whole scans."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from skimage import measure

from covseg_lib import files
from covseg_lib.data import slicing
from covseg_lib.data.slices import Slices
from covseg_lib.evaluation import metrics, tables
from covseg_lib.settings import LESION_THRESHOLD
from covseg_lib.study import Study
from covseg_lib.training import run_folder
from covseg_lib.training.run_folder import Postprocessing, RunFolder

if TYPE_CHECKING:  # the command line checks its paths before it loads TensorFlow
    from covseg_lib.training.models import Run

SMALLEST_ML = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)  # that validation chooses from
ZOOMS = (1.0, 1.25, 1.5)


def predict_slices(run: Run, inputs: np.ndarray, batch_size: int = 16) -> np.ndarray:
    """Return lesion probabilities (n, size, size, 1) float32 of the network's inputs.

    For the report's recipe the inputs are standardised slices; for others see `batches.Inputs`.
    """
    if run.rules.mirror:
        once = replace(run, state=replace(run.state, rules=replace(run.rules, mirror=False)))
        mirrored = predict_slices(once, inputs[:, :, ::-1], batch_size)[:, :, ::-1]
        return (predict_slices(once, inputs, batch_size) + mirrored) / 2
    count, batch_size = len(inputs), min(batch_size, len(inputs))
    starts = range(0, count, batch_size)  # all batches have one size: another would be compiled
    rows = [np.minimum(np.arange(start, start + batch_size), count - 1) for start in starts]
    predicted = [_predict_batch(run.model, inputs[of_batch]) for of_batch in rows]
    return np.concatenate(predicted)[:count]


def _predict_batch(model, inputs):
    """Return the probabilities of a batch, resized to the model's input and back."""
    from keras import ops

    size, of_model = inputs.shape[1:3], model.input_shape[1:3]
    if size != of_model:
        inputs = ops.image.resize(inputs, of_model, antialias=True)
    predicted = model.predict_on_batch(inputs)
    if size != of_model:
        predicted = ops.image.resize(predicted, size, antialias=True)
    return ops.convert_to_numpy(predicted).astype(np.float32)


def predict_study(run: Run, slices: Slices) -> np.ndarray:
    """Predict a study's slices with a run, and return the test slices' probabilities.

    Writes predictions/<run>.npy, one entry for each test slice of the run, and
    predictions/<run>.csv, the counts of pixels of each slice of all subsets, with the run's rules.
    If its present weights and rules have made these files already, they are read.

    Raises
    ------
    ValueError
        The run was trained on another processed_data, so its test slices may have been training
        slices there; or it was trained again since it was read.
    """
    from covseg_lib.training import batches

    _check_same_slices(run, slices)
    study = slices.study
    recipe = run.recipe
    folder = RunFolder.of(study, recipe.run)
    if run.state.checksum == folder.read().checksum and is_predicted(study, recipe.run):
        return np.load(study.path("prediction", run=recipe.run))
    with folder.making(run.state.checksum, "prediction", "counts"):
        inputs = batches.open_inputs(recipe, slices)
        masks = batches.true_masks(recipe, slices)
        counts = []
        for subset in ("train", "validation", "test"):
            rows = _rows(slices, run, subset)
            probabilities = predict_slices(run, inputs[rows])
            table = slices.table.loc[rows, ["case", "patient", "slice"]].assign(subset=subset)
            predicted = study_masks(study, table["case"], probabilities, run.rules)
            counts.append(metrics.add_counts(table, masks[rows], predicted))
        files.write_npy(study.path("prediction", run=recipe.run), probabilities)
        files.write_csv(study.path("counts", run=recipe.run), pd.concat(counts))
    return probabilities


def is_predicted(study: Study, run: str) -> bool:
    """Return whether a run's present weights and rules have made its predictions."""
    return all(run_folder.is_made(study, name, run) for name in ("prediction", "counts"))


def predict_lungs(run: Run, slices: Slices) -> np.ndarray:
    """Predict the lungs of all slices of a study with a lung model, and write the masks.

    They are (N, size, size, 1) uint8 in {0, 1}, for recipes with `lungs` = the model's name, and
    are returned too. The masks of training patients are a little better than those of others.
    """
    from covseg_lib.training import batches

    _check_same_slices(run, slices)
    study = slices.study
    name = run.recipe.run
    with RunFolder.of(study, name).making(run.state.checksum, "predicted_lungs"):
        inputs = batches.open_inputs(run.recipe, slices)
        masks = (predict_slices(run, inputs[:]) >= run.rules.threshold).astype(np.uint8)
        files.write_npy(study.path("predicted_lungs", run=name), masks)
    return masks


def score_rules(
    run: Run,
    slices: Slices,
    subset: str,
    mirrors: Sequence[bool] = (False, True),
    smallest_ml: Sequence[float] = SMALLEST_ML,
) -> pd.DataFrame:
    """Return the Dice of each case of a subset for many settings of a run's `Postprocessing`.

    Returns
    -------
    DataFrame with a row for each case, index (patient, case), and a column for each
    `Postprocessing`, the simplest first: all `ZOOMS` and `tables.THRESHOLDS`, with the given
    choices of mirror averaging and of the smallest lesion
    """
    from covseg_lib.training import batches, models

    _check_same_slices(run, slices)
    rows = _rows(slices, run, subset)
    seen = batches.open_inputs(run.recipe, slices)[rows]
    truth = batches.true_masks(run.recipe, slices)[rows]
    table = slices.table.loc[rows, ["patient", "case"]]
    scores = {}
    of_cases = table.groupby(["patient", "case"]).indices
    thresholds = sorted(tables.THRESHOLDS, key=lambda threshold: abs(threshold - LESION_THRESHOLD))
    for zoom, mirror in itertools.product(ZOOMS, mirrors):
        rules = Postprocessing(mirror=mirror, zoom=zoom)
        run = models.with_rules(run, rules)
        probabilities = predict_slices(run, seen)
        for threshold, smallest in itertools.product(thresholds, smallest_ml):
            rules = replace(rules, threshold=threshold, smallest_ml=smallest)
            predicted = study_masks(slices.study, table["case"], probabilities, rules)
            scores[rules] = [metrics.dice(truth[of], predicted[of]) for of in of_cases.values()]
    return pd.DataFrame(scores, index=pd.MultiIndex.from_tuples(of_cases, names=table.columns))


def best_rules(scores: pd.DataFrame) -> Postprocessing:
    """Return the `Postprocessing` with the highest mean of `score_rules`, of equals the first."""
    return scores.mean().round(6).idxmax()


def study_masks(
    study: Study, cases: pd.Series, probabilities: np.ndarray, rules: Postprocessing
) -> np.ndarray:
    """Return masks (n, size, size, 1) bool of probabilities; `cases` has the case of each slice."""
    masks, step = probabilities >= rules.threshold, study.settings()["step"]
    if rules.smallest_ml:
        for case in pd.unique(cases):
            rows = np.flatnonzero(cases == case)
            about = slicing.read_about(study.need("sliced_case", case=case))
            mm = np.array(about["mm"]) * (1, step, step)
            area = about["height"] * about["width"] / masks[0].size
            smallest = rules.smallest_ml * 1000 / (mm.prod() * area)
            masks[rows, ..., 0] = drop_small(masks[rows, ..., 0], smallest)
    return masks


def drop_small(mask: np.ndarray, voxels: float) -> np.ndarray:
    """Return a mask (S, H, W) without its connected parts of fewer voxels."""
    parts = measure.label(mask, connectivity=1)
    sizes = np.bincount(parts.ravel())
    return mask & (sizes >= voxels)[parts]


def case_with_most_lesion(slices: Slices, run: Run) -> str:
    """Return the name of the case with the most lesion in the test slices of a run."""
    test = slices.table.loc[_rows(slices, run, "test")]
    return test.groupby("case")["lesion_pixels"].sum().idxmax()


def _rows(slices, run, subset):
    return slices.rows(subset, split=run.recipe.split, fold=run.recipe.fold)


def _check_same_slices(run, slices):
    if run.recipe.preprocessing != slices.about:
        raise ValueError(
            f"run {run.recipe.run} was trained on other slices than "
            f"{slices.study.path('preprocessing').parent} holds now: train it again, or make the "
            "slices again with the settings in run.json"
        )
