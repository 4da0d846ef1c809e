"""The assignment of partitions to readers: fed, waiting, refused."""

from __future__ import annotations

from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.core.groups.assignment import ReaderQueue, assign
from kateway.errors import TooManyConsumers


@attrs.frozen(eq=False)
class FakeReader:
    short: bool = False
    spare: bool = False


def test_before_it_is_known_which_partitions_are_ours_there_is_a_seat_for_each() -> None:
    queue: ReaderQueue[FakeReader] = ReaderQueue()
    people = [FakeReader() for _ in range(4)]
    for person in people:
        queue.arrive(person, 4)
    assert queue.fed == people
    with pytest.raises(TooManyConsumers):
        queue.arrive(FakeReader(), 4)
    assert queue.resize(2) == people[2:]
    assert queue.fed == people[:2]


def test_reader_that_waits_before_any_partition_is_ours_moves_up_or_is_refused() -> None:
    queue: ReaderQueue[FakeReader] = ReaderQueue()
    poll, follower, waits = FakeReader(short=True), FakeReader(), FakeReader()
    queue.arrive(poll, 1)
    queue.arrive(follower, 1)
    queue.arrive(waits, 1)
    assert queue.leave(poll) == [waits]
    assert queue.fed == [follower]


def test_reader_that_loses_a_partition_to_a_rebalance_is_not_refused_but_waits_in_front() -> None:
    queue: ReaderQueue[FakeReader] = ReaderQueue()
    queue.resize(2)
    first, second = FakeReader(), FakeReader()
    queue.arrive(first, 4)
    queue.arrive(second, 4)
    assert queue.resize(1) == []
    assert list(queue.waiting) == [second]
    assert queue.resize(0) == []
    assert queue.resize(2) == []
    assert queue.fed == [first, second]


def test_polls_queue_in_the_order_in_which_they_came() -> None:
    queue: ReaderQueue[FakeReader] = ReaderQueue()
    queue.resize(1)
    polls = [FakeReader(short=True) for _ in range(4)]
    for poll in polls:
        queue.arrive(poll, 4)
    for now, then in pairwise(polls):
        assert queue.leave(now) == []
        assert queue.fed == [then]


def test_reader_that_comes_when_all_partitions_are_taken_for_long_is_refused_at_once() -> None:
    queue: ReaderQueue[FakeReader] = ReaderQueue()
    queue.resize(2)
    queue.arrive(FakeReader(), 4)
    queue.arrive(FakeReader(short=True), 4)
    waits = FakeReader()
    queue.arrive(waits, 4)
    assert list(queue.waiting) == [waits]
    assert queue.leave(queue.fed[1]) == []
    with pytest.raises(TooManyConsumers):
        queue.arrive(FakeReader(short=True), 4)


@given(
    st.sets(st.integers(0, 20)),
    st.integers(0, 6),
    st.dictionaries(st.integers(0, 20), st.integers(0, 8)),
    st.sets(st.integers(0, 20)),
)
def test_partitions_are_shared_evenly_and_none_moves_without_need(
    partitions: set[int], number: int, now: dict[int, int], settled: set[int]
) -> None:
    everyone = [FakeReader() for _ in range(9)]
    readers = everyone[:number]
    before = {partition: everyone[place] for partition, place in now.items()}
    goals = assign(partitions, readers, before, lambda partition: partition in settled)
    assert set(goals) == (partitions if readers else set())
    counts = [sum(1 for reader in goals.values() if reader is one) for one in readers]
    assert not counts or max(counts) - min(counts) <= 1
    for one in readers:
        had = {partition for partition, reader in before.items() if reader is one and partition in partitions}
        kept = {partition for partition in had if goals[partition] is one}
        assert len(kept) == min(len(had), sum(1 for reader in goals.values() if reader is one))
        assert assign(partitions, readers, goals, lambda partition: True) == goals


def test_spare_reader_has_a_partition_while_no_other_wants_it() -> None:
    queue: ReaderQueue[FakeReader] = ReaderQueue()
    queue.resize(2)
    first, spare, second, third = FakeReader(short=True), FakeReader(spare=True), FakeReader(), FakeReader()
    assert queue.arrive(first, 4) == []
    assert queue.arrive(spare, 4) == []
    with pytest.raises(TooManyConsumers):
        queue.arrive(FakeReader(spare=True), 4)
    assert queue.arrive(second, 4) == [spare]
    assert queue.fed == [first, second]
    assert queue.arrive(third, 4) == []
    assert queue.waiting == [third]


def test_reader_that_finds_no_place_all_the_same_takes_none_from_a_spare_one() -> None:
    queue: ReaderQueue[FakeReader] = ReaderQueue()
    first, second, spare = FakeReader(), FakeReader(), FakeReader(short=True, spare=True)
    for reader in (first, second, spare):
        assert queue.arrive(reader, 3) == []
    waits = FakeReader()
    assert queue.arrive(waits, 2) == []
    assert queue.fed == [first, second, spare]
    assert queue.waiting == [waits]
    # once the spare one leaves there is no hope
    assert queue.leave(spare) == [waits]
    with pytest.raises(TooManyConsumers):
        queue.arrive(FakeReader(), 2)
    assert queue.fed == [first, second]


def test_as_many_spare_readers_give_way_as_one_reader_takes_places() -> None:
    queue: ReaderQueue[FakeReader] = ReaderQueue()
    first, spare, other, new = FakeReader(), FakeReader(spare=True), FakeReader(spare=True), FakeReader()
    for reader in (first, spare, other):
        queue.arrive(reader, 3)
    assert queue.arrive(new, 2) == [spare, other]
    assert queue.fed == [first, new]


def test_spare_reader_gives_way_where_partitions_go() -> None:
    queue: ReaderQueue[FakeReader] = ReaderQueue()
    queue.resize(3)
    spare, first, other = FakeReader(spare=True), FakeReader(), FakeReader(spare=True)
    for reader in (spare, first, other):
        queue.arrive(reader, 3)
    assert queue.resize(1) == [spare, other]
    assert queue.fed == [first]
    assert queue.waiting == []
    assert queue.leave(spare) == []
    assert queue.resize(2) == []
