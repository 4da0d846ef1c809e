"""Memberships that one process passes on and the next one goes on with."""

from __future__ import annotations

import json

import pytest
from test_memberships import World, joined, stop
from twisted.internet.defer import Deferred

from kateway.core.delivery.batch import Ack
from kateway.core.groups.memberships import Key
from kateway.core.groups.passed_membership import PassedMembership, Taker, membership_from_table
from kateway.errors import Draining
from kateway.storage.interface import OwnMember

KEY = ("default", "g", "t")


@pytest.fixture
def world() -> World:
    world = World(2, linger_seconds=15, settle_seconds=1)
    world.fill(10)
    return world


class Next:
    """The process that comes after, as far as the first one sees it."""

    def __init__(self, clusters: tuple[str, ...] = ("default",)) -> None:
        self.given: list[PassedMembership] = []
        self.kept_from: list[Key] = []
        self.gone = False
        self.taker = Taker(clusters.__contains__, self.give, self.keep_from)

    async def give(self, membership: PassedMembership) -> bool:
        if self.gone:
            return False
        # as it goes to another process
        self.given.append(membership_from_table(json.loads(json.dumps(membership.table()))))
        return True

    async def keep_from(self, key: Key) -> None:
        self.kept_from.append(key)


def pass_on(world: World, taker: Next, seconds: float = 0.0) -> None:
    """The first process passes its memberships on; the world's groups are those of the next one then."""
    passing = Deferred.fromCoroutine(world.groups.stop(seconds, returning=False, taker=taker.taker))
    world.clock.pump([0.1] * 20)
    assert passing.called
    world.groups = world.gateway()


def test_next_process_goes_on_behind_the_last_commit_with_leases_that_keep_their_time(world: World) -> None:
    client = joined(world, world.reader(mode="explicit", ack_timeout=20.0))
    client.read(4)
    assert world.acknowledge(Ack(0, 0)) == [None]
    client.reader.finish()
    after = Next()
    pass_on(world, after)
    (passed,) = after.given
    assert passed.key == KEY
    assert after.kept_from == []
    assert world.groups.go_on(passed)
    world.turn()
    assert world.groups.groups == 1
    # leased records are their client's still, whose acknowledgements hold here
    second = world.reader(mode="explicit", ack_timeout=60.0)
    world.turn()
    assert second.read(10) == [4, 5, 6, 7, 8, 9]
    assert world.acknowledge(Ack(0, 1, lease=client.leases[1])) == [None]
    world.clock.pump([1.0] * 17)
    assert second.read(10) == []
    world.clock.pump([1.0] * 3)
    assert second.read(10) == [2, 3]
    assert world.store.left == []
    stop(world)


def test_membership_that_the_next_process_has_no_use_for_is_left_after_a_while(world: World) -> None:
    joined(world, world.reader()).reader.finish()
    after = Next()
    pass_on(world, after)
    assert world.groups.go_on(after.given[0])
    world.clock.pump([1.0] * 14)
    assert world.groups.groups == 1
    world.clock.pump([1.0] * 3)
    assert world.groups.groups == 0
    assert world.member.closed


def test_membership_is_passed_on_as_soon_as_nothing_of_it_is_unsettled(world: World) -> None:
    client = joined(world, world.reader())
    client.read(3)
    client.reader.finish()
    after = Next()
    passing = Deferred.fromCoroutine(world.groups.stop(10, returning=False, taker=after.taker))
    world.clock.pump([0.1] * 5)
    assert not after.given
    client.wire.ask()
    world.clock.pump([0.1] * 3)
    assert [each.key for each in after.given] == [KEY]
    assert passing.called
    assert world.committed() == 3
    with pytest.raises(Draining):
        world.reader()


def test_connection_of_a_client_that_has_confirmed_nothing_is_free_when_its_group_was_passed_on(world: World) -> None:
    client = joined(world, world.reader(short=False))
    client.read(3)
    client.reader.finish()
    assert client.wire.watchers == [client.reader]
    after = Next()
    pass_on(world, after, 0.5)
    assert client.wire.watchers == []
    # what was not settled comes again
    assert world.groups.go_on(after.given[0])
    world.turn()
    second = world.reader()
    world.turn()
    assert second.read(3) == [0, 1, 2]
    stop(world)


@pytest.mark.parametrize("gone", [True, False], ids=["the next process is gone", "the member cannot be passed on"])
def test_membership_that_is_not_taken_is_left(world: World, gone: bool) -> None:
    joined(world, world.reader()).reader.finish()
    after = Next()
    after.gone, world.store.passes_on = gone, gone
    pass_on(world, after)
    assert after.kept_from == [KEY]
    assert world.store.left == ([OwnMember("g", "member", True)] if gone else [])
    assert world.member.closed


def test_membership_of_a_cluster_that_the_next_process_does_not_know_is_left(world: World) -> None:
    joined(world, world.reader()).reader.finish()
    after = Next(("another",))
    pass_on(world, after)
    assert (after.given, world.member.closed) == ([], True)


@pytest.mark.parametrize("why", ["it is a member already", "the configuration asks for another", "it stops"])
def test_process_that_cannot_go_on_says_so(world: World, why: str) -> None:
    joined(world, world.reader()).reader.finish()
    after = Next()
    pass_on(world, after)
    if why == "it is a member already":
        joined(world, world.reader()).reader.finish()
    elif why == "it stops":
        Deferred.fromCoroutine(world.groups.stop(0))
    else:
        world.store.goes_on = False
    before = len(world.store.subscriptions)
    assert not world.groups.go_on(after.given[0])
    assert len(world.store.subscriptions) == before
    Deferred.fromCoroutine(world.groups.leave_for("default", after.given[0].member))
    assert world.store.left == [OwnMember("g", "member", True)]
    stop(world)
