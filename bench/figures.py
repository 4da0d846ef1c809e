"""The figures that are measured, what each is to reach, and the table that shows both."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Figure(NamedTuple):
    """One line of the table."""

    name: str
    what: str
    unit: str
    """``/s`` counts the better the higher; everything else the better the lower."""
    reach: float | None = None
    against: str = ""
    """The figure that it is compared with, run by run."""
    reach_ratio: float | None = None

    @property
    def higher_is_better(self) -> bool:
        return self.unit == "/s"


FIGURES = (
    Figure("bare-64", "bare httptools protocol, 64 connections", "/s"),
    Figure("publish-64", "POST, 64 connections", "/s", 14_000, "bare-64", 0.55),
    Figure("bare-256", "bare httptools protocol, 256 connections", "/s"),
    Figure("publish-256", "POST, 256 connections", "/s", 20_000, "bare-256", 0.85),
    Figure("librdkafka-1", "librdkafka, one message in flight: p50", "ms"),
    Figure("publish-1", "POST, 1 connection: p50", "ms", 0.9, "librdkafka-1", 1.5),
    Figure("batch-16", "POST of 100 records, 16 connections: records", "/s", 150_000),
    Figure("embedded-64", "embedded store, POST, 64 connections", "/s", 10_000, "bare-64"),
    Figure("librdkafka-read", "librdkafka's Python consumer into tuples: records", "/s"),
    Figure("read-raw", "GET raw, one reader: records", "/s", 300_000, "librdkafka-read", 0.8),
    Figure("read-ndjson", "GET NDJSON, one reader: records", "/s", 200_000, "librdkafka-read"),
    Figure("start-kafka", "memory after start, Kafka", "MB", 60),
    Figure("start-embedded", "memory after start, embedded store", "MB", 60),
    Figure("connection", "memory of an idle keep-alive connection", "kB", 20),
    Figure("growth", "memory: growth under load", "MB", 2),
)
BY_NAME = {figure.name: figure for figure in FIGURES}
AGAINST_HEADINGS = ("what", "server", "median", "ratio", "CPU each", "CPU ratio")
AGAINST_WIDTHS = (34, 20, 14, 8, 10, 8)
HEADINGS = ("what", "median", "lowest to highest", "reach", "ratio", "reach", "CPU each", "")
WIDTHS = (34, 12, 16, 12, 7, 8, 10, 8)


class Results:
    """What the rounds gave: values by name, one for each round, and the CPU time of the daemon for each unit."""

    def __init__(self, figures: Sequence[Figure] = FIGURES) -> None:
        self.figures = figures
        self.values: dict[str, list[float]] = {}
        self.cpu_microseconds: dict[str, list[float]] = {}
        self.failures: dict[str, list[str]] = {}

    def rows(self) -> list[tuple[str, ...]]:
        """The table's lines, for what was measured."""
        measured = {*self.values, *self.failures}
        return [self._row(figure) for figure in self.figures if figure.name in measured]

    def ratio(self, figure: Figure) -> float | None:
        """The median of the ratios within the same rounds."""
        own, other = self.values.get(figure.name, []), self.values.get(figure.against, [])
        ratios = [mine / theirs for mine, theirs in zip(own, other, strict=False) if theirs]
        return statistics.median(ratios) if ratios else None

    def rows_against(self, measure: str, servers: Mapping[str, str]) -> list[tuple[str, ...]]:
        """What each server gave beside ``measure``, and the ratios to it: the medians of those within the same rounds.

        ``servers`` are names to show, by what they are kept as; the figures of the first are kept without an ``@``.
        """
        rows: list[tuple[str, ...]] = []
        for figure in self.figures:
            beside = f"{figure.name}@{measure}"
            for server, shown in (*servers.items(), (measure, measure)) if beside in self.values else ():
                name = f"{figure.name}@{server}" if server else figure.name
                values, cpu = self.values.get(name), self.cpu_microseconds.get(name)
                if not values:
                    rows.append((figure.what, shown, "failed", "", "", ""))
                    continue
                own = name == beside
                rows.append(
                    (
                        figure.what,
                        shown,
                        _shown(statistics.median(values), figure.unit),
                        "" if own else _ratio(values, self.values[beside]),
                        f"{statistics.median(cpu):.4g} µs" if cpu else "",
                        "" if own or not cpu else _ratio(cpu, self.cpu_microseconds[beside]),
                    )
                )
        return rows

    def _row(self, figure: Figure) -> tuple[str, ...]:
        values = self.values.get(figure.name)
        if not values:
            return (figure.what, "failed", *[""] * 6)
        median = statistics.median(values)
        ratio = self.ratio(figure)
        cpu = self.cpu_microseconds.get(figure.name)
        missed = (
            (figure.reach is not None and not _reached(figure, median, figure.reach)),
            (figure.reach_ratio is not None and ratio is not None and not _reached(figure, ratio, figure.reach_ratio)),
        )
        return (
            figure.what,
            _shown(median, figure.unit),
            f"{_shown(min(values), '')} to {_shown(max(values), '')}" if len(values) > 1 else "",
            "" if figure.reach is None else _limit(figure, _shown(figure.reach, figure.unit)),
            "" if ratio is None else f"{ratio:.2f}",
            "" if figure.reach_ratio is None else _limit(figure, f"{figure.reach_ratio:.2f}"),
            f"{statistics.median(cpu):.4g} µs" if cpu else "",
            "missed" if any(missed) else "" if figure.reach is None else "reached",
        )


def _ratio(own: Sequence[float], other: Sequence[float]) -> str:
    return f"{statistics.median(mine / theirs for mine, theirs in zip(own, other, strict=False)):.2f}"


def _reached(figure: Figure, value: float, reach: float) -> bool:
    return value >= reach if figure.higher_is_better else value <= reach


def _limit(figure: Figure, shown: str) -> str:
    return ("≥ " if figure.higher_is_better else "≤ ") + shown


def _shown(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{number} {unit}".rstrip()


def text_table(rows: Sequence[tuple[str, ...]], headings: Sequence[str] = HEADINGS) -> str:
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    out = []
    for number, line in enumerate(lines):
        cells = [cell.ljust(width) if not column else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(line, widths, strict=True))]  # fmt: skip
        out.append("  ".join(cells).rstrip())
        if not number:
            out.append("  ".join("-" * width for width in widths))
    return "\n".join(out)


def rst_table(
    rows: Sequence[tuple[str, ...]],
    facts: Mapping[str, str],
    headings: Sequence[str] = HEADINGS,
    widths: Sequence[int] = WIDTHS,
) -> str:
    """The table for the documents, with where and how it was measured above it."""
    out = [f":{name}: {value}" for name, value in facts.items()]
    out += ["", ".. list-table::", "   :header-rows: 1", f"   :widths: {' '.join(map(str, widths))}", ""]
    for line in (headings, *rows):
        for column, cell in enumerate(line):
            out.append(f"   {'* -' if not column else '  -'} {cell}".rstrip())
    return "\n".join(out) + "\n"
