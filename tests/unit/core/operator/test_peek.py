"""A look at records: what is found, how far it went, and why it went no further."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import Clock

from kateway.core.operator.peek import Bounds, Peeked, Span, peek
from kateway.core.reads import Run
from kateway.model import Record

WIDE = Bounds(1000, 1 << 20, 5.0)


class Runs:
    """A read that gives its runs; ``None`` among them stands for one that never comes."""

    incomplete = False

    def __init__(self, *runs: Run | None) -> None:
        self.runs = list(runs)

    async def first(self, wait_seconds: float, max_bytes: int) -> Run | None:
        assert wait_seconds == 0
        return await self.next(max_bytes)

    async def next(self, max_bytes: int) -> Run | None:
        assert max_bytes > 0
        if not self.runs:
            return None
        run = self.runs.pop(0)
        if run is None:
            await Deferred()
        return run


def records(first: int, count: int, size: int = 10) -> list[Record]:
    return [Record(offset, 0, None, b"x" * size) for offset in range(first, first + count)]


def looked(
    read: Runs,
    *,
    wanted: Callable[[Record], bool] = lambda _record: True,
    limit: int = 100,
    bounds: Bounds = WIDE,
    clock: Clock | None = None,
) -> Deferred[Peeked]:
    return ensureDeferred(peek(read, wanted, limit, bounds, clock or Clock()))


def result(looking: Deferred[Peeked]) -> Peeked:
    found: list[Peeked] = []
    looking.addCallback(found.append)
    return found[0]


def test_look_that_meets_the_end_says_so_with_its_spans() -> None:
    peeked = result(looked(Runs((0, records(5, 3)), (1, records(0, 1)), (0, records(8, 2)))))
    assert [(partition, record.offset) for partition, record in peeked.found] == [
        (0, 5), (0, 6), (0, 7), (1, 0), (0, 8), (0, 9),
    ]  # fmt: skip
    assert peeked.spans == {0: Span(5, 9), 1: Span(0, 0)}
    assert (peeked.records, peeked.bytes, peeked.stopped) == (6, 60, "end")


@pytest.mark.parametrize(
    ("limit", "bounds", "stopped", "seen"),
    [
        (2, WIDE, "limit", 2),
        (100, WIDE._replace(max_records=3), "records", 3),
        (100, WIDE._replace(max_bytes=25), "bytes", 3),
        (10, WIDE, "limit", 10),
    ],
)
def test_look_stops_at_the_first_bound(limit: int, bounds: Bounds, stopped: str, seen: int) -> None:
    peeked = result(looked(Runs((0, records(0, 10))), limit=limit, bounds=bounds))
    assert (peeked.stopped, peeked.records, len(peeked.found)) == (stopped, seen, seen)


def test_records_that_are_not_wanted_count_as_scanned() -> None:
    peeked = result(looked(Runs((0, records(0, 10))), wanted=lambda record: record.offset == 7, limit=1))
    assert [record.offset for _, record in peeked.found] == [7]
    assert (peeked.records, peeked.stopped) == (8, "limit")


def test_store_that_does_not_answer_ends_the_look_in_time_with_what_was_found() -> None:
    clock = Clock()
    looking = looked(Runs((0, records(0, 2)), None), clock=clock)
    clock.advance(4.9)
    assert not looking.called
    clock.advance(0.2)
    peeked = result(looking)
    assert (peeked.stopped, len(peeked.found), round(peeked.seconds, 1)) == ("seconds", 2, 5.1)
    assert clock.getDelayedCalls() == []


def test_caller_that_goes_cancels_the_look() -> None:
    clock = Clock()
    looking = looked(Runs(None), clock=clock)
    looking.cancel()
    looking.addErrback(lambda failure: failure.trap(CancelledError) and None)
    assert clock.getDelayedCalls() == []


def test_newest_records_that_did_not_fit_end_it_with_bytes() -> None:
    read = Runs((0, records(0, 2)))
    read.incomplete = True
    assert result(looked(read)).stopped == "bytes"


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), max_size=10),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 120),
)
def test_any_look_is_a_prefix_within_its_bounds(runs: list[tuple[int, int]], limit: int, most: int, size: int) -> None:
    ends = {0: 0, 1: 0, 2: 0}
    given: list[Run] = []
    for partition, count in runs:
        given.append((partition, records(ends[partition], count)))
        ends[partition] += count
    all_records = [(partition, record) for partition, run in given for record in run]
    peeked = result(looked(Runs(*given), limit=limit, bounds=Bounds(most, size, 5.0)))
    assert peeked.found == all_records[: len(peeked.found)]
    assert len(peeked.found) == peeked.records <= min(limit, most)
    assert peeked.bytes < size + 10
    assert (peeked.stopped == "end") == (peeked.records == len(all_records) and peeked.records < limit)
