"""Estimates a quantile from how many values were at most each of some bounds."""

from __future__ import annotations

from collections.abc import Sequence


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float | None:
    """Returns the value that this share does not exceed; ``None`` of nothing. Values lie evenly between two bounds; of
    those beyond the last bound no more is known than that.
    """
    wanted = sum(counts) * share
    if wanted <= 0:
        return None
    low = below = 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if below + count >= wanted:
            return low + (bound - low) * (wanted - below) / count
        low = bound
        below += count
    return float(bounds[-1])
