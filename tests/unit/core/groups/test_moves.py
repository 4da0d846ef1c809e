"""Leases that survive a planned move of a partition: the next gateway holds them until they end."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from test_group_counts import Counted
from test_memberships import Client, World, joined, stop
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from kateway.core.delivery.batch import Ack
from kateway.core.delivery.moved_leases import decode
from kateway.errors import Conflict, NotFound, Unavailable
from kateway.model import Committed

TERMS = {"mode": "explicit", "ack_timeout": 30}


@pytest.fixture
def world() -> Iterator[World]:
    world = World(linger_seconds=5)
    world.fill(20)
    yield world
    stop(world)


def left_behind(world: World, count: int) -> Client:
    """A client's leases, whose gateway has stopped."""
    client = joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    assert client.read(count) == list(range(count))
    world.restart()
    return client


def answers(world: World, *acks: Ack, sync: bool = False) -> list[object]:
    found: list[object] = []
    Deferred.fromCoroutine(world.groups.acknowledge("default", "g", "t", acks, sync=sync)).addBoth(found.append)
    return found


def test_lease_is_acknowledged_at_a_gateway_that_was_no_member_and_reads_nothing(world: World) -> None:
    client = left_behind(world, 3)
    told = answers(world, Ack(0, 0, lease=client.leases[0]), Ack(0, 2), Ack(0, 3), sync=True)
    assert told == []
    joined(world, client)
    (results,) = told
    assert results[:2] == [None, None]  # type: ignore[index]
    assert isinstance(results[2], NotFound)  # type: ignore[index]
    assert world.committed() == 1
    # it stays a member until the last lease is over
    world.clock.pump([1.0] * 20)
    assert world.groups.groups == 1
    world.clock.pump([1.0] * 16)
    assert world.groups.groups == 0


def test_acknowledgement_that_finds_no_lease_does_not_join_the_group(world: World) -> None:
    left_behind(world, 3)
    (results,) = answers(world, Ack(0, 3))
    assert isinstance(results[0], NotFound)  # type: ignore[index]
    assert world.groups.groups == 0


def test_leased_record_comes_again_after_its_timeout_and_not_before(world: World) -> None:
    left_behind(world, 3)
    client = joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    assert client.read(2) == [3, 4]
    world.clock.pump([0.5] * 54)
    assert client.read(1) == [5]
    world.clock.pump([0.5] * 8)
    assert client.read(3) == [0, 1, 2]
    assert client.got[-3:] == [(0, 0, 2), (0, 1, 2), (0, 2, 2)]


def test_lease_that_was_given_back_holds_against_its_next_reader_only(world: World) -> None:
    old = left_behind(world, 1)
    client = joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    assert world.acknowledge(Ack(0, 0, outcome="retry", lease=old.leases[0])) == [None]
    world.clock.advance(0.3)
    world.turn()
    assert client.read(1) == [0]
    assert client.got == [(0, 0, 2)]
    (conflict,) = world.acknowledge(Ack(0, 0, lease=old.leases[0]))
    assert isinstance(conflict, Conflict)


def test_group_begun_at_another_gateway_with_its_own_leases_moves_both(world: World) -> None:
    left_behind(world, 2)
    second = joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    assert second.read(2) == [2, 3]
    world.restart()
    third = joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    assert third.read(1) == [4]
    assert world.acknowledge(*(Ack(0, offset) for offset in range(5))) == [None] * 5
    world.clock.advance(1.1)
    assert world.committed() == 5


def test_delay_goes_on_at_the_next_gateway(world: World) -> None:
    client = joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    assert client.read(1) == [0]
    world.acknowledge(Ack(0, 0, outcome="retry", delay_seconds=20))
    world.restart()
    client = joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    assert client.read(1) == [1]
    world.clock.pump([1.0] * 17)
    assert client.read(1) == [2]
    world.clock.pump([1.0] * 4)
    assert client.read(1) == [0]


def test_record_rejected_at_the_next_gateway_goes_to_the_dead_letters_whole(world: World) -> None:
    left_behind(world, 3)
    told = answers(world, Ack(0, 1, outcome="dead"), sync=True)
    world.member.give(0)
    world.turn()
    assert told == [[None]]
    (letter,) = world.store.logs["t.g.dead"][0]
    headers = dict(letter.headers)
    assert (letter.value, headers["kateway-dead-offset"]) == (b"1", b"1")
    assert (headers["kateway-dead-reason"], headers["kateway-dead-attempts"]) == (b"rejected", b"1")


def test_rejected_record_that_the_store_has_no_more_is_done(world: World) -> None:
    left_behind(world, 1)
    told = answers(world, Ack(0, 0, outcome="dead"), sync=True)
    del world.store.logs["t"][0][0]
    world.member.give(0)
    world.turn()
    assert told == [[None]]
    assert world.store.logs["t.g.dead"] == [[]]
    assert world.committed() == 1


def test_rejected_record_that_a_new_leader_does_not_show_yet_is_written_when_it_does(world: World) -> None:
    left_behind(world, 3)
    world.store.hidden_from["t", 0] = 1
    told = answers(world, Ack(0, 0, outcome="dead"), Ack(0, 1, outcome="dead"), sync=True)
    world.member.give(0)
    world.turn()
    # one that is not shown keeps none of the others from being written
    assert [letter.value for letter in world.store.logs["t.g.dead"][0]] == [b"0"]
    assert told == []
    world.clock.pump([0.5] * 4)
    (error,) = told
    assert isinstance(error, Failure)
    assert "does not show the record at offset 1" in error.value.detail
    assert world.committed() == 1
    del world.store.hidden_from["t", 0]
    world.clock.pump([0.5] * 10)
    assert [letter.value for letter in world.store.logs["t.g.dead"][0]] == [b"0", b"1"]
    assert world.committed() == 2


def test_rejected_record_that_retention_took_is_done(world: World) -> None:
    left_behind(world, 1)
    told = answers(world, Ack(0, 0, outcome="dead"), sync=True)
    world.store.starts["t", 0] = 20
    world.store.logs["t"][0].clear()
    world.member.give(0)
    world.turn()
    assert told == [[None]]
    assert world.store.logs["t.g.dead"] == [[]]


def test_lease_that_passed_on_does_not_hold_after_a_kill(world: World) -> None:
    old = left_behind(world, 1)
    second = joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    world.acknowledge(Ack(0, 0, outcome="retry", lease=old.leases[0]))
    world.clock.pump([0.5] * 4)
    assert second.read(1) == [0]
    world.clock.pump([0.5] * 4)
    killed, world.groups = world.groups, world.gateway()
    third = joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    assert third.read(1) == [0]
    (conflict,) = world.acknowledge(Ack(0, 0, lease=old.leases[0]))
    assert isinstance(conflict, Conflict)
    Deferred.fromCoroutine(killed.stop(0))


def test_records_that_were_taken_and_not_sent_are_for_the_next_gateway_at_once(world: World) -> None:
    client = joined(world, world.reader(mode="explicit", ack_timeout=3600))
    assert client.read(5, send=False) == [0, 1, 2, 3, 4]
    world.restart()
    client = joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    assert client.read(1) == [0]
    assert client.got == [(0, 0, 1)]


def test_broken_last_commit_of_a_partition_leaves_the_others_theirs(
    logged_errors: list[dict[str, object]],
) -> None:
    world = World(partitions=2)
    for partition in range(2):
        world.fill(4, partition)
    client = world.reader(**TERMS)  # type: ignore[arg-type]
    world.member.give(0, 1)
    world.turn()
    client.read(8)
    world.ledger(0).floor = 9  # above its leases, which no way leads to
    world.acknowledge(Ack(1, 0))
    world.restart()
    assert len(logged_errors) == 1
    logged_errors.clear()
    assert (world.committed(0), world.committed(1)) == (None, 1)
    stop(world)


def test_deliveries_of_both_gateways_count_against_the_most() -> None:
    world = World(max_deliveries=2)
    world.fill(2)
    client = joined(world, world.reader(mode="explicit", ack_timeout=5))
    assert client.read(1) == [0]
    world.clock.advance(5.5)
    world.turn()
    assert client.read(1) == [0]
    world.restart()
    joined(world, world.reader(mode="explicit", ack_timeout=5))
    world.clock.pump([1.0] * 6)
    (letter,) = world.store.logs["t.g.dead"][0]
    headers = dict(letter.headers)
    assert (letter.value, headers["kateway-dead-attempts"]) == (b"0", b"2")
    world.clock.advance(1.1)
    assert world.committed() == 1
    stop(world)


def test_leases_of_a_partition_that_was_lost_come_again_at_once(world: World) -> None:
    client = joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    assert client.read(3) == [0, 1, 2]
    world.member.lose(0)
    assert world.committed() is None
    world.restart()
    client = joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    assert client.read(1) == [0]
    assert client.got == [(0, 0, 1)]


def test_ordinary_commit_behind_a_move_leaves_the_leases_out(world: World) -> None:
    left_behind(world, 3)
    assert len(decode(0, world.store.commits["g", "t", 0].metadata).leases) == 3
    joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    world.acknowledge(Ack(0, 0))
    world.clock.advance(1.1)
    assert world.store.commits["g", "t", 0] == Committed(1)


def test_lease_whose_partition_comes_is_waited_for(world: World) -> None:
    left_behind(world, 1)
    world.reader(**TERMS)  # type: ignore[arg-type]
    # the group is joined, its partitions are not known yet
    assert world.groups.acknowledge_at_once("default", "g", "t", [Ack(0, 0)]) is None
    told = answers(world, Ack(0, 0))
    assert told == []
    world.member.give(0)
    world.turn()
    assert told == [[None]]


def test_last_commit_that_is_refused_counts_its_leases_and_they_come_again() -> None:
    counted = Counted()
    counted.world.fill(3)
    client = counted.reader(mode="explicit")
    assert client.read(3) == [0, 1, 2]
    counted.world.member.refuse = Unavailable("the coordinator is away")
    counted.world.restart()
    assert counted.group.leases_not_moved.value == 3
    client = joined(counted.world, counted.world.reader(mode="explicit"))
    assert client.read(3) == [0, 1, 2]
    stop(counted.world)


def test_last_commit_whose_leases_the_store_refuses_is_made_without_them() -> None:
    counted = Counted()
    counted.world.fill(4)
    client = counted.reader(mode="explicit")
    assert client.read(4) == [0, 1, 2, 3]
    counted.world.member.most_metadata = 10
    counted.world.acknowledge(Ack(0, 0))
    counted.world.restart()
    assert counted.group.leases_not_moved.value == 3
    assert counted.world.store.commits["g", "t", 0] == Committed(1)
    stop(counted.world)


def test_leases_that_do_not_fit_the_last_commit_are_counted_and_come_again() -> None:
    counted = Counted()
    counted.world.fill(1600)
    client = counted.reader(mode="explicit")
    taken: list[int] = []
    chance = random.Random(5)
    for _ in range(1500):
        client.reader.ack_timeout = chance.uniform(100, 3600)
        taken += client.read(1)
        if chance.random() < 0.2:  # ends and distances that follow no rule deflate badly
            assert counted.world.acknowledge(Ack(0, taken.pop())) == [None]
    counted.world.restart()
    left_out = counted.group.leases_not_moved.value
    assert 0 < left_out < len(taken)
    client = joined(counted.world, counted.world.reader(mode="explicit"))
    assert len([offset for offset in client.read(1600) if offset in set(taken)]) == left_out
    stop(counted.world)
