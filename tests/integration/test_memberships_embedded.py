"""Groups over the embedded store: commits survive, and a membership that ends leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from kateway.config.schema import DeliveryConfig, EmbeddedStorageConfig
from kateway.core.delivery.batch import Ack, Batch
from kateway.core.delivery.confirmation import Span, Watcher
from kateway.core.groups.memberships import Memberships
from kateway.core.groups.reader import Reader
from kateway.core.groups.wanted import Wanted
from kateway.model import Message
from kateway.storage.embedded import EmbeddedStore

here = pytest_twisted.ensureDeferred

KEY = ("default", "g", "t")


class Wire:
    """A connection whose client's TCP acknowledges everything at once."""

    def __init__(self) -> None:
        self.position = 0
        self.watchers: list[Watcher] = []

    def confirmed(self) -> int | None:
        return self.position

    def stalled(self) -> bool:
        return False

    def watch(self, watcher: Watcher) -> None:
        self.watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        if watcher in self.watchers:
            self.watchers.remove(watcher)

    def write(self, batch: Batch) -> Span:
        start, self.position = self.position, self.position + len(batch.records)
        return Span(start, [1] * len(batch.records), self.position)

    def close(self, orderly: bool = True) -> None:
        for watcher in list(self.watchers):
            watcher.closed(self.position, orderly)


async def until(condition: Callable[[], object]) -> None:
    deadline = reactor.seconds() + 20
    while not condition():
        assert reactor.seconds() < deadline, "it did not happen in time"
        await deferLater(reactor, 0.01)


@pytest_twisted.async_yield_fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    made = EmbeddedStore(EmbeddedStorageConfig(path=str(tmp_path)), reactor)
    await made.start()
    await made.create_topic("t", partitions=2)
    yield made
    await made.stop(5.0)


def gateway(store: EmbeddedStore) -> Memberships:
    return Memberships(lambda name: store, reactor, DeliveryConfig(commit_interval_seconds=0.05))


async def fill(store: EmbeddedStore, count: int) -> None:
    messages = [Message(b"%d" % number, partition=number % 2) for number in range(count)]
    await store.publish("t", messages, -1, reactor.seconds() + 5)


async def read(reader: Reader, wire: Wire, count: int) -> list[tuple[int, int]]:
    """Reads exactly so many records."""
    got: list[tuple[int, int]] = []

    def more() -> bool:
        while len(got) < count and (batch := reader.take(count - len(got), 1 << 20)) is not None:
            got.extend((batch.partition, record.offset) for record in batch.records)
            reader.sent(batch, wire.write(batch))
        return len(got) >= count

    await until(more)
    return got


@here
async def test_ten_read_and_closed_are_ten_committed_and_the_next_gets_the_rest(store: EmbeddedStore) -> None:
    groups = gateway(store)
    await fill(store, 20)
    wire = Wire()
    first = await read(groups.reader(KEY, Wanted(), wire), wire, 10)
    wire.close()
    wire = Wire()
    second = await read(groups.reader(KEY, Wanted(), wire), wire, 10)
    assert sorted(first + second) == [(partition, offset) for partition in range(2) for offset in range(10)]
    wire.close()
    await groups.stop(1.0)
    committed = await store.committed("g", "t")
    assert [at.offset for at in committed.values() if at] == [10, 10]


@here
async def test_a_reset_loses_nothing_and_a_stop_commits_what_is_settled(store: EmbeddedStore) -> None:
    groups = gateway(store)
    await fill(store, 10)
    wire = Wire()
    lost = await read(groups.reader(KEY, Wanted(), wire), wire, 4)
    wire.close(orderly=False)
    wire = Wire()
    assert set(lost) <= set(await read(groups.reader(KEY, Wanted(), wire), wire, 10))
    wire.close()
    await groups.stop(1.0)
    assert sum(at.offset for at in (await store.committed("g", "t")).values() if at) == 10


@here
async def test_acknowledged_out_of_order_is_not_delivered_again_after_a_restart(store: EmbeddedStore) -> None:
    groups = gateway(store)
    await fill(store, 12)
    wire = Wire()
    reader = groups.reader(KEY, Wanted(mode="explicit", ack_timeout=0.5), wire)
    await read(reader, wire, 12)
    acks = [Ack(0, 1), Ack(0, 3), Ack(1, 2, upto=True)]
    assert await groups.acknowledge("default", "g", "t", acks, sync=True) == [None] * 3
    reader.finish()
    await groups.stop(1.0)
    assert await groups.acknowledge("default", "g", "t", [Ack(0, 3), Ack(1, 0)]) == [None, None]
    groups = gateway(store)
    wire = Wire()
    reader = groups.reader(KEY, Wanted(mode="explicit"), wire)
    assert sorted(await read(reader, wire, 7)) == [(0, 0), (0, 2), (0, 4), (0, 5), (1, 3), (1, 4), (1, 5)]
    assert reader.take(10, 1000) is None
    reader.finish()
    await groups.stop(1.0)


@here
async def test_a_member_that_lingers_is_let_go(store: EmbeddedStore) -> None:
    groups = gateway(store)
    await fill(store, 2)
    wire = Wire()
    await read(groups.reader(KEY, Wanted(), wire), wire, 2)
    wire.close()
    await groups.let_go("default", "g", "t")
    assert groups.groups == 0
    await store.reset("g", "t", {0: 0, 1: 0})
    wire = Wire()
    await read(groups.reader(KEY, Wanted(), wire), wire, 2)
    wire.close()
    await groups.stop(1.0)
