"""How sure a score is, and whether one model is better than another: bootstrap over patients.

Slices of one patient resemble each other; patients do not depend on each other. So patients are drawn, with
replacement, each with all its test slices, and the score of each draw is computed anew; 95 % of the draws lie in the
interval.
"""

import itertools
import math

import pandas as pd
from scipy import stats

from covseg_lib import scores

CONFIDENCE = 0.95


def intervals(counted, score="dice", seed=0):
    """Return every model's score with its interval.

    Parameters
    ----------
    counted : DataFrame, as `scores.counted` returns it
    score : str, one of `scores.SCORES`
    seed : int

    Returns
    -------
    DataFrame, index (split, model): the score, `low` and `high` (NaN for a single patient), and `patients`
    """
    rows = {}
    for key, of_model in counted.groupby(["split", "model"], sort=False):
        patients = _by_patient(of_model)
        low, high = _interval(patients.T.to_numpy(), score, seed)
        value = float(scores.of_counts(score, *patients.sum()))
        rows[key] = {score: value, "low": low, "high": high, "patients": len(patients)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["split", "model"])


def differences(counted, score="dice", seed=0):
    """Compare every two models of a split on the same patients, drawn together.

    Of many comparisons some look like a difference by chance alone. So their number is corrected for, as Bonferroni
    does: of n pairs each interval is one of 1 - 0.05 / n, and all together are right in 95 % of cases.

    Parameters as for `intervals`; baselines are left out.

    Returns
    -------
    DataFrame, a row a pair, none where there is one model: split, score, model, other, difference (model less other),
    low, high, patients, and verdict: "better" or "worse" only where the interval lies on one side of 0 and there are
    `enough_patients`
    """
    rows = []
    models = counted[~counted["model"].isin(scores.BASELINES)]
    for split, of_split in models.groupby("split", sort=False):
        patients = {model: _by_patient(table) for model, table in of_split.groupby("model", sort=False)}
        pairs = list(itertools.combinations(patients.items(), 2))
        for (model, ours), (other, theirs) in pairs:
            both = pd.concat([ours, theirs], axis=1).T.to_numpy()
            low, high = _interval(both, score, seed, 1 - (1 - CONFIDENCE) / len(pairs))
            row = {"split": split, "score": score, "model": model, "other": other}
            row |= {"difference": float(_score(*both, score=score, axis=-1)), "low": low, "high": high}
            rows.append(row | {"patients": len(ours), "verdict": _verdict(low, high, len(ours), len(pairs))})
    columns = ["split", "score", "model", "other", "difference", "low", "high", "patients", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def enough_patients(pairs):
    """Return how many patients can show a difference in one of so many comparisons.

    Were two models alike, all n differences would have one sign in 2 of 2**n cases: that must be rarer than 5 %,
    shared among the comparisons.

    >>> [enough_patients(pairs) for pairs in (1, 3)]
    [6, 7]
    """
    return math.ceil(math.log2(2 * pairs / (1 - CONFIDENCE)))


def _by_patient(of_model):
    """Return the counts of each patient, one row each, patients in one order."""
    return of_model.groupby("patient")[scores.COUNTS].sum()


def _score(*columns, score, axis=-1):
    """Return a score of counts (4, patients) added up over patients, or of 8 of them the difference of two scores."""
    sums = [column.sum(axis=axis) for column in columns]
    value = scores.of_counts(score, *sums[:4])
    return value - scores.of_counts(score, *sums[4:]) if sums[4:] else value


def _interval(columns, score, seed, confidence=CONFIDENCE):
    """Return the percentile interval of counts (4 or 8, patients), (NaN, NaN) of a single patient."""
    if columns.shape[1] < 2:
        return float("nan"), float("nan")

    def statistic(*drawn, axis=-1):
        return _score(*drawn, score=score, axis=axis)

    options = {"paired": True, "vectorized": True, "method": "percentile", "n_resamples": 9999}
    options |= {"confidence_level": confidence, "random_state": seed}
    found = stats.bootstrap(tuple(columns), statistic, **options).confidence_interval
    return float(found.low), float(found.high)


def _verdict(low, high, patients, pairs):
    if patients < enough_patients(pairs):
        return f"cannot be said of {patients} patient{'s' if patients > 1 else ''}"
    return "better" if low > 0 else "worse" if high < 0 else "no difference shown"
