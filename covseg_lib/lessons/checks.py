"""What a check of an exercise says: a text that begins with `RIGHT`, `OPEN` or `WRONG`."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

RIGHT, OPEN, WRONG = "Right:", "Not answered yet:", "Not yet:"


def exercise(check: Callable[..., str]) -> Callable[..., str]:
    """Let a check name the first of its arguments that is still `...`, before it does anything."""
    names = list(inspect.signature(check).parameters)

    @functools.wraps(check)
    def checked(*arguments):
        for name, given in zip(names, arguments, strict=True):
            if given is ...:
                return f"{OPEN} put your answer in place of ... for {name}, then run the cell again"
        return check(*arguments)

    return checked


def verdict(learned: str, *parts: tuple) -> str:
    """Return what is said about answers: the first that is wrong, or what was learned.

    Parameters
    ----------
    learned : str
        Follows `RIGHT`.
    *parts
        (name, answer, right answer, hint), and the tolerance if it is not that of `is_close`. The
        hint follows `WRONG` and the wrong answer.
    """
    for name, given, right, hint, *tolerance in parts:
        if not is_close(given, right, *tolerance):
            return f"{WRONG} {name} is {given!r}. {hint}"
    return f"{RIGHT} {learned}"


def is_close(given: Any, right: float, tolerance: float | None = None) -> bool:
    """Return whether an answer is a number near the right one.

    By default it may be rounded: to 1 %, and to two decimals.
    """
    if tolerance is None:
        tolerance = max(0.01 * abs(right), 0.005)
    try:
        return bool(abs(float(given) - right) <= tolerance)
    except (TypeError, ValueError):
        return False
