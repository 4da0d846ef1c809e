"""Adds up the figures of several processes of one gateway; what has no sum is told for each, by its process."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from kateway.observe import families
from kateway.observe.cells import Counter, Histogram
from kateway.observe.families import FAMILIES, Family
from kateway.observe.render import Labels, Samples, Value

PROCESS = "process"
"""The label."""
OF_EACH = frozenset(
    family.name
    for family in (
        families.STORE_UP, families.BREAKER_STATE, families.REGISTRY_UP, families.GENERATION, families.RELOAD_SUCCESS,
        families.RELOAD_TIME, families.DRAINING, families.RESIDENT, families.OPEN_FILES, families.MAX_FILES,
        families.STARTED,
    )
)  # fmt: skip
"""Gauges that have no sum."""
HIGHEST = frozenset(
    family.name
    for family in (
        families.GROUP_OLDEST,
        families.GROUP_OLDEST_UNACKNOWLEDGED,
        families.STORE_HANDOFF_OLDEST,
        families.QUOTA_USED,
    )
)
"""Gauges of which the highest is the gateway's."""
OF_PARTITIONS = frozenset({families.GROUP_LAG.name, families.GROUP_DEAD.name})
"""Gauges of which a process that is a member of the group tells its partitions' part, and one that is not the whole."""

Table = Mapping[str, list[Any]]
"""By family: label sets with their values."""


def encode(samples: Samples) -> bytes:
    """A process's figures, for another to add up."""
    return orjson.dumps(
        {family.name: [[labels, _plain(value)] for labels, value in found] for family, found in samples}
    )


def added_up(
    own_process: int,
    own: Samples,
    others: Mapping[int, Table],
    unanswered: Sequence[int] = (),
    members: Collection[Labels] = (),
) -> Samples:
    """All figures of a gateway, of which ``own_process`` has those that are here, without those of ``unanswered``;
    ``members``: groups that it is a member of, by the labels of what they read.
    """
    for family, rows in own:
        found: Iterable[tuple[Labels, Value]] = rows
        theirs = {process: table.get(family.name, []) for process, table in others.items()}
        if family.name in OF_PARTITIONS:
            found, theirs = _parts(family, found, theirs, members, others)
        if family.name in OF_EACH:
            labelled = [((*labels, str(own_process)), value) for labels, value in found]
            for process, table in theirs.items():
                labelled += [((*labels, str(process)), float(value)) for labels, value in table]
            yield family._replace(labels=(*family.labels, PROCESS)), labelled
        elif family.name == families.PROCESS_UP.name:
            yield family, [*_sums(family, dict(found), theirs), *(((str(process),), 0.0) for process in unanswered)]
        else:
            yield family, _sums(family, dict(found), theirs)


def _parts(
    family: Family,
    found: Iterable[tuple[Labels, Value]],
    theirs: Mapping[int, list[Any]],
    members: Collection[Labels],
    others: Mapping[int, Table],
) -> tuple[list[tuple[Labels, Value]], dict[int, list[Any]]]:
    """Leaves out what a process tells of a whole group where another tells its part of it, or has told the whole."""
    of_members = {
        process: {tuple(labels) for labels, _ in table.get(families.SUBSCRIBE_READERS.name, ())}
        for process, table in others.items()
    }
    read = set(members).union(*of_members.values())
    told: set[Labels] = set()

    def counts(labels: Labels, own: Collection[Labels]) -> bool:
        place = _read_as(family, labels)
        if place in own:
            return True
        if place in read or labels in told:
            return False
        told.add(labels)
        return True

    kept = [(labels, value) for labels, value in found if counts(labels, members)]
    return kept, {
        process: [row for row in rows if counts(tuple(row[0]), of_members[process])] for process, rows in theirs.items()
    }


def _read_as(family: Family, labels: Labels) -> Labels:
    """The labels that a group's readers have: those of dead letters read another topic."""
    if family.name != families.GROUP_DEAD.name:
        return labels
    application, topic, version, group, reader = labels
    return application, f"{topic}.{group}.dead", version, group, reader


def _sums(
    family: Family, found: dict[Labels, Value], theirs: Mapping[int, list[Any]]
) -> Iterator[tuple[Labels, Value]]:
    for rows in theirs.values():
        for names, plain in rows:
            labels = tuple(names)
            value = _value(family, plain)
            if value is not None:
                before = found.get(labels)
                found[labels] = value if before is None else _sum(family, before, value)
    yield from found.items()


def _sum(family: Family, one: Value, other: Value) -> Value:
    if isinstance(one, Histogram) and isinstance(other, Histogram):
        both = Histogram(family.buckets)
        both.counts = [a + b for a, b in zip(one.counts, other.counts, strict=True)]
        both.total = one.total + other.total
        return both
    first, second = _number(one), _number(other)
    if family.kind == "info":
        return first
    return max(first, second) if family.name in HIGHEST else first + second


def _number(value: Value) -> float:
    assert not isinstance(value, Histogram)
    return value.value if isinstance(value, Counter) else value


def _plain(value: Value) -> Any:
    if isinstance(value, Histogram):
        return [value.counts, value.total]
    return _number(value)


def _value(family: Family, plain: Any) -> Value | None:
    if family.kind != "histogram":
        return float(plain)
    counts, total = plain
    if len(counts) != len(family.buckets) + 1:
        return None  # of another version, with other buckets
    histogram = Histogram(family.buckets)
    histogram.counts = list(counts)
    histogram.total = total
    return histogram


assert FAMILIES.keys() >= OF_EACH | HIGHEST
