"""Subscriptions of the embedded store: starts, bounded closes, and failures of listeners and of the disk."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from kateway.config.schema import EmbeddedStorageConfig
from kateway.errors import Conflict, CorruptRecords, Draining, GroupBusy, KatewayError, Overloaded, Unavailable
from kateway.model import Committed, Message, Receipt
from kateway.storage.embedded import EmbeddedStore
from kateway.storage.interface import Outcome

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
async def test_a_close_does_not_wait_for_ever(store):
    first = Hears(Deferred())
    subscription = store.subscribe("group", "topic", first, "earliest")
    await until(lambda: first.owned)
    await subscription.close()
    await store.reset("group", "topic", {0: 0})


@here
async def test_close_that_is_held_up_for_too_long_ends_all_the_same(store):
    never: Deferred[None] = Deferred()
    listener = Hears(never)
    subscription = store.subscribe("group", "topic", listener, "earliest")
    await until(lambda: listener.owned == {0, 1})
    closed = subscription.close()
    await until(lambda: not listener.owned)
    await subscription.commit({1: Committed(1)})
    await closed
    with pytest.raises(Conflict):
        await subscription.commit({1: Committed(2)})
    assert (await store.committed("group", "topic"))[1] == Committed(1)
    # too late, and harmless
    never.callback(None)


@here
async def test_topic_deleted_while_a_close_is_held_up_leaves_nothing_behind(store):
    listener = Hears(Deferred())
    subscription = store.subscribe("group", "topic", listener, "earliest")
    await until(lambda: listener.owned == {0, 1})
    closed = subscription.close()
    await until(lambda: not listener.owned)
    await store.delete_topic("topic")
    await closed
    await store.create_topic("topic", partitions=1)
    again = Hears()
    store.subscribe("group", "topic", again, "earliest")
    await until(lambda: again.owned == {0})


@here
async def test_listener_that_raises_is_logged_and_the_close_goes_on(store, logged_errors):
    class Broken(Hears):
        def revoked(self, partitions):
            raise RuntimeError("a bug")

    broken = Broken()
    subscription = store.subscribe("group", "topic", broken, "earliest")
    await until(lambda: broken.owned == {0, 1})
    await subscription.close()
    await until(lambda: logged_errors)
    assert "a bug" in str(logged_errors[0]["log_failure"])
    logged_errors.clear()
    second = Hears()
    store.subscribe("group", "topic", second, "earliest")
    await until(lambda: second.owned == {0, 1})


@here
async def test_second_subscription_is_refused_until_the_first_is_closed(store):
    first = store.subscribe("group", "topic", Hears(), "earliest")
    with pytest.raises(GroupBusy):
        store.subscribe("group", "topic", Hears(), "earliest")
    await first.close()
    await store.subscribe("group", "topic", Hears(), "earliest").close()


@here
async def test_stopped_store_refuses_a_subscription(store):
    await store.stop(1.0)
    with pytest.raises(Draining):
        store.subscribe("group", "topic", Hears(), "earliest")


@here
async def test_latest_is_where_the_topic_ended_when_it_was_subscribed(store):
    listener = Hears()
    subscription = store.subscribe("group", "topic", listener, "latest")
    assert not listener.owned
    await store.publish("topic", [Message(b"after", partition=0)], -1, reactor.seconds() + 5)
    await until(lambda: 0 in listener.ready)
    assert [record.value for record in subscription.take(0, 10, 1000)] == [b"after"]


async def refuse_commits(store: EmbeddedStore) -> None:
    """SQLite refuses every change of the groups' commits."""

    def authorize(action: int, table: str | None, *_rest: object) -> int:
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_INSERT and table == "commits" else sqlite3.SQLITE_OK

    await store._writing.call(lambda connection: connection.set_authorizer(authorize))


async def accept_commits(store: EmbeddedStore) -> None:
    await store._writing.call(lambda connection: connection.set_authorizer(None))


@here
async def test_start_whose_commit_failed_is_committed_as_soon_as_it_can_be(store):
    await refuse_commits(store)
    listener = Hears()
    store.subscribe("group", "topic", listener, "latest")
    await until(lambda: listener.owned == {0, 1})
    await accept_commits(store)
    await store.publish("topic", [Message(b"x", partition=0)], -1, reactor.seconds() + 5)
    await until(lambda: store._subscriptions["group", "topic"]._retry is None)
    await store._writer.commit("other", [])  # behind the commit that is under way
    assert await store.committed("group", "topic") == {0: Committed(0), 1: Committed(0)}


@here
async def test_partition_added_after_a_start_that_was_not_committed_is_read_from_its_beginning(store):
    await refuse_commits(store)
    listener = Hears()
    subscription = store.subscribe("group", "topic", listener, "latest")
    await until(lambda: listener.owned == {0, 1})
    await store.add_partitions("topic", 3)
    await until(lambda: listener.owned == {0, 1, 2})
    await accept_commits(store)
    await store.publish("topic", [Message(b"y", partition=2)], -1, reactor.seconds() + 5)
    await until(lambda: 2 in listener.ready)
    assert [record.value for record in subscription.take(2, 10, 1000)] == [b"y"]


@here
async def test_commit_of_a_reader_is_not_undone_by_a_start_that_is_committed_late(store):
    await refuse_commits(store)
    listener = Hears()
    subscription = store.subscribe("group", "topic", listener, "latest")
    await until(lambda: listener.owned == {0, 1})
    await accept_commits(store)
    await subscription.commit({0: Committed(7)})
    await until(lambda: store._subscriptions["group", "topic"]._retry is None)
    await subscription.commit({})
    assert await store.committed("group", "topic") == {0: Committed(7), 1: Committed(0)}


@here
async def test_read_that_fails_for_good_is_reported_as_retriable_and_read_again(store):
    listener = Hears()
    subscription = store.subscribe("group", "topic", listener, "earliest")
    await until(lambda: listener.owned == {0, 1})
    broken = store._subscriptions["group", "topic"]._failed
    broken(CorruptRecords("damaged"))
    await until(lambda: listener.errors)
    assert listener.errors[0].retriable
    await store.publish("topic", [Message(b"x", partition=0)], -1, reactor.seconds() + 5)
    await until(lambda: 0 in listener.ready)
    assert subscription.take(0, 1, 100)


@here
async def test_writer_that_breaks_over_a_transaction_writes_the_next(store, logged_errors):
    write = store._writer._written

    def breaks(_: None) -> None:
        write(None)
        raise ZeroDivisionError

    store._writer._written = breaks
    for count in (1, 2):
        await store.publish("topic", [Message(b"x", partition=0)], -1, reactor.seconds() + 5)
        await until(lambda count=count: len(logged_errors) >= count)
    store._writer._written = write
    assert "writer broke" in logged_errors[0]["log_format"]
    await store.publish("topic", [Message(b"x", partition=0)], -1, reactor.seconds() + 5)
    logged_errors.clear()


@here
async def test_publishes_whose_transaction_has_not_begun_can_be_given_up(store):
    first = store.publish("topic", [Message(b"a", partition=0)], -1, reactor.seconds() + 5)
    await deferLater(reactor, 0)
    assert store._writer.busy_since is not None
    second = store.publish("topic", [Message(b"b", partition=0)], -1, reactor.seconds() + 5)
    store.fail_unsent()
    assert [type(outcome) for outcome in await second] == [Unavailable]
    assert await first == [Receipt(0, 0)]
    assert await store.publish("topic", [Message(b"c", partition=0)], -1, reactor.seconds() + 5) == [Receipt(0, 1)]


@here
async def test_publish_that_a_slow_disk_would_answer_after_its_deadline_is_refused_at_once(store):
    def publish(size: int, seconds: float) -> Deferred[list[Outcome]]:
        return store.publish("topic", [Message(b"x" * size, partition=0)], -1, reactor.seconds() + seconds)

    for _ in range(3):
        store._writer._thread.call(lambda _connection: time.sleep(0.25))
    first = publish(100_000, 10)
    await deferLater(reactor, 0.01)
    for _ in range(3):
        store._writer._thread.call(lambda _connection: time.sleep(0.25))
    behind = [publish(100_000, 10) for _ in range(5)]
    assert await first == [Receipt(0, 0)]
    assert [type(outcome) for outcome in await publish(100, 0.1)] == [Overloaded]
    patient = publish(100, 10)
    assert [(await each)[0] for each in behind] == [Receipt(0, offset) for offset in range(1, 6)]
    assert await patient == [Receipt(0, 6)]
    await deferLater(reactor, 1.1)
    await publish(100, 5)
    assert await publish(100, 0.1) == [Receipt(0, 8)]


@here
async def test_removal_of_old_records_that_breaks_is_logged_and_tried_again(store, logged_errors):
    await store.set_retention("topic", 0)
    await store.publish("topic", [Message(b"x", partition=0)], -1, reactor.seconds() + 5)
    now_ms = store._keeper._now_ms
    store._keeper._now_ms = lambda: 1 // 0
    store._keeper.look_soon()
    await until(lambda: logged_errors)
    assert logged_errors[0]["log_failure"].check(ZeroDivisionError)
    logged_errors.clear()
    store._keeper._now_ms = lambda: now_ms() + 1000
    store._keeper.look_soon()
    await until(lambda: store._topics["topic"].partitions[0].earliest == 1)


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
