"""Distance between predicted and true surfaces in mm, and volumes in ml, case by case.

Only whole cases have surfaces: those of a patient split. In the report's split the test slices of
a case are scattered. Distances are from DeepMind's surface_distance, which defines the normalised
surface Dice (Nikolov et al., 2018) and is used by the authors of the data.
"""

import numpy as np
import pandas as pd
import surface_distance

from covseg_lib import files
from covseg_lib.data import slicing
from covseg_lib.data.slices import Slices
from covseg_lib.evaluation import prediction, tables
from covseg_lib.images import resizing
from covseg_lib.training.run_folder import RunFolder, need_made

TOLERANCE_MM = 3.0  # for infections, as the authors of the data use it (Ma et al., 2021)


def surface_scores(
    true: np.ndarray,
    pred: np.ndarray,
    mm: np.ndarray | tuple[float, ...],
    tolerance_mm: float = TOLERANCE_MM,
) -> tuple[float, float]:
    """Score the surface of a predicted mask.

    Parameters
    ----------
    true, pred : (S, H, W) masks
    mm : distances between slices, rows and columns
    tolerance_mm : float

    Returns
    -------
    normalised surface Dice (NSD), the share of both surfaces within the tolerance of the other;
    95 % Hausdorff distance (HD95) in mm, within which 95 % of each surface lie from the other. Both
    masks empty: 1 and 0; one of them empty: 0 and infinite.
    """
    true, pred = np.asarray(true) > 0, np.asarray(pred) > 0
    if not (true.any() and pred.any()):
        return (1.0, 0.0) if true.any() == pred.any() else (0.0, np.inf)
    distances = surface_distance.compute_surface_distances(true, pred, mm)
    nsd = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)
    return float(nsd), float(surface_distance.compute_robust_hausdorff(distances, 95))


def surface_table(slices: Slices) -> pd.DataFrame:
    """Score every model on each whole case that it was tested on, at the sliced case's size.

    Returns
    -------
    DataFrame, index (split, model, case): nsd, hd95_mm (see `surface_scores`), true_ml,
    predicted_ml and error_ml
    """
    study = slices.study
    rows = []
    for run, recipe in tables.compared_runs(study).items():
        if recipe.split == "slice":
            continue
        test = slices.rows("test", split=recipe.split, fold=recipe.fold)
        tested = slices.table.loc[test].assign(row=np.arange(len(test)))
        probabilities = np.load(need_made(study, "prediction", run), mmap_mode="r")
        rules = RunFolder.of(study, run).read().rules
        for case, of_case in tested.groupby("case", sort=False):
            scores = _score_case(study, case, probabilities[of_case["row"]], rules)
            rows.append((recipe.split, recipe.model, case, *scores))
    columns = ["split", "model", "case", "nsd", "hd95_mm", "true_ml", "predicted_ml", "error_ml"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:3])


def _score_case(study, case, probabilities, rules):
    """Return the scores of a case's predicted slices (S, size, size, 1)."""
    path, step = study.need("sliced_case", case=case), study.settings()["step"]
    with files.open_npz(path) as arrays:
        truth = arrays["masks"] > 0
    size = truth.shape[1:]
    enlarged = [resizing.resize_to_scan(image, size) for image in probabilities[..., 0]]
    mm = np.array(slicing.read_about(path)["mm"]) * (1, step, step)
    predicted = np.stack(enlarged) >= rules.threshold
    if rules.smallest_ml:
        predicted = prediction.drop_small(predicted, rules.smallest_ml * 1000 / mm.prod())
    true_ml, predicted_ml = (float(m.sum() * mm.prod() / 1000) for m in (truth, predicted))
    return *surface_scores(truth, predicted, mm), true_ml, predicted_ml, predicted_ml - true_ml
