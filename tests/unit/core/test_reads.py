"""Reads without a group over all partitions: against a sorted list, with small answers, holes and retention."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_store import Store, log
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock

from kateway.core.reads import MERGED_BYTES, MOST_LAST, MergedRead, NewestRead, PartitionRead, Read, Start
from kateway.errors import InvalidParameter, Unavailable
from kateway.model import Record


def read_all(read: Read, clock: Clock, wait: float = 0, max_bytes: int = MERGED_BYTES) -> list[tuple[int, int, int]]:
    """Everything that a read gives: (time, partition, offset)."""

    async def run() -> list[tuple[int, int, int]]:
        found = []
        run = await read.first(wait, max_bytes)
        while run is not None:
            partition, records = run
            assert records
            found += [(record.timestamp, partition, record.offset) for record in records]
            run = await read.next(max_bytes)
        return found

    result: list[list[tuple[int, int, int]]] = []
    reading = ensureDeferred(run())
    reading.addCallback(result.append)
    for _ in range(100):
        if reading.called:
            break
        clock.advance(0.1)
    # a failure is raised here
    failures: list[object] = []
    reading.addErrback(failures.append)
    if failures:
        failures[0].raiseException()  # type: ignore[attr-defined]
    return result[0]


timestamps = st.lists(st.integers(0, 30), max_size=12)


@given(st.lists(timestamps.map(sorted), min_size=1, max_size=5), st.integers(0, 31), st.integers(1, 4))
def test_merged_read_gives_everything_from_a_time_on_in_its_order(logs: list[list[int]], at: int, once: int) -> None:
    store = Store([log(each) for each in logs], once)
    expected = sorted(
        (record.timestamp, number, record.offset)
        for number, each in enumerate(store.logs)
        for record in each
        if record.timestamp >= at
    )
    assert read_all(MergedRead(store, "t", at, Clock()), Clock()) == expected


@given(st.lists(timestamps, min_size=1, max_size=5))
def test_merged_read_keeps_the_order_within_a_partition_whatever_its_times(logs: list[list[int]]) -> None:
    found = read_all(MergedRead(Store([log(each) for each in logs]), "t", 0, Clock()), Clock())
    for number, each in enumerate(logs):
        assert [offset for _, partition, offset in found if partition == number] == list(range(len(each)))


@given(st.lists(timestamps, min_size=1, max_size=5), st.integers(1, 20), st.integers(1, 4))
def test_newest_read_gives_the_last_by_time_of_each_partitions_last(
    logs: list[list[int]], count: int, once: int
) -> None:
    store = Store([log(each) for each in logs], once)
    candidates = sorted(
        (record.timestamp, number, record.offset)
        for number, each in enumerate(store.logs)
        for record in each[max(0, len(each) - count) :]
    )
    assert read_all(NewestRead(store, "t", count, Clock()), Clock()) == candidates[-count:]


def test_newest_read_holds_no_more_than_its_bytes_and_leaves_no_gap() -> None:
    store = Store([log([1, 3, 5], 100), [Record(0, 4, None, b"x" * 1000)]])
    assert read_all(NewestRead(store, "t", 10, Clock()), Clock(), max_bytes=250) == [(5, 0, 2)]


def test_newest_read_of_too_many_is_refused() -> None:
    with pytest.raises(InvalidParameter):
        NewestRead(Store([]), "t", MOST_LAST + 1, Clock())


@pytest.mark.parametrize("kind", ["merged", "newest"])
def test_read_at_the_end_waits_for_a_record_of_any_partition(kind: str) -> None:
    clock = Clock()
    store = Store([[], [], []])
    clock.callLater(2.0, store.logs[1].extend, log([7]))
    read = MergedRead(store, "t", 0, clock) if kind == "merged" else NewestRead(store, "t", 5, clock)
    assert read_all(read, clock, wait=5.0) == [(7, 1, 0)]
    assert 2.0 <= clock.seconds() < 2.6


def test_read_at_the_end_ends_with_its_wait() -> None:
    clock = Clock()
    assert read_all(MergedRead(Store([[], []]), "t", 0, clock), clock, wait=1.0) == []
    assert clock.seconds() < 1.3


def test_read_ends_where_the_rest_cannot_be_seen() -> None:
    store = Store([log([1, 2]), log([1])])
    store.hidden[0] = 5
    assert read_all(MergedRead(store, "t", 0, Clock()), Clock()) == [(1, 0, 0), (1, 1, 0), (2, 0, 1)]
    assert store.reads < 10


def test_records_that_retention_takes_meanwhile_are_passed_over() -> None:
    store = Store([log([1, 2, 3, 4])], 1)

    def expire(_: int) -> None:
        if store.reads == 2:
            store.earliest[0] = 3

    store.on_read = expire
    assert read_all(MergedRead(store, "t", 0, Clock()), Clock()) == [(1, 0, 0), (4, 0, 3)]


@pytest.mark.parametrize("kind", ["merged", "newest"])
def test_read_that_one_partition_refuses_fails(kind: str) -> None:
    store = Store([log([1]), log([1])])

    def refuse(partition: int) -> None:
        if partition == 1:
            raise Unavailable("away")

    store.on_read = refuse
    read = MergedRead(store, "t", 0, Clock()) if kind == "merged" else NewestRead(store, "t", 5, Clock())
    with pytest.raises(Unavailable):
        read_all(read, Clock())


def test_read_that_is_cancelled_while_it_waits_leaves_nothing_behind() -> None:
    clock = Clock()
    reading: Deferred[object] = Deferred.fromCoroutine(MergedRead(Store([[]]), "t", 0, clock).first(10, 100))
    reading.addErrback(lambda _: None)
    clock.advance(0.3)
    reading.cancel()
    assert clock.getDelayedCalls() == []


@given(
    st.lists(timestamps.map(sorted), min_size=1, max_size=3),
    st.sets(st.tuples(st.integers(0, 2), st.integers(0, 11))),
    st.integers(1, 8),
)
def test_last_records_are_counted_without_invisible_offsets(
    logs: list[list[int]], invisible: set[tuple[int, int]], count: int
) -> None:
    store = Store([log(each) for each in logs])
    store.invisible = invisible
    visible = [
        [record for record in each if (number, record.offset) not in invisible]
        for number, each in enumerate(store.logs)
    ]
    candidates = sorted(
        (record.timestamp, number, record.offset) for number, each in enumerate(visible) for record in each[-count:]
    )
    assert read_all(NewestRead(store, "t", count, Clock()), Clock()) == candidates[-count:]
    one = PartitionRead(store, "t", 0, Start("last", count))  # type: ignore[arg-type]
    assert read_all(one, Clock()) == [(record.timestamp, 0, record.offset) for record in visible[0][-count:]]
