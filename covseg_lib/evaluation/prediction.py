"""From a trained run to masks of the study's slices; `scans` predicts whole scans."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from skimage import measure

from covseg_lib import files
from covseg_lib.data import preprocessing, slicing
from covseg_lib.evaluation import metrics, tables
from covseg_lib.settings import LESION_THRESHOLD
from covseg_lib.study import Study

if TYPE_CHECKING:  # the command line checks its paths before it loads TensorFlow
    from covseg_lib.training.models import Postprocessing, Run

SMALLEST_ML = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)  # that validation chooses from
ZOOMS = (1.0, 1.25, 1.5)


def predict_slices(run: Run, inputs: np.ndarray, batch_size: int = 16) -> np.ndarray:
    """Return lesion probabilities (n, size, size, 1) float32 of the network's inputs.

    For the report's recipe the inputs are standardised slices; for others see `batches.Inputs`.
    """
    if run.postprocessing.mirror:
        once = replace(run, postprocessing=replace(run.postprocessing, mirror=False))
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


def predict_study(run: Run, study: Study) -> np.ndarray:
    """Predict the study's slices with a run; write and return the test slices' probabilities.

    Writes predictions/<run>.npy, one entry for each test slice of the run, and
    predictions/<run>.csv, the counts of pixels of each slice of all subsets, with the run's
    `Postprocessing`. Raises ValueError if the run was trained on another processed_data, because
    its test slices may have been training slices there.
    """
    from covseg_lib.training import batches

    _check_same_slices(run, study)
    inputs, masks = batches.open_inputs(study, run.recipe)
    table, counts = preprocessing.slice_table(study)[["case", "patient", "slice"]], []
    for subset in ("train", "validation", "test"):
        rows = _rows(study, run, subset)
        probabilities = predict_slices(run, inputs[rows])
        of_subset = table.loc[rows].assign(subset=subset)
        predicted = study_masks(study, of_subset["case"], probabilities, run.postprocessing)
        counts.append(metrics.add_counts(of_subset, masks[rows], predicted))
    files.write_npy(study.path("prediction", run=run.recipe.run), probabilities)
    files.write_csv(study.path("counts", run=run.recipe.run), pd.concat(counts))
    return probabilities


def predict_lungs(run: Run, study: Study) -> np.ndarray:
    """Predict the lungs of all slices of a study with a lung model, and write the masks.

    They are (N, size, size, 1) uint8 in {0, 1}, for recipes with `lungs` = the model's name, and
    are returned too. The masks of training patients are a little better than those of others.
    """
    from covseg_lib.training import batches

    _check_same_slices(run, study)
    inputs, _ = batches.open_inputs(study, run.recipe)
    masks = (predict_slices(run, inputs[:]) >= run.postprocessing.threshold).astype(np.uint8)
    files.write_npy(study.path("predicted_lungs", run=run.recipe.run), masks)
    return masks


def choose_postprocessing(run: Run, study: Study) -> Run:
    """Choose the `Postprocessing` of a run by its validation patients.

    The choice has the highest mean Dice over the validation cases. It is written to
    models/<run>/postprocessing.json. Test slices play no part in it. A run with `selection` "none"
    was trained on the validation patients too, so nothing is chosen here (`folds.choose_rules`
    can): its predictions are averaged with those of the mirrored slices if its augmentation
    mirrored slices.

    Returns
    -------
    Run, with the `Postprocessing` that was chosen
    """
    if run.recipe.selection == "none":
        rules = replace(run.postprocessing, mirror=run.recipe.augmentation)
    else:
        rules = best_rules(score_rules(run, study, "validation"))
    return keep_rules(run, study, rules)


def score_rules(
    run: Run,
    study: Study,
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

    _check_same_slices(run, study)
    rows = _rows(study, run, subset)
    inputs, masks = batches.open_inputs(study, run.recipe)
    table = preprocessing.slice_table(study)[["patient", "case"]].loc[rows]
    seen, truth, scores = inputs[rows], masks[rows], {}
    of_cases = table.groupby(["patient", "case"]).indices
    thresholds = sorted(tables.THRESHOLDS, key=lambda threshold: abs(threshold - LESION_THRESHOLD))
    for zoom, mirror in itertools.product(ZOOMS, mirrors):
        rules = models.Postprocessing(mirror=mirror, zoom=zoom)
        run = models.with_rules(run, rules)
        probabilities = predict_slices(run, seen)
        for threshold, smallest in itertools.product(thresholds, smallest_ml):
            rules = replace(rules, threshold=threshold, smallest_ml=smallest)
            predicted = study_masks(study, table["case"], probabilities, rules)
            scores[rules] = [metrics.dice(truth[of], predicted[of]) for of in of_cases.values()]
    return pd.DataFrame(scores, index=pd.MultiIndex.from_tuples(of_cases, names=table.columns))


def best_rules(scores: pd.DataFrame) -> Postprocessing:
    """Return the `Postprocessing` with the highest mean of `score_rules`, of equals the first."""
    return scores.mean().round(6).idxmax()


def keep_rules(run: Run, study: Study, rules: Postprocessing) -> Run:
    """Write the `Postprocessing` of a run to its folder, and return the run with it."""
    from covseg_lib.training import models

    files.write_json(study.path("postprocessing", run=run.recipe.run), asdict(rules))
    return models.with_rules(run, rules)


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


def case_with_most_lesion(study: Study, run: Run) -> str:
    """Return the name of the case with the most lesion in the test slices of a run."""
    test = preprocessing.slice_table(study).loc[_rows(study, run, "test")]
    return test.groupby("case")["lesion_pixels"].sum().idxmax()


def _rows(study, run, subset):
    split, fold = run.recipe.split, run.recipe.fold
    return preprocessing.subset_rows(study, subset, split=split, fold=fold)


def _check_same_slices(run, study):
    if run.recipe.preprocessing != files.read_json(study.need("preprocessing")):
        raise ValueError(
            f"run {run.recipe.run} was trained on other slices than "
            f"{study.path('preprocessing').parent} holds now: train it again, or make the slices "
            "again with the settings in recipe.json"
        )
