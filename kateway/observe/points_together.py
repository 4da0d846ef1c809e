"""Adds up series that several processes of a gateway keep of one object."""

from __future__ import annotations

from collections.abc import Sequence

from kateway.observe.rings import Points

HIGHEST = frozenset(
    {"oldest_seconds", "oldest_seconds_max", "stores_up", "breakers_open", "registry_up", "generation", "draining"}
)
"""Series of which the highest is the gateway's: ages, and what each process sees of the same thing."""


def together(series: str, of_all: Sequence[Points]) -> Points:
    """One series, of the points of every process; unknown only where it is unknown to all."""
    known = [points for points in of_all if any(figure is not None for figure in points.figures)]
    if not known:
        return of_all[0]
    # the one that has its newest sample still to come says where the window ends
    first = min(known, key=lambda points: points.start)
    figures = list(first.figures)
    combined = max if series in HIGHEST else _sum
    for points in known:
        if points is first:
            continue
        shift = (points.start - first.start) // first.step_seconds
        for place, figure in enumerate(points.figures):
            at = place + shift
            if figure is not None and 0 <= at < len(figures):
                before = figures[at]
                figures[at] = figure if before is None else combined(before, figure)
    return first._replace(figures=figures)


def _sum(one: float, other: float) -> float:
    return one + other
