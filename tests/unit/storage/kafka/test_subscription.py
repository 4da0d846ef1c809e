"""A subscription whose questions to the cluster break in a way that was not foreseen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from test_fetcher import Broker
from twisted.internet.defer import CancelledError, Deferred

from kateway.errors import Conflict, Unavailable
from kateway.model import Committed
from kateway.storage.kafka.consumer.group_protocol import Generation
from kateway.storage.kafka.consumer.subscription import KafkaSubscription


class Cluster(Broker):
    """Never names a group's coordinator, so that membership is the test's."""

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

    def assigned(self, partitions: Mapping[int, Committed | None]) -> None:
        self.owned.update(partitions)

    def failed(self, error: Exception) -> None: ...

    def revoked(self, partitions: frozenset[int]) -> None: ...


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


def test_commit_that_was_queued_in_an_older_generation_is_not_made_in_a_later_one(
    parts: tuple[Cluster, Offsets, Listener, KafkaSubscription],
) -> None:
    _cluster, offsets, _listener, subscription = parts
    offsets.breaks = False
    subscription.take_over(frozenset({0}))
    gate: Deferred[None] = Deferred()
    commit = offsets.commit

    async def slow(*arguments: object, **options: object) -> object:
        await gate
        return await commit(*arguments, **options)  # type: ignore[arg-type]

    offsets.commit = slow  # type: ignore[assignment, method-assign]
    outcomes: list[object] = []
    for offset in (1, 2):
        subscription.commit({0: Committed(offset)}).addBoth(outcomes.append)
    subscription._membership.generation = Generation(2, "m")
    gate.callback(None)
    assert outcomes[0] is None
    assert outcomes[1].check(Conflict)  # type: ignore[attr-defined]
    assert offsets.stored[0] == Committed(1)


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
