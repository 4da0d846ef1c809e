"""Looks at records without a group: through a read, for those that are wanted, and never further than its bounds."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IReactorTime

from kateway.core.reads import Read, Run
from kateway.model import Record

Stopped = Literal["limit", "end", "records", "bytes", "seconds"]
"""Why a look ended: so many were found, there was no more, or a bound was reached."""


class Bounds(NamedTuple):
    """How far one look goes at most."""

    max_records: int
    max_bytes: int
    max_seconds: float


class Span(NamedTuple):
    """The offsets that were looked at in one partition, the last one included."""

    first: int
    last: int


class Peeked(NamedTuple):
    """Records that were found, each with its partition, and how far the look went."""

    found: list[tuple[int, Record]]
    records: int
    bytes: int
    seconds: float
    spans: dict[int, Span]
    stopped: Stopped


async def peek(read: Read, wanted: Callable[[Record], bool], limit: int, bounds: Bounds, clock: IReactorTime) -> Peeked:
    """Finds at most ``limit`` records that are ``wanted``, in the order of the read. Waits for none to come."""
    began = clock.seconds()
    found: list[tuple[int, Record]] = []
    spans: dict[int, Span] = {}
    records = size = 0
    stopped: Stopped = "end"

    async def in_time(reading: Coroutine[Any, Any, Run | None]) -> Run | None:
        left = max(began + bounds.max_seconds - clock.seconds(), 0.0)
        return await Deferred.fromCoroutine(reading).addTimeout(left, clock)

    def look(run: Run) -> Stopped | None:
        nonlocal records, size
        partition, run_records = run
        for record in run_records:
            if records >= bounds.max_records:
                return "records"
            if size >= bounds.max_bytes:
                return "bytes"
            records += 1
            size += len(record.value or b"") + len(record.key or b"")
            spans[partition] = Span(spans[partition].first if partition in spans else record.offset, record.offset)
            if wanted(record):
                found.append((partition, record))
                if len(found) == limit:
                    return "limit"
        return None

    try:
        run = await in_time(read.first(0, bounds.max_bytes))
        while run is not None:
            over = look(run)
            if over is None and clock.seconds() - began >= bounds.max_seconds:
                over = "seconds"
            if over is not None:
                stopped = over
                break
            run = await in_time(read.next(max(bounds.max_bytes - size, 1)))
        if run is None and read.incomplete:
            stopped = "bytes"
    except TookTooLong:
        stopped = "seconds"
    return Peeked(found, records, size, clock.seconds() - began, spans, stopped)
