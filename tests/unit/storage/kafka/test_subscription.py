"""A subscription whose questions to the cluster break in a way that was not foreseen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from test_fetcher import Broker
from twisted.internet.defer import CancelledError, Deferred

from kateway.config.schema import KafkaStorageConfig
from kateway.errors import Conflict, Unavailable
from kateway.model import Committed
from kateway.storage.interface import MetadataRefused
from kateway.storage.kafka.consumer.membership import Generation
from kateway.storage.kafka.consumer.subscription import KafkaSubscription


class Cluster(Broker):
    """Never names a group's coordinator, so that membership is the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.config = KafkaStorageConfig(driver="kafka", group_protocol="classic")

    def partition_count(self, _topic: str) -> int:
        return 1

    def find(self, _group: str) -> Deferred[int]:
        return Deferred()

    def forget(self, _group: str) -> None: ...


class Offsets:
    def __init__(self) -> None:
        self.breaks = True
        self.stored: dict[int, Committed] = {}

    async def committed(self, _group: str, _topic: str, partitions: Iterable[int]) -> dict[int, Committed | None]:
        self._perhaps()
        return {partition: self.stored.get(partition, Committed(0)) for partition in partitions}

    async def commit(self, *_where: Any, **_member: Any) -> set[int]:
        self._perhaps()
        offsets: Mapping[int, Committed] = _where[3]
        self.stored.update(offsets)
        return set()

    def _perhaps(self) -> None:
        if self.breaks:
            raise ZeroDivisionError


class Listener:
    def __init__(self) -> None:
        self.owned: dict[int, Committed | None] = {}
        self.gone: frozenset[int] = frozenset()

    def assigned(self, partitions: Mapping[int, Committed | None]) -> None:
        self.owned.update(partitions)

    def failed(self, error: Exception) -> None: ...

    def revoked(self, partitions: frozenset[int]) -> None:
        self.gone |= partitions

    def lost(self, partitions: frozenset[int]) -> None:
        self.gone |= partitions


@pytest.fixture
def parts() -> tuple[Cluster, Offsets, Listener, KafkaSubscription]:
    cluster, offsets, listener = Cluster(), Offsets(), Listener()
    subscription = KafkaSubscription(
        cluster,  # type: ignore[arg-type]
        cluster,  # type: ignore[arg-type]
        offsets,  # type: ignore[arg-type]
        listener,  # type: ignore[arg-type]
        group="g",
        topic="t",
        reset="earliest",
        session_timeout_seconds=10.0,
        closed=lambda _subscription: None,
    )
    subscription._membership.generation = Generation(1, "m")
    return cluster, offsets, listener, subscription


def test_partitions_are_begun_after_a_question_that_broke_unforeseen(
    parts: tuple[Cluster, Offsets, Listener, KafkaSubscription], logged_errors: list[dict[str, object]]
) -> None:
    cluster, offsets, listener, subscription = parts
    subscription.take_over(frozenset({0}))
    assert not listener.owned
    assert logged_errors
    offsets.breaks = False
    cluster.reactor.advance(1.0)
    assert listener.owned == {0: Committed(0)}
    logged_errors.clear()


def test_commit_that_breaks_unforeseen_answers_its_waiter_and_the_next_goes_through(
    parts: tuple[Cluster, Offsets, Listener, KafkaSubscription], logged_errors: list[dict[str, object]]
) -> None:
    _cluster, offsets, _listener, subscription = parts
    offsets.breaks = False
    subscription.take_over(frozenset({0}))
    offsets.breaks = True
    errors: list[object] = []
    subscription.commit({0: Committed(1)}).addErrback(lambda failure: errors.append(failure.value))
    assert isinstance(errors[0], Unavailable)
    offsets.breaks = False
    done: list[None] = []
    subscription.commit({0: Committed(2)}).addCallback(done.append)
    assert done == [None]
    assert offsets.stored[0] == Committed(2)
    logged_errors.clear()


def held_up(offsets: Offsets) -> Deferred[None]:
    """Has each commit wait for the gate that is returned."""
    gate: Deferred[None] = Deferred()
    commit = offsets.commit

    async def slow(*arguments: object, **options: object) -> object:
        await gate
        return await commit(*arguments, **options)  # type: ignore[arg-type]

    offsets.commit = slow  # type: ignore[assignment, method-assign]
    return gate


def test_commit_that_was_queued_before_a_partition_went_is_not_made_when_it_is_back(
    parts: tuple[Cluster, Offsets, Listener, KafkaSubscription],
) -> None:
    cluster, offsets, _listener, subscription = parts
    offsets.breaks = False
    subscription.take_over(frozenset({0}))
    gate = held_up(offsets)
    outcomes: list[object] = []
    for offset in (1, 2):
        subscription.commit({0: Committed(offset)}).addBoth(outcomes.append)
    Deferred.fromCoroutine(subscription.hand_over(frozenset({0})))
    cluster.reactor.advance(10.0)
    subscription._membership.generation = Generation(2, "m")
    subscription.take_over(frozenset({0}))
    gate.callback(None)
    assert outcomes[0] is None
    assert outcomes[1].check(Conflict)  # type: ignore[attr-defined]
    assert offsets.stored[0] == Committed(1)


def test_commit_that_meets_a_rebalance_is_made_again_in_the_next_generation(
    parts: tuple[Cluster, Offsets, Listener, KafkaSubscription],
) -> None:
    cluster, offsets, _listener, subscription = parts
    offsets.breaks = False
    subscription.take_over(frozenset({0}))
    membership = subscription._membership
    generations: list[object] = []

    async def judged(*where: Any, generation: int, **_member: Any) -> set[int]:
        generations.append(generation)
        if generation < 2:
            return {22}
        offsets.stored.update(where[3])
        return set()

    offsets.commit = judged  # type: ignore[assignment, method-assign]
    membership._rejoining = True
    outcomes: list[object] = []
    subscription.commit({0: Committed(1)}).addBoth(outcomes.append)
    cluster.reactor.advance(1.0)
    assert outcomes == []
    membership.generation, membership._rejoining = Generation(2, "m"), False
    subscription.commit({0: Committed(2)}).addBoth(outcomes.append)
    cluster.reactor.advance(1.0)
    assert outcomes == [None, None]
    assert offsets.stored[0] == Committed(2)
    assert generations == [1, 1, 2]


def test_commit_refused_outside_a_rebalance_ends_the_generation(
    parts: tuple[Cluster, Offsets, Listener, KafkaSubscription],
) -> None:
    cluster, offsets, _listener, subscription = parts
    offsets.breaks = False
    subscription.take_over(frozenset({0}))

    async def refused(*_where: Any, **_member: Any) -> set[int]:
        return {22}

    offsets.commit = refused  # type: ignore[assignment, method-assign]
    outcomes: list[object] = []
    subscription.commit({0: Committed(1)}).addBoth(outcomes.append)
    cluster.reactor.advance(1.0)
    assert outcomes[0].check(Conflict)  # type: ignore[attr-defined]
    assert subscription._membership.generation is None


def test_partition_that_stays_is_read_on_while_another_goes_and_a_third_comes(
    parts: tuple[Cluster, Offsets, Listener, KafkaSubscription],
) -> None:
    _cluster, offsets, listener, subscription = parts
    offsets.breaks = False
    subscription.take_over(frozenset({0, 1}))
    subscription.take_over(frozenset({2}))
    Deferred.fromCoroutine(subscription.hand_over(frozenset({1})))
    assert listener.gone == frozenset({1})
    assert set(listener.owned) == {0, 1, 2}
    assert subscription.position(0) == subscription.position(2) == 0
    assert subscription.position(1) is None
    outcomes: list[object] = []
    for partition in (0, 1):
        subscription.commit({partition: Committed(3)}).addBoth(outcomes.append)
    assert outcomes[0] is None
    assert outcomes[1].check(Conflict)  # type: ignore[attr-defined]


def test_commit_that_is_cancelled_from_within_leaves_no_waiter_behind_it(
    parts: tuple[Cluster, Offsets, Listener, KafkaSubscription],
) -> None:
    _cluster, offsets, _listener, subscription = parts
    offsets.breaks = False
    subscription.take_over(frozenset({0}))
    gate: Deferred[None] = Deferred()
    commit = offsets.commit

    async def cancelled_once(*arguments: object, **options: object) -> object:
        offsets.commit = commit  # type: ignore[method-assign]
        await gate
        raise CancelledError

    offsets.commit = cancelled_once  # type: ignore[assignment, method-assign]
    outcomes: list[object] = []
    for offset in (1, 2):
        subscription.commit({0: Committed(offset)}).addBoth(outcomes.append)
    gate.callback(None)
    assert outcomes[0].check(Unavailable)  # type: ignore[attr-defined]
    assert outcomes[1:] == [None]
    assert offsets.stored[0] == Committed(2)


def test_commit_of_which_one_partition_is_refused_answers_each_that_went_with_it_by_its_own_partitions(
    parts: tuple[Cluster, Offsets, Listener, KafkaSubscription],
) -> None:
    _cluster, offsets, _listener, subscription = parts
    offsets.breaks = False
    subscription.take_over(frozenset({0, 1}))
    gate: Deferred[None] = Deferred()
    commit = offsets.commit

    async def refused(*arguments: Any, **options: Any) -> set[int]:
        await gate
        taken = {partition: place for partition, place in arguments[3].items() if not place.metadata}
        await commit(*arguments[:3], taken, **options)
        if taken != arguments[3]:
            raise MetadataRefused("too long", frozenset(arguments[3].keys() - taken.keys()))
        return set()

    offsets.commit = refused  # type: ignore[assignment, method-assign]
    outcomes: list[Any] = []
    subscription.commit({0: Committed(1)}).addBoth(outcomes.append)

    def again(failure: Any) -> Deferred[None]:
        outcomes.append(failure.value.partitions)
        return subscription.commit({0: Committed(3)})

    subscription.commit({0: Committed(3, "long"), 1: Committed(4)}).addErrback(again).addBoth(outcomes.append)
    subscription.commit({1: Committed(5)}).addBoth(outcomes.append)
    going = Deferred.fromCoroutine(subscription.hand_over(frozenset({0, 1})))
    assert not going.called
    gate.callback(None)
    # what is made again in its place is committed before the partitions go
    assert going.called
    assert outcomes == [None, {0}, None, None]
    assert offsets.stored == {0: Committed(3), 1: Committed(5)}
