"""How the checks judge a student's answers: right, still open, or wrong with a hint."""

import math
from decimal import Decimal
from typing import Any

RIGHT, OPEN, WRONG = "Right:", "Not answered yet:", "Not yet:"
ROUNDING_ERROR = 1e-7  # of a difference of two float32 numbers near 1, such as scores of Keras


def judge(learned: str, *parts: tuple) -> str:
    """Return a text about the first answer that is open or wrong, or else what was learned.

    Each part is (name, answer, right answer, hint), and a tolerance if `is_close` needs one.
    """
    for name, given, right, hint, *tolerance in parts:
        if text := unanswered(**{name: given}):
            return text
        if not is_close(given, right, *tolerance):
            return f"{WRONG} {name} is {given!r}. {hint}"
    return f"{RIGHT} {learned}"


def unanswered(**answers: Any) -> str:
    """Return a text that names the first answer that is still `...`, or ""."""
    for name, given in answers.items():
        if given is ...:
            return f"{OPEN} put your answer in place of ... for {name}, then run the cell again"
    return ""


def is_close(given: Any, right: float, tolerance: float | None = None) -> bool:
    """Return whether an answer is a number near the right one.

    By default "near" means within 1 % of the right number, or rounded to two digits or more: for
    0.0116 the answers 0.0116, 0.0117 and 0.012 are right, and 0.01 and 0 are not.

    Parameters
    ----------
    given : number, NumPy number, or array of one number; all else is not near
    right : float
    tolerance : float, optional
        Largest difference that is accepted, instead: 0 for a count.
    """
    number = as_number(given)
    if not math.isfinite(number):
        return False
    right = float(right)
    if tolerance is None:
        rounded = min(_half_of_last_digit(number), 0.05 * abs(right))
        tolerance = max(0.01 * abs(right), rounded)
    return abs(number - right) <= tolerance + ROUNDING_ERROR


def as_number(given: Any) -> float:
    """Return a number, NumPy number or array of one number as a float, and NaN for all else."""
    try:
        if hasattr(given, "item"):  # arrays and tensors, also those on a GPU
            given = given.item()
        return float(given)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last one is PyTorch's
        return math.nan


def _half_of_last_digit(number):
    """Return half a unit of a number's last digit: 0.0005 for 0.012.

    One digit counts as two, because Python shows 0.10 as 0.1.
    """
    shown = Decimal(f"{number:.6g}")  # a float32 has no more digits
    last_digit = int(shown.as_tuple().exponent)
    second_digit = shown.adjusted() - 1
    return 0.5 * 10.0 ** min(last_digit, second_digit)
