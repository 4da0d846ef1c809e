"""How the embedded store bounds a hand-over, and what it does about a listener that fails."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from kateway.config.schema import EmbeddedStorageConfig
from kateway.errors import Conflict, KatewayError
from kateway.model import Committed, Message
from kateway.storage.embedded import EmbeddedStore

here = pytest_twisted.ensureDeferred


class Hears:
    def __init__(self, hold: Deferred[None] | None = None) -> None:
        self.hold = hold
        self.owned: set[int] = set()
        self.ready: set[int] = set()
        self.errors: list[KatewayError] = []

    def assigned(self, partitions):
        self.owned |= set(partitions)

    def revoked(self, partitions):
        self.owned -= partitions
        return self.hold

    def lost(self, partitions):
        self.owned -= partitions

    def readable(self, partition):
        self.ready.add(partition)

    def failed(self, error):
        self.errors.append(error)


async def until(condition) -> None:
    deadline = reactor.seconds() + 20
    while not condition():
        assert reactor.seconds() < deadline, "it did not happen in time"
        await deferLater(reactor, 0.01)


@pytest_twisted.async_yield_fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    made = EmbeddedStore(EmbeddedStorageConfig(path=str(tmp_path), rebalance_grace_seconds=0.3), reactor)
    await made.start()
    await made.create_topic("topic", partitions=2)
    yield made
    await made.stop(5.0)


@here
async def test_a_hand_over_that_is_held_up_for_too_long_happens_all_the_same(store):
    never: Deferred[None] = Deferred()
    first, second = Hears(never), Hears()
    holding = store.subscribe("group", "topic", first, "earliest")
    await until(lambda: first.owned == {0, 1})
    store.subscribe("group", "topic", second, "earliest")
    await until(lambda: first.owned == {0})
    assert not second.owned
    await holding.commit({1: Committed(1)})
    await until(lambda: second.owned == {1})
    with pytest.raises(Conflict):
        await holding.commit({1: Committed(2)})
    assert (await store.committed("group", "topic"))[1] == Committed(1)
    # too late, and harmless
    never.callback(None)


@here
async def test_a_close_does_not_wait_for_ever(store):
    first = Hears(Deferred())
    subscription = store.subscribe("group", "topic", first, "earliest")
    await until(lambda: first.owned)
    await subscription.close()
    await store.reset("group", "topic", {0: 0})


@here
async def test_a_topic_deleted_during_a_hand_over_leaves_nothing_behind(store):
    first, second = Hears(Deferred()), Hears()
    store.subscribe("group", "topic", first, "earliest")
    await until(lambda: first.owned == {0, 1})
    store.subscribe("group", "topic", second, "earliest")
    await until(lambda: first.owned == {0})
    await store.delete_topic("topic")
    await until(lambda: not first.owned and not second.owned)


@here
async def test_a_listener_that_raises_is_logged_and_its_partitions_move_on(store, logged_errors):
    class Broken(Hears):
        def revoked(self, partitions):
            raise RuntimeError("a bug")

    broken, second = Broken(), Hears()
    store.subscribe("group", "topic", broken, "earliest")
    await until(lambda: broken.owned == {0, 1})
    store.subscribe("group", "topic", second, "earliest")
    await until(lambda: second.owned)
    assert "a bug" in str(logged_errors[0]["log_failure"])
    logged_errors.clear()
    # it is not told again that it is about to lose the rest when the store stops
    broken.revoked = lambda partitions: None


def deny_commits(connection: sqlite3.Connection) -> None:
    """SQLite refuses every statement that reads the groups' commits."""

    def authorize(_action: int, table: str | None, *_rest: object) -> int:
        return sqlite3.SQLITE_DENY if table == "commits" else sqlite3.SQLITE_OK

    connection.set_authorizer(authorize)


@here
async def test_membership_outlives_a_failed_read_of_its_commits(store):
    await store._reader.call(deny_commits)
    listener = Hears()
    store.subscribe("group", "topic", listener, "earliest")
    await until(lambda: listener.errors)
    assert listener.errors[0].retriable
    assert not listener.owned
    await store._reader.call(lambda connection: connection.set_authorizer(None))
    await until(lambda: listener.owned == {0, 1})


@here
async def test_membership_that_is_closed_after_a_failed_read_does_not_read_again(store):
    await store._reader.call(deny_commits)
    listener = Hears()
    subscription = store.subscribe("group", "topic", listener, "earliest")
    await until(lambda: listener.errors)
    await subscription.close()
    await store._reader.call(lambda connection: connection.set_authorizer(None))


@here
async def test_reader_that_raises_when_records_are_written_holds_no_publish_up(store, logged_errors):
    def breaks(first: int, count: int, added: bytes) -> None:
        raise ZeroDivisionError

    store._topics["topic"].partitions[0].followers.add(breaks)
    for _ in range(2):
        await store.publish("topic", [Message(b"x", partition=0)], -1, reactor.seconds() + 5)
    assert len(logged_errors) == 2
    logged_errors.clear()
    store._topics["topic"].partitions[0].followers.clear()


@here
async def test_a_hundred_groups_begin_together_and_each_reads_all(store):
    await store.publish(
        "topic", [Message(b"x", partition=number % 2) for number in range(20)], -1, reactor.seconds() + 5
    )
    taken = [0] * 100
    listeners = [Hears() for _ in taken]
    subscriptions = [
        store.subscribe(f"group{number}", "topic", listener, "earliest") for number, listener in enumerate(listeners)
    ]

    def all_read() -> bool:
        for number, listener in enumerate(listeners):
            for partition in list(listener.ready):
                listener.ready.discard(partition)
                taken[number] += len(subscriptions[number].take(partition, 100, 1 << 20))
        return taken == [20] * 100

    await until(all_read)
