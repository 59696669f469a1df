"""How far a predicted lesion's surface lies from the true one, and its volume: case by case, in millimetres.

Only whole cases have a surface to speak of: those of a patient split. Of the report's split a case's test slices are
scattered. Measured by DeepMind's surface_distance, the definition of the normalised surface Dice (Nikolov et al., 2018)
and what the data's authors score with.
"""

import numpy as np
import pandas as pd
import surface_distance

from covseg_lib import models, resizing, sliced, slices, storage
from covseg_lib.study import LESION_FROM

TOLERANCE_MM = 3.0  # of infections, as the data's authors take it (Ma et al., 2021)


def surface_scores(true, pred, mm, tolerance_mm=TOLERANCE_MM):
    """Score the surface of a predicted mask.

    Parameters
    ----------
    true, pred : (S, H, W) masks
    mm : (slice, row, column) distances of neighbouring voxels
    tolerance_mm : float

    Returns
    -------
    normalised surface Dice (NSD), the share of both surfaces that lies within the tolerance of the other; and 95 %
    Hausdorff distance (HD95) in mm: 95 % of each surface lie that near to the other. Both masks empty: 1 and 0; one of
    them: 0 and infinite.
    """
    true, pred = np.asarray(true) > 0, np.asarray(pred) > 0
    if not (true.any() and pred.any()):
        return (1.0, 0.0) if true.any() == pred.any() else (0.0, np.inf)
    distances = surface_distance.compute_surface_distances(true, pred, mm)
    nsd = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)
    return float(nsd), float(surface_distance.compute_robust_hausdorff(distances, 95))


def table(study):
    """Score every model of a patient split on every case that it is tested on, at the size of the sliced case.

    Returns
    -------
    DataFrame, index (split, model, case): nsd, hd95_mm (see `surface_scores`), true_ml, predicted_ml and error_ml
    """
    listed, rows = slices.table(study), []
    for run, recipe in models.compared(study).items():
        if recipe["split"] != "patient":
            continue
        tested = listed.loc[slices.rows_of(study, "test", split="patient", fold=recipe["fold"])]
        tested = tested.assign(row=np.arange(len(tested)))
        probabilities = np.load(study.need("prediction", run=run), mmap_mode="r")
        for case, of_case in tested.groupby("case", sort=False):
            key = {"split": "patient", "model": recipe["model"], "case": case}
            rows.append(key | _score_case(study, case, probabilities[of_case["row"]]))
    columns = ["split", "model", "case", "nsd", "hd95_mm", "true_ml", "predicted_ml", "error_ml"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:3])


def _score_case(study, case, probabilities):
    """Return the scores of a case's predicted slices (S, size, size, 1) as a dict."""
    file = study.need("sliced_case", case=case)
    with storage.open_npz(file) as arrays:
        truth = arrays["masks"] > 0
    found = np.stack([resizing.enlarge(slice_, truth.shape[1:]) >= LESION_FROM for slice_ in probabilities[..., 0]])
    mm = np.array(sliced.about(file)["mm"]) * (1, study.settings()["step"], study.settings()["step"])
    nsd, hd95 = surface_scores(truth, found, mm)
    true_ml, found_ml = (float(mask.sum() * mm.prod() / 1000) for mask in (truth, found))
    return {"nsd": nsd, "hd95_mm": hd95, "true_ml": true_ml, "predicted_ml": found_ml, "error_ml": found_ml - true_ml}
