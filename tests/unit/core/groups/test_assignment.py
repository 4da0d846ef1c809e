"""Who is fed, who waits, who is refused, and from which partitions."""

from __future__ import annotations

from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.core.groups.seats import Seats, share_out
from kateway.errors import TooManyConsumers


@attrs.frozen(eq=False)
class Somebody:
    short: bool = False


def test_before_it_is_known_which_partitions_are_ours_there_is_a_seat_for_each() -> None:
    seats: Seats[Somebody] = Seats()
    people = [Somebody() for _ in range(4)]
    for person in people:
        seats.arrive(person, 4)
    assert seats.seated == people
    with pytest.raises(TooManyConsumers):
        seats.arrive(Somebody(), 4)
    assert seats.resize(2) == people[2:]
    assert seats.seated == people[:2]


def test_who_waits_before_any_partition_is_ours_moves_up_or_is_refused() -> None:
    seats: Seats[Somebody] = Seats()
    poll, follower, waits = Somebody(short=True), Somebody(), Somebody()
    seats.arrive(poll, 1)
    seats.arrive(follower, 1)
    seats.arrive(waits, 1)
    assert seats.leave(poll) == [waits]
    assert seats.seated == [follower]


def test_who_loses_a_partition_to_a_rebalance_is_not_refused_but_waits_in_front() -> None:
    seats: Seats[Somebody] = Seats()
    seats.resize(2)
    first, second = Somebody(), Somebody()
    seats.arrive(first, 4)
    seats.arrive(second, 4)
    assert seats.resize(1) == []
    assert list(seats.waiting) == [second]
    assert seats.resize(0) == []
    assert seats.resize(2) == []
    assert seats.seated == [first, second]


def test_polls_queue_in_the_order_in_which_they_came() -> None:
    seats: Seats[Somebody] = Seats()
    seats.resize(1)
    polls = [Somebody(short=True) for _ in range(4)]
    for poll in polls:
        seats.arrive(poll, 4)
    for now, then in pairwise(polls):
        assert seats.leave(now) == []
        assert seats.seated == [then]


def test_who_comes_when_all_seats_are_taken_for_long_is_refused_at_once() -> None:
    seats: Seats[Somebody] = Seats()
    seats.resize(2)
    seats.arrive(Somebody(), 4)
    seats.arrive(Somebody(short=True), 4)
    waits = Somebody()
    seats.arrive(waits, 4)
    assert list(seats.waiting) == [waits]
    assert seats.leave(seats.seated[1]) == []
    with pytest.raises(TooManyConsumers):
        seats.arrive(Somebody(short=True), 4)


@given(
    st.sets(st.integers(0, 20)),
    st.integers(0, 6),
    st.dictionaries(st.integers(0, 20), st.integers(0, 8)),
    st.sets(st.integers(0, 20)),
)
def test_partitions_are_shared_evenly_and_none_moves_without_need(
    partitions: set[int], number: int, now: dict[int, int], settled: set[int]
) -> None:
    everybody = [Somebody() for _ in range(9)]
    readers = everybody[:number]
    before = {partition: everybody[place] for partition, place in now.items()}
    goals = share_out(partitions, readers, before, lambda partition: partition in settled)
    assert set(goals) == (partitions if readers else set())
    counts = [sum(1 for reader in goals.values() if reader is one) for one in readers]
    assert not counts or max(counts) - min(counts) <= 1
    for one in readers:
        had = {partition for partition, reader in before.items() if reader is one and partition in partitions}
        kept = {partition for partition in had if goals[partition] is one}
        assert len(kept) == min(len(had), sum(1 for reader in goals.values() if reader is one))
        assert share_out(partitions, readers, goals, lambda partition: True) == goals
