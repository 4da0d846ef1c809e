"""Writes metrics as text: Prometheus' 0.0.4, OpenMetrics 1.0, or InfluxDB's line protocol.

All are generators of pieces, one for each label set, so that the reactor runs between them: 40,000 series take half a
second, and no slice more than ``SLICE_SECONDS``.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from math import isfinite, isnan
from typing import NamedTuple

from kateway.observe.cells import Counter, Example, Histogram
from kateway.observe.families import Family

SLICE_SECONDS = 0.0005
GZIP_PIECE_BYTES = 8192
"""Given to zlib at once: a quarter of a millisecond."""
GZIP_LEVEL = 1

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
INFLUX = "text/plain; charset=utf-8"

Labels = tuple[str, ...]
Value = float | Counter | Histogram


Samples = Iterable[tuple[Family, Iterable[tuple[Labels, Value]]]]
"""Families in their order, each with its label sets."""


def text(samples: Samples) -> Iterator[bytes]:
    """Writes Prometheus' text format 0.0.4."""
    for family, found in samples:
        kind = "gauge" if family.kind == "info" else family.kind
        yield f"# HELP {family.name} {_help(family.help)}\n# TYPE {family.name} {kind}\n".encode()
        for labels, value in found:
            yield _lines(family, family.name, labels, value)


def openmetrics(samples: Samples) -> Iterator[bytes]:
    """Writes OpenMetrics 1.0."""
    for family, found in samples:
        stem = family.stem
        unit = f"# UNIT {stem} {family.unit}\n" if family.unit else ""
        text = _help(family.help).replace('"', '\\"')
        yield f"# HELP {stem} {text}\n# TYPE {stem} {family.kind}\n{unit}".encode()
        for labels, value in found:
            yield _lines(family, family.name, labels, value, examples=True)
    yield b"# EOF\n"


def influx(samples: Samples, tags: dict[str, str], at: float) -> Iterator[bytes]:
    """Writes InfluxDB's line protocol: one line a label set, with the fields of all families of a measurement.

    Empty pieces say only that work was done. A tag without a value is left out.
    """
    lines: dict[str, list[str]] = {}
    for family, found in samples:
        measurement, field = _measured(family)
        whole = family.kind != "histogram" and family.unit in {"", "bytes", "records"}
        for labels, value in found:
            pairs = {**tags, **dict(zip(family.labels, labels, strict=True))}
            head = measurement + "".join(
                f",{_tag(name)}={_tag(pairs[name])}" for name in sorted(pairs) if pairs[name] != ""
            )
            fields = lines.setdefault(head, [])
            if isinstance(value, Histogram):
                fields += _influx_histogram(field, value)
            else:
                number = value.value if isinstance(value, Counter) else value
                if isfinite(number):  # the protocol has no other numbers
                    fields.append(f"{field}={int(number)}i" if whole else f"{field}={float(number)!r}")
            yield b""
    seconds = int(at)
    for head, fields in lines.items():
        yield f"{head} {','.join(fields)} {seconds}\n".encode() if fields else b""


async def in_slices(
    pieces: Iterable[bytes], seconds: Callable[[], float], pause: Callable[[], Awaitable[object]], *, gzip: bool = False
) -> bytes:
    """Joins pieces, and pauses whenever a slice is over; ``seconds`` is a clock that runs meanwhile."""
    done: list[bytes] = []
    waiting: list[bytes] = []
    size = 0
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31) if gzip else None
    until = seconds() + SLICE_SECONDS
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= GZIP_PIECE_BYTES:
            joined = b"".join(waiting)
            done.append(joined if packer is None else packer.compress(joined))
            waiting.clear()
            size = 0
        if seconds() >= until:
            await pause()
            until = seconds() + SLICE_SECONDS
    joined = b"".join(waiting)
    done.append(joined if packer is None else packer.compress(joined) + packer.flush())
    return b"".join(done)


class Body(NamedTuple):
    """Some lines, compressed."""

    content: bytes
    lines: int


async def in_bodies(
    pieces: Iterable[bytes], max_lines: int, seconds: Callable[[], float], pause: Callable[[], Awaitable[object]]
) -> list[Body]:
    """Joins pieces of a line each into bodies of at most so many lines, and pauses as ``in_slices`` does."""
    left = iter(pieces)
    bodies = []
    while True:
        part = _Part(left, max_lines)
        content = await in_slices(part, seconds, pause, gzip=True)
        if part.lines:
            bodies.append(Body(content, part.lines))
        if part.lines < max_lines:
            return bodies


class _Part:
    """Gives pieces until so many of them were lines; empty ones are none."""

    def __init__(self, pieces: Iterator[bytes], max_lines: int) -> None:
        self.lines = 0
        self._pieces = pieces
        self._max_lines = max_lines

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.lines += piece != b""
            yield piece
            if self.lines == self._max_lines:
                return


def _lines(family: Family, name: str, labels: Labels, value: Value, *, examples: bool = False) -> bytes:
    if isinstance(value, Histogram):
        return _histogram(family, name, labels, value, (value.examples or {}) if examples else {})
    number = value.value if isinstance(value, Counter) else value
    if not labels:
        return f"{name} {_number(number)}\n".encode()
    return f"{name}{{{_labels(family, labels)}}} {_number(number)}\n".encode()


def _histogram(family: Family, name: str, labels: Labels, value: Histogram, examples: Mapping[int, Example]) -> bytes:
    inner = _labels(family, labels)
    before = f"{inner}," if inner else ""
    found = []
    count = 0
    for place, (bound, more) in enumerate(zip(value.bounds, value.counts, strict=False)):
        count += more
        found.append(f'{name}_bucket{{{before}le="{bound!r}"}} {count}{_exemplar(examples.get(place))}\n')
    count += value.counts[-1]
    beyond = _exemplar(examples.get(len(value.bounds)))
    found.append(f'{name}_bucket{{{before}le="+Inf"}} {count}{beyond}\n')
    around = f"{{{inner}}}" if inner else ""
    found.append(f"{name}_sum{around} {_number(value.total)}\n{name}_count{around} {count}\n")
    return "".join(found).encode()


def _exemplar(example: Example | None) -> str:
    if example is None:
        return ""
    return f' # {{trace_id="{example.trace_id}"}} {example.value:.9f} {example.at:.3f}'


def _labels(family: Family, labels: Labels) -> str:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in zip(family.labels, labels, strict=True)])


def _escaped(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value


def _help(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if not isfinite(value):
        return "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"
    whole = int(value)
    # beyond 2**53 a float has no exact count of its own either
    return str(whole) if whole == value else repr(float(value))


def _measured(family: Family) -> tuple[str, str]:
    """Parts a family's name into measurement and field: ``kateway_publish`` and ``records``."""
    name = family.name.removesuffix("_total")
    if not name.startswith("kateway_"):
        first, _, field = name.partition("_")
        return first, field
    first, _, field = name.removeprefix("kateway_").partition("_")
    return (f"kateway_{first}", field) if field else ("kateway", first)


def _influx_histogram(field: str, value: Histogram) -> Iterator[str]:
    count = 0
    for bound, more in zip(value.bounds, value.counts, strict=False):
        count += more
        yield f"{field}_le_{bound!r}={count}i"
    count += value.counts[-1]
    yield f"{field}_sum={float(value.total)!r}"
    yield f"{field}_count={count}i"


def _tag(value: str) -> str:
    # a line feed cannot be said, and a backslash before a sign of the grammar would take its place
    value = value.replace("\n", " ").replace("\\", "/")
    return value.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")
