"""Keeps a figure in 16 bits: unknown, nothing, or a level on a scale of logarithms, true to 0.03 %."""

from __future__ import annotations

from math import exp, log

UNKNOWN = 0
NOTHING = 1
LEAST = 1e-4
"""What is smaller is as large as this: it is not nothing."""
_FIRST = 2
_LAST = 65535
_STEP = 0.0006
"""Between two levels, of the natural logarithm: the largest is 1.2e13."""
_LOG_LEAST = log(LEAST)


def level(figure: float | None) -> int:
    """Returns a figure's level; larger figures have higher levels."""
    if figure is None:
        return UNKNOWN
    if figure <= 0.0:
        return NOTHING
    return min(max(round((log(figure) - _LOG_LEAST) / _STEP) + _FIRST, _FIRST), _LAST)


def figure(level: int) -> float | None:
    """Returns the figure of a level."""
    if level <= NOTHING:
        return None if level == UNKNOWN else 0.0
    return exp(_LOG_LEAST + (level - _FIRST) * _STEP)
