"""Adds up what several processes of a gateway keep of failed and slow requests and of changes: as rows, for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kateway.observe.troubles import MOST_EVENTS, MOST_SAMPLES, MOST_SLOW, ErrorGroup

Row = dict[str, Any]
PROCESS = "process"
"""The member that names the process, where there are several."""


def error_group(group: ErrorGroup) -> Row:
    """A group of failed requests; the newest sample comes first."""
    return {
        "reason": group.reason,
        "application": group.application,
        "topic": group.topic,
        "count": group.count,
        "first": group.first,
        "last": group.last,
        "samples": [failed._asdict() for failed in reversed(group.samples)],
    }


def of_process(rows: Iterable[Row], process: int | None) -> list[Row]:
    """The rows with the process that they are of."""
    return list(rows) if process is None else [{**row, PROCESS: process} for row in rows]


def error_groups(of_all: Mapping[int | None, Iterable[Row]]) -> list[Row]:
    """The groups of all processes, the one that failed last first."""
    found: dict[tuple[str, str, str], Row] = {}
    for process, rows in of_all.items():
        for given in rows:
            row = {**given, "samples": of_process(given["samples"], process)}
            key = row["reason"], row["application"], row["topic"]
            before = found.get(key)
            if before is not None:
                samples = sorted([*before["samples"], *row["samples"]], key=lambda each: -each["at"])
                row |= {
                    "count": before["count"] + row["count"],
                    "first": min(before["first"], row["first"]),
                    "last": max(before["last"], row["last"]),
                    "samples": samples[:MOST_SAMPLES],
                }
            found[key] = row
    return sorted(found.values(), key=lambda row: -row["last"])


def slowest(of_all: Mapping[int | None, Iterable[Row]]) -> list[Row]:
    """The slowest requests of all processes, the slowest first."""
    found = [row for process, rows in of_all.items() for row in of_process(rows, process)]
    return sorted(found, key=lambda row: -row["seconds"])[:MOST_SLOW]


def newest(of_all: Mapping[int | None, Iterable[Row]]) -> list[Row]:
    """What changed in all processes, the newest first."""
    found = [row for process, rows in of_all.items() for row in of_process(rows, process)]
    return sorted(found, key=lambda row: -row["at"])[:MOST_EVENTS]
