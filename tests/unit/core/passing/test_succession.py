"""A process whose predecessor passes its memberships on: its readers wait for those, and for no others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from test_memberships import Wire, joined
from test_passing import KEY, TwoGateways, make
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kateway.cluster.interface import Holders, Home, Place, place_of, process_name, same_place
from kateway.core.groups.passed_membership import PassedMembership
from kateway.core.groups.wanted import Wanted
from kateway.core.passing.succession import TO_COME_SECONDS, TO_SAY_SECONDS, Succession
from kateway.storage.passed_member import PassedMember

__all__ = ["make"]
OTHER_KEY = ("default", "g", "another")


class Waiting:
    def __init__(self, succession: Succession, key: tuple[str, str, str] = KEY) -> None:
        self.over = False
        Deferred.fromCoroutine(succession.wait_for(key)).addCallback(self._over)

    def _over(self, _: None) -> None:
        self.over = True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def succession(clock: Clock) -> Succession:
    return Succession(clock)


def test_reader_of_a_process_that_comes_after_none_does_not_wait(clock: Clock, succession: Succession) -> None:
    assert Waiting(succession).over
    assert not clock.getDelayedCalls()


def test_reader_waits_until_its_membership_has_come_and_others_do_not(clock: Clock, succession: Succession) -> None:
    succession.begin()
    one, other = Waiting(succession), Waiting(succession, OTHER_KEY)
    succession.will_come([KEY], all_told=False)
    assert (one.over, other.over) == (False, False)
    succession.will_come([], all_told=True)
    assert (one.over, other.over) == (False, True)
    succession.came(KEY)
    assert one.over
    assert Waiting(succession).over
    assert not clock.getDelayedCalls()


def test_reader_waits_no_longer_than_a_process_before_may_take(clock: Clock, succession: Succession) -> None:
    succession.begin()
    silent = Waiting(succession)
    clock.advance(TO_SAY_SECONDS)
    assert silent.over
    succession.will_come([KEY], all_told=True)
    late = Waiting(succession)
    clock.advance(TO_COME_SECONDS - TO_SAY_SECONDS - 0.1)
    assert not late.over
    clock.advance(0.1)
    assert late.over


def test_end_of_the_process_before_ends_all_waiting(clock: Clock, succession: Succession) -> None:
    succession.begin()
    succession.will_come([KEY], all_told=True)
    waiting = Waiting(succession)
    succession.end()
    assert waiting.over
    assert not clock.getDelayedCalls()


def test_processes_are_of_one_place_where_gateway_and_index_are_the_same() -> None:
    first, second = (process_name(Place("gateway-ab", 1, pid)) for pid in (17, 18))
    assert place_of(first) == ("gateway-ab", 1, 17)
    assert same_place(first, second)
    assert not same_place(first, process_name(Place("gateway-ab", 2, 17)))
    assert not same_place(first, process_name(Place("gateway-cd", 1, 17)))
    assert same_place("gateway-ab", "gateway-ab")
    assert not same_place("gateway-ab", "gateway-cd")
    assert not same_place("gateway-ab", first)


def test_reader_of_a_gateway_that_stops_waits_for_its_successor_instead_of_joining(
    make: Callable[[], TwoGateways],
) -> None:
    world = make()
    joined(world, super(TwoGateways, world).reader())
    world.serving.drain()
    wanted = Wanted("auto", partitions=1, names=("", "t", "v1", "g", ""))
    found: list[object] = []
    Deferred.fromCoroutine(world.passing.reader(KEY, wanted, Wire())).addBoth(found.append)
    world.pass_time(0.5)
    assert not found
    # the successor of the same name serves
    world.serving._draining = False
    world.pass_time(0.6)
    assert len(found) == 1
    assert world.others.groups == 0


def test_reader_of_a_gateway_that_stops_for_good_joins_after_a_moment(make: Callable[[], TwoGateways]) -> None:
    world = make()
    joined(world, super(TwoGateways, world).reader())
    world.serving.drain()
    found: list[object] = []
    Deferred.fromCoroutine(world.passing.reader(KEY, Wanted("auto", partitions=1), Wire())).addBoth(found.append)
    world.pass_time(3)
    assert len(found) == 1
    assert world.others.groups == 1
    Deferred.fromCoroutine(world.others.stop(0))


def test_member_that_was_passed_on_is_its_new_process_s_own(make: Callable[[], TwoGateways]) -> None:
    world = make()
    former = Home("gateway-ab-1-17", "h:1/1")
    world.directory.kept = Holders(1, {0: former})
    world.passing.goes_on_as(former.gateway, "self")
    # it is not asked, and nothing is: the reader joins, as the holder is this process itself
    reader = world.run(world.passing.reader(KEY, Wanted("auto", partitions=1), Wire()))
    assert reader.gateway == ""
    assert world.others.groups == 1
    Deferred.fromCoroutine(world.others.stop(0))


def test_reader_that_comes_before_its_membership_reads_it_without_another_join(
    make: Callable[[], TwoGateways],
) -> None:
    world = make()
    world.passing.succession.begin()
    world.passing.succession.will_come([KEY], all_told=True)
    found: list[object] = []
    Deferred.fromCoroutine(world.passing.reader(KEY, Wanted("auto", partitions=1), Wire())).addBoth(found.append)
    world.pass_time(1)
    assert (found, world.others.groups, world.directory.asked) == ([], 0, [])
    member = PassedMember("g", "t", "m", 1, True, [0], 10.0, 0.0)
    assert world.others.go_on(PassedMembership("default", 5, member))
    world.passing.succession.came(KEY)
    world.pass_time(0.2)
    assert len(found) == 1
    assert world.directory.asked == []
    assert len(world.store.subscriptions) == 1
    Deferred.fromCoroutine(world.others.stop(0))
