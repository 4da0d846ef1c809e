"""Joins what was counted and what is sampled at the scrape, in the order of the families."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from kateway.observe.bundles import OTHER
from kateway.observe.families import FAMILIES, Family
from kateway.observe.render import Labels, Samples, Value
from kateway.observe.series import Series

Sampled = tuple[Family, Labels, float]
Sampler = Callable[[], Iterable[Sampled]]
"""Gives the gauges of one part of the gateway from its live state; never asks a store."""


def gathered(
    samplers: Iterable[Sampler], wanted: Collection[str], found: dict[str, dict[Labels, Value]]
) -> Iterator[bytes]:
    """Samples into ``found``, by family and labels. Gives empty pieces, so that the reactor can run in between.

    What has no room shares a label set: it is added up, or the highest taken of times and shares.
    """
    for sampler in samplers:
        for family, labels, value in sampler():
            if family.name in wanted:
                sampled = found.setdefault(family.name, {})
                before = sampled.get(labels)
                if isinstance(before, float) and labels[:1] == (OTHER,):
                    sampled[labels] = max(before, value) if family.unit in {"seconds", "ratio"} else before + value
                else:
                    sampled[labels] = value
            yield b""


def exposed(series: Series, wanted: Collection[str], sampled: dict[str, dict[Labels, Value]]) -> Samples:
    """Gives the families that are wanted with all of their label sets."""
    for name, family in FAMILIES.items():
        if name in wanted:
            counted: list[tuple[Labels, Value]] = list(series.cells(family))
            yield family, counted + list(sampled.get(name, {}).items())
