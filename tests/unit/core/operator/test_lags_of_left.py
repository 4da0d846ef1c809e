"""Which groups that were left are asked for, and how often."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kateway.core.access.control import Place
from kateway.core.gateway import Lag
from kateway.core.operator.lags_of_left import ASK_SECONDS, LEAST, LagsOfLeft, group_named, labels_of
from kateway.core.operator.naming import GroupName, Names
from kateway.errors import StoreUnavailable
from kateway.observe.bundles import Labels
from kateway.observe.group_watch import GroupWatches


class Store:
    """Tells the lag of a group, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.away = False

    async def lag(self, place: Place, group: str) -> list[Lag]:
        self.asked[group] += 1
        if self.away:
            raise StoreUnavailable("away")
        return [Lag(0, 10, 3, 7, 0, 0.0), Lag(1, 5, None, 5, 0, 0.0)]


class World:
    """So many groups of one topic in open mode, none of which is read."""

    def __init__(self, groups: int) -> None:
        self.clock = Clock()
        self.store = Store()
        self.watches = GroupWatches()
        self.read: set[Labels] = set()
        names = Names({"default": self.store}, None)  # type: ignore[dict-item]
        store: Any = self.store
        self.lags = LagsOfLeft(names, store, self.watches, lambda: self.read, self.clock, 60.0)
        for number in range(groups):
            self.watches.of(self.labels(number), 0.0)

    @staticmethod
    def labels(number: int) -> Labels:
        return "default", "t", "v1", f"g{number}", "default"

    def ask(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.advance(ASK_SECONDS)
            Deferred.fromCoroutine(self.lags.ask())


def test_few_groups_are_asked_for_each_time() -> None:
    world = World(LEAST)
    world.ask(3)
    assert set(world.store.asked.values()) == {3}
    watch = world.watches.by_labels[world.labels(0)]
    assert (watch.lag, watch.lag_at, watch.oldest_seconds) == (12, 30.0, None)


def test_of_many_groups_each_is_asked_for_within_the_time() -> None:
    world = World(300)
    world.ask()
    assert len(world.store.asked) == 50
    world.ask(5)
    assert len(world.store.asked) == 300
    assert set(world.store.asked.values()) == {1}


def test_group_that_is_read_here_is_not_asked_for() -> None:
    world = World(2)
    world.read.add(world.labels(0))
    world.ask()
    assert set(world.store.asked) == {"g1"}


def test_lag_that_a_store_does_not_tell_becomes_unknown() -> None:
    world = World(1)
    world.ask()
    world.store.away = True
    world.ask()
    assert world.watches.by_labels[world.labels(0)].lag is None


def test_labels_and_names_of_groups_are_the_same_thing() -> None:
    name = GroupName("app2", "app1", "foo", "v1", "g1")
    assert labels_of(name, True) == ("app1", "foo.g1.dead", "v1", "g1", "app2")
    for dead in (False, True):
        assert group_named(labels_of(name, dead)) == (name, dead)
