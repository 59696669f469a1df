"""How the checks judge a student's answers: right, still open, or wrong with a hint."""

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

    By default it may be rounded: to 1 %, and to two decimals.
    """
    if tolerance is None:
        tolerance = max(0.01 * abs(right), 0.005)
    try:
        return bool(abs(float(given) - right) <= tolerance)
    except (TypeError, ValueError):
        return False
