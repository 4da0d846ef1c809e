"""What only the embedded store does: its directory, its bounds, its deadlines, its retention."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from kateway.config.schema import EmbeddedStorageConfig
from kateway.errors import ConfigError, DataDirectoryLocked, OutcomeUnknown, Overloaded, TopicNotFound, Unavailable
from kateway.model import Message, Receipt
from kateway.storage.embedded import EmbeddedStore
from kateway.storage.interface import FOR_EVER

here = pytest_twisted.ensureDeferred
FILE = "kateway.sqlite3"


async def wait(seconds: float) -> None:
    passed: Deferred[None] = Deferred()
    reactor.callLater(seconds, passed.callback, None)
    await passed


async def until(condition: Callable[[], object]) -> None:
    deadline = reactor.seconds() + 20
    while not condition():
        assert reactor.seconds() < deadline, "it did not happen in time"
        await wait(0.01)


def soon() -> float:
    return reactor.seconds() + 10


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., EmbeddedStore]:
    def made(now_ms: Callable[[], int] | None = None, **options: object) -> EmbeddedStore:
        config = EmbeddedStorageConfig(path=str(tmp_path / "data"), **options)
        return EmbeddedStore(config, reactor, "main", *([now_ms] if now_ms else []))

    return made


@pytest_twisted.async_yield_fixture
async def store(make: Callable[..., EmbeddedStore]) -> AsyncIterator[EmbeddedStore]:
    made = make(max_inflight_bytes=1 << 20)
    await made.start()
    await made.create_topic("topic", partitions=1)
    yield made
    await made.stop(5.0)


@pytest.fixture
def busy_disk(store: EmbeddedStore, tmp_path: Path) -> Callable[[], sqlite3.Connection]:
    """Makes every write wait, by the write lock of a connection of the test's own, until that is closed."""

    def hold() -> sqlite3.Connection:
        connection = sqlite3.connect(tmp_path / "data" / FILE, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        return connection

    return hold


# --- the directory


@here
async def test_a_second_process_is_refused_with_the_first_ones_number(store, make):
    second = make()
    with pytest.raises(DataDirectoryLocked) as refused:
        await second.start()
    assert str(os.getpid()) in str(refused.value)
    assert "storage.main.path" in str(refused.value)
    assert not second.health().healthy
    await second.stop(1.0)
    assert await store.publish("topic", [Message(b"x")], -1, soon()) == [Receipt(0, 0)]


@here
async def test_the_directory_is_free_again_after_a_stop_and_after_a_start_that_failed(make, tmp_path):
    for _ in range(2):
        store = make()
        await store.start()
        await store.stop(1.0)
    (tmp_path / "data" / FILE).write_bytes(b"not a database at all" * 1000)
    for _ in range(2):
        with pytest.raises(ConfigError) as refused:
            await make().start()
        assert FILE in str(refused.value)
        assert "not a database" in str(refused.value)


@here
async def test_a_directory_that_cannot_be_made_is_told_by_its_option(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = EmbeddedStore(EmbeddedStorageConfig(path=str(tmp_path / "file" / "data")), reactor, "main")
    with pytest.raises(ConfigError) as refused:
        await store.start()
    assert str(refused.value).startswith("storage.main.path: ")


@here
async def test_a_newer_schema_is_refused_and_left_alone(make, tmp_path):
    store = make()
    await store.start()
    await store.stop(1.0)
    connection = sqlite3.connect(tmp_path / "data" / FILE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError) as refused:
        await make().start()
    assert "schema 99" in str(refused.value)


@here
async def test_a_damaged_file_is_told_when_it_is_opened(make, tmp_path):
    store = make()
    await store.start()
    await store.create_topic("topic", partitions=1)
    await store.stop(1.0)
    with (tmp_path / "data" / FILE).open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 8000)
    with pytest.raises(ConfigError) as refused:
        await make().start()
    assert FILE in str(refused.value)


@here
async def test_a_file_that_is_taken_away_makes_the_store_ill(store, tmp_path):
    assert store.health().healthy
    file = tmp_path / "data" / FILE
    file.rename(tmp_path / "elsewhere")
    assert not store.health().healthy
    assert str(file) in store.health().reason
    file.write_bytes(b"")
    assert "replaced" in store.health().reason
    file.unlink()
    (tmp_path / "elsewhere").rename(file)
    assert store.health().healthy


# --- deadlines and bounds


@here
async def test_publish_under_way_at_the_deadline_is_unknown_and_a_waiting_one_never_written(store, busy_disk):
    disk = busy_disk()
    deadline = reactor.seconds() + 0.3
    under_way = store.publish("topic", [Message(b"under way")], -1, deadline)
    await wait(0.05)
    waiting = store.publish("topic", [Message(b"waiting")], -1, deadline)
    patient = store.publish("topic", [Message(b"patient")], -1, reactor.seconds() + 20)
    (unknown,), (unwritten,) = await under_way, await waiting
    assert isinstance(unknown, OutcomeUnknown)
    assert unknown.maybe_written
    assert isinstance(unwritten, Unavailable)
    assert not unwritten.maybe_written
    assert not patient.called
    disk.close()
    assert await patient == [Receipt(0, 1)]
    fetched = await store.read("topic", 0, 0, max_bytes=1000, wait_seconds=0)
    assert [record.value for record in fetched.records] == [b"under way", b"patient"]


@here
async def test_more_than_may_be_held_is_refused_at_once_and_taken_again_later(store, busy_disk):
    disk = busy_disk()
    held = [store.publish("topic", [Message(b"x" * 500_000)], -1, soon()) for _ in range(2)]
    (outcome,) = await store.publish("topic", [Message(b"x" * 500_000)], -1, soon())
    assert isinstance(outcome, Overloaded)
    assert not outcome.maybe_written
    disk.close()
    assert [(await each)[0] for each in held] == [Receipt(0, 0), Receipt(0, 1)]
    assert await store.publish("topic", [Message(b"x" * 500_000)], -1, soon()) == [Receipt(0, 2)]


@here
async def test_one_publish_larger_than_the_bound_is_taken_when_nothing_else_is_held(store):
    assert await store.publish("topic", [Message(b"x" * 3_000_000)], -1, soon()) == [Receipt(0, 0)]
    fetched = await store.read("topic", 0, 0, max_bytes=1000, wait_seconds=0)
    assert fetched.records[0].value == b"x" * 3_000_000


@here
async def test_a_stop_that_runs_out_of_grace_answers_everything(make, tmp_path):
    store = make()
    await store.start()
    await store.create_topic("topic", partitions=1)
    disk = sqlite3.connect(tmp_path / "data" / FILE, isolation_level=None)
    disk.execute("BEGIN IMMEDIATE")
    under_way = store.publish("topic", [Message(b"under way")], -1, soon())
    await wait(0.05)
    waiting = store.publish("topic", [Message(b"waiting")], -1, soon())
    stopped = Deferred.fromCoroutine(store.stop(0.2))
    (unknown,), (unwritten,) = await under_way, await waiting
    assert isinstance(unknown, OutcomeUnknown)
    assert isinstance(unwritten, Unavailable)
    disk.close()
    await stopped


@here
async def test_a_topic_deleted_under_a_reader_that_waits_ends_the_wait(store):
    waiting = Deferred.fromCoroutine(store.read("topic", 0, 0, max_bytes=1000, wait_seconds=60))
    await wait(0)
    await store.delete_topic("topic")
    with pytest.raises(TopicNotFound):
        await waiting


# --- what is removed


@here
async def test_another_retention_counts_for_what_is_there_and_outlives_a_restart(make):
    now = [1_700_000_000_000]
    store = make(lambda: now[0], retention_check_seconds=0.1)
    await store.start()
    await store.create_topic("topic", partitions=1, retention_ms=FOR_EVER)
    # too large to share a row, which goes as a whole
    await store.publish("topic", [Message(b"x" * 500_000)], -1, soon())
    now[0] += 100_000
    await store.publish("topic", [Message(b"y" * 500_000)], -1, soon())
    await store.set_retention("topic", 10_000)
    await until(lambda: earliest(store, "topic") == 1)
    await store.set_retention("topic", FOR_EVER)
    now[0] += 1_000_000_000
    await deferLater(reactor, 0.3)
    assert earliest(store, "topic") == 1
    await store.set_retention("topic", 1_000)
    await store.stop(5.0)
    again = make(lambda: now[0], retention_check_seconds=0.1)
    await again.start()
    await until(lambda: earliest(again, "topic") == 2)
    await again.stop(5.0)


@here
async def test_records_beyond_their_retention_go_and_offsets_stay(make, tmp_path):
    now = [1_700_000_000_000]
    store = make(lambda: now[0], retention_check_seconds=0.1)
    await store.start()
    await store.create_topic("topic", partitions=1, retention_ms=10_000)
    await store.create_topic("forever", partitions=1)
    for number in range(50):
        await store.publish("topic", [Message(b"%d " % number + b"x" * 900)], -1, soon())
        await store.publish("forever", [Message(b"x")], -1, soon())
        now[0] += 1000
    await until(lambda: earliest(store, "topic") > 20)
    first = earliest(store, "topic")
    fetched = await store.read("topic", 0, first, max_bytes=10_000, wait_seconds=0)
    assert fetched.records[0].value.startswith(b"%d " % first)
    assert (await store.offsets("topic", 0))[0] == first
    now[0] += 1_000_000
    await until(lambda: earliest(store, "topic") == 50)
    assert await store.publish("topic", [Message(b"new")], -1, soon()) == [Receipt(0, 50)]
    now[0] += 1_000_000
    await until(lambda: earliest(store, "topic") == 51)
    await store.stop(5.0)
    again = make(lambda: now[0])
    await again.start()
    assert await again.offsets("topic", "latest") == {0: 51}
    assert await again.offsets("topic", "earliest") == {0: 51}
    assert await again.offsets("forever", "earliest") == {0: 0}
    assert await again.publish("topic", [Message(b"newer")], -1, soon()) == [Receipt(0, 51)]
    await again.stop(5.0)


def earliest(store: EmbeddedStore, topic: str) -> int:
    coroutine = store.offsets(topic, "earliest")
    found: list[int] = []
    Deferred.fromCoroutine(coroutine).addCallback(lambda offsets: found.append(offsets[0]))
    return found[0]


@here
async def test_a_deleted_topics_records_leave_the_file(store, make, tmp_path):
    for _ in range(40):
        await store.publish("topic", [Message(b"x" * 20_000)] * 10, -1, soon())
    await store.delete_topic("topic")

    def rows() -> int:
        connection = sqlite3.connect(tmp_path / "data" / FILE)
        try:
            log, partitions = "SELECT count(*) FROM log", "SELECT count(*) FROM partitions"
            return connection.execute(log).fetchone()[0] + connection.execute(partitions).fetchone()[0]
        finally:
            connection.close()

    await until(lambda: rows() == 0)
