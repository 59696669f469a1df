"""How the checks judge a student's answers: right, still open, or wrong with a hint."""

import math
from decimal import Decimal
from typing import Any

RIGHT, OPEN, WRONG = "Right:", "Not answered yet:", "Not yet:"


def judge(learned: str, *parts: tuple) -> str:
    """Return a text about the first answer that is open or wrong, or else what was learned.

    Each part is (name, answer, right answer, hint), and a tolerance if `is_close` needs another.
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

    Without a tolerance it may be off by 1 % of the right answer. With two digits or more it may
    also be rounded to these, as long as that changes it by at most 5 %.

    >>> is_close(0.0025, 0.00249), is_close(0.9, 0.94), is_close(0, 0.00249)
    (True, False, False)
    """
    try:
        found = float(given)
    except (TypeError, ValueError):
        return False
    if not math.isfinite(found):
        return False
    if tolerance is None:
        rounded = min(rounding_error(found), 0.05 * abs(right))
        tolerance = max(0.01 * abs(right), rounded)
    return bool(abs(found - right) <= tolerance + 1e-9)  # what computers lose by rounding


def rounding_error(number: float) -> float:
    """Return half a unit of the last decimal digit of a number; 0 if it has only one digit.

    >>> rounding_error(0.25), rounding_error(120.0), rounding_error(0.2)
    (0.005, 0.5, 0.0)
    """
    _, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    if len(digits) == 1:
        return 0.0
    return 0.5 * 10.0 ** min(int(exponent), 0)
