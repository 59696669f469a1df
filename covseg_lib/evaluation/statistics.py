"""How certain a score is, and whether one model is better than another: bootstrap over patients.

The slices of a patient are similar, but patients are independent. So patients are drawn with
replacement, each with all test slices, and the score is computed for each draw; the interval holds
95 % of the draws.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import pandas as pd
from scipy import stats

from covseg_lib.evaluation import metrics, tables

FEWEST_PATIENTS = 3  # an interval of fewer would only join two patients' scores
CONFIDENCE = 0.95


def confidence_intervals(counts: pd.DataFrame, score: str = "dice", seed: int = 0) -> pd.DataFrame:
    """Return every model's score with its 95 % interval.

    Parameters
    ----------
    counts : DataFrame, from `tables.pixel_counts`
    score : str, one of `metrics.METRICS`
    seed : int

    Returns
    -------
    DataFrame, index (split, model): the score, `low` and `high` (NaN below 3 patients), `patients`
    """
    rows = {}
    for key, of_model in counts.groupby(["split", "model"], sort=False):
        patients = _by_patient(of_model)
        low, high = _interval(patients.T.to_numpy(), score, seed)
        value = float(metrics.score_from_counts(score, *patients.sum()))
        rows[key] = {score: value, "low": low, "high": high, "patients": len(patients)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["split", "model"])


def mean_scores(table: pd.DataFrame, names: Sequence[str], seed: int = 0) -> pd.DataFrame:
    """Return the mean of scores over cases, with 95 % intervals over patients.

    Parameters
    ----------
    table : DataFrame, one row a case
        A column patient, and one for each score. NaN is left out.
    names : the columns with the scores
    seed : int

    Returns
    -------
    DataFrame, index score: mean, `low` and `high` (NaN below 3 patients), cases and patients
    """
    rows = {}
    for name in names:
        known = table.dropna(subset=[name])
        patients = known.groupby("patient")[name].agg(["sum", "size"])
        low, high = _bootstrap(patients.T.to_numpy(), _mean, seed)
        row = {"mean": known[name].mean(), "low": low, "high": high}
        rows[name] = row | {"cases": len(known), "patients": len(patients)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("score")


def paired_differences(counts: pd.DataFrame, score: str = "dice", seed: int = 0) -> pd.DataFrame:
    """Compare every two models of a split on the same patients, drawn together.

    With many comparisons, some show a difference by chance. With Bonferroni's correction, each of n
    intervals has a level of 1 - 0.05 / n, so that all together are right in 95 % of cases.
    Parameters as for `confidence_intervals`; baselines are left out.

    Returns
    -------
    DataFrame, one row a pair, empty for one model: split, score, model, other, difference (model
    minus other), low, high, patients, verdict. The verdict is "better" or "worse" only if the
    interval excludes 0 and there are `enough_patients`.
    """
    rows = []
    models = counts[~counts["model"].isin(tables.BASELINES)]
    for split, of_split in models.groupby("split", sort=False):
        groups = of_split.groupby("model", sort=False)
        patients = {model: _by_patient(group) for model, group in groups}
        pairs = list(itertools.combinations(patients, 2))
        for model, other in pairs:
            both = pd.concat([patients[model], patients[other]], axis=1).T.to_numpy()
            count = len(patients[model])
            low, high = _interval(both, score, seed, 1 - (1 - CONFIDENCE) / len(pairs))
            difference = float(_score(*both, score=score))
            verdict = _verdict(low, high, count, len(pairs))
            rows.append((split, score, model, other, difference, low, high, count, verdict))
    columns = ["split", "score", "model", "other", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "patients", "verdict"])


def enough_patients(pairs: int) -> int:
    """Return how many patients are needed to show a difference in one of several comparisons.

    If two models were equally good, all n differences would have the same sign with a probability
    of 2 / 2**n. That must be less than 5 %, divided by the number of comparisons.

    >>> [enough_patients(pairs) for pairs in (1, 3)]
    [6, 7]
    """
    return math.ceil(math.log2(2 * pairs / (1 - CONFIDENCE)))


def _by_patient(counts):
    """Return the counts of each patient, one row each, in the same order for all models."""
    return counts.groupby("patient")[metrics.COUNTS].sum()


def _score(*columns, score, axis=-1):
    """Return a score of 4 counts summed over patients, or the difference of two scores of 8."""
    sums = [column.sum(axis=axis) for column in columns]
    value = metrics.score_from_counts(score, *sums[:4])
    return value - metrics.score_from_counts(score, *sums[4:]) if sums[4:] else value


def _interval(columns, score, seed, confidence=CONFIDENCE):
    """Return the percentile interval of counts (4 or 8, patients); NaN for too few."""
    return _bootstrap(columns, functools.partial(_score, score=score), seed, confidence)


def _mean(sums, sizes, axis=-1):
    """Return the mean over cases, from the sums and numbers of the patients' cases."""
    return sums.sum(axis=axis) / sizes.sum(axis=axis)


def _bootstrap(columns, statistic, seed, confidence=CONFIDENCE):
    """Return the percentile interval of a statistic of columns (n, patients); NaN for too few."""
    if columns.shape[1] < FEWEST_PATIENTS:
        return float("nan"), float("nan")
    found = stats.bootstrap(
        tuple(columns),
        statistic,
        n_resamples=9999,
        vectorized=True,
        paired=True,
        confidence_level=confidence,
        method="percentile",
        random_state=seed,
    ).confidence_interval
    return float(found.low), float(found.high)


def _verdict(low, high, patients, pairs):
    if patients < enough_patients(pairs):
        return f"cannot be decided with {patients} patient{'s' if patients > 1 else ''}"
    return "better" if low > 0 else "worse" if high < 0 else "no difference shown"
