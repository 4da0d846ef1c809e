"""Commits whose metadata the store refuses, and looks at a group that break: what is settled stays settled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from test_group_counts import Counted
from test_memberships import Client, World, joined, stop
from twisted.internet.defer import Deferred

from kateway.core.delivery.batch import Ack
from kateway.core.delivery.moved_leases import decode
from kateway.core.delivery.offset_ranges import Ranges
from kateway.core.groups.memberships import Memberships
from kateway.model import Committed
from kateway.storage.interface import MetadataRefused

TERMS = {"mode": "explicit", "ack_timeout": 30}


@pytest.fixture
def counted() -> Iterator[Counted]:
    """A group with leases, of which 0, 3 and 5 are acknowledged."""
    counted = Counted(linger_seconds=5)
    counted.world.fill(10)
    client = counted.reader(**TERMS)  # type: ignore[arg-type]
    assert client.read(8) == list(range(8))
    assert counted.world.acknowledge(Ack(0, 0), Ack(0, 3), Ack(0, 5)) == [None] * 3
    yield counted
    stop(counted.world)


def stored(world: World) -> Committed:
    return world.store.commits["g", "t", 0]


def read_again(world: World) -> list[int]:
    return joined(world, world.reader(**TERMS)).read(20)  # type: ignore[arg-type]


def test_last_commit_that_is_refused_is_made_without_leases(counted: Counted) -> None:
    world = counted.world
    world.store.max_metadata_chars = 20
    world.acknowledge(Ack(0, 1), Ack(0, 7))
    world.restart()
    assert stored(world).offset == 2
    assert list(Ranges.decode(2, stored(world).metadata)) == [(3, 4), (5, 6), (7, 8)]
    assert decode(2, stored(world).metadata).leases == ()
    assert counted.group.leases_not_moved.value == 3
    assert read_again(world) == [2, 4, 6, 8, 9]


def test_last_commit_that_is_refused_without_leases_too_is_made_without_ranges(counted: Counted) -> None:
    world = counted.world
    world.store.max_metadata_chars = 5
    world.acknowledge(Ack(0, 1))
    world.restart()
    assert stored(world) == Committed(2)
    assert counted.group.leases_not_moved.value == 4
    assert read_again(world) == list(range(2, 10))


def test_partition_whose_metadata_is_stored_keeps_its_leases_beside_one_that_is_refused() -> None:
    world = World(partitions=2)
    world.fill(1000, 0)
    world.fill(1, 1)
    client = joined(world, world.reader(**TERMS))  # type: ignore[arg-type]
    assert len(client.read(1001)) == 1001
    world.acknowledge(*(Ack(0, offset) for offset in range(0, 1000, 3)))
    world.store.max_metadata_chars = 80
    world.restart()
    assert len(decode(0, world.store.commits["g", "t", 1].metadata).leases) == 1
    assert world.store.commits["g", "t", 0].offset == 1
    assert decode(1, world.store.commits["g", "t", 0].metadata).leases == ()
    stop(world)


def test_group_goes_on_where_its_own_shortened_commit_is_what_the_store_has(counted: Counted) -> None:
    world = counted.world
    world.store.max_metadata_chars = 5
    assert world.acknowledge(Ack(0, 7)) == [None]
    world.clock.advance(1.1)
    assert stored(world) == Committed(1)
    # the partition goes and comes back: its leases are still known
    world.member.revoke(0)
    assert stored(world) == Committed(1)
    world.member.give(0)
    world.turn()
    assert world.acknowledge(Ack(0, 1), Ack(0, 2), Ack(0, 4)) == [None] * 3
    world.clock.advance(1.1)
    assert stored(world) == Committed(6)


def test_offset_that_is_refused_without_metadata_fails_the_commit(counted: Counted) -> None:
    counted.world.store.max_metadata_chars = -1
    told: list[Any] = []
    acks = [Ack(0, 1)]
    Deferred.fromCoroutine(counted.world.groups.acknowledge("default", "g", "t", acks, sync=True)).addErrback(
        told.append
    )
    counted.world.clock.advance(1.1)
    assert told[0].check(MetadataRefused)
    counted.world.store.max_metadata_chars = 4000
    counted.world.clock.advance(1.1)
    assert stored(counted.world).offset == 2


class BrokenClock:
    """Seconds since the epoch; fails once ``breaks``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.breaks = False

    def __call__(self) -> float:
        if self.breaks:
            self.breaks = False
            raise ValueError("a fault")
        return 1_796_000_000 + self.world.clock.seconds()


def test_look_that_breaks_ends_neither_a_revocation_nor_a_lease(logged_errors: list[Any]) -> None:
    world = World(partitions=2)
    wall = BrokenClock(world)
    world.groups = Memberships(lambda name: world.store, world.clock, world.config, wall)  # type: ignore[arg-type, return-value]
    world.fill(3)
    client: Client = joined(world, world.reader())
    assert client.read(3) == [0, 1, 2]
    # not confirmed: the partition is held for a moment
    held_up = world.member.listener.revoked(frozenset({0}))
    assert held_up is not None
    assert not held_up.called
    wall.breaks = True
    world.clock.pump([0.25] * 5)
    assert not wall.breaks
    assert logged_errors
    logged_errors.clear()
    world.clock.pump([0.25] * 5)
    assert held_up.called
    stop(world)
