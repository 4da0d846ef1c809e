"""The handoff before a store that fails in every way, and through crashes: each record is written once, in order."""

from __future__ import annotations

import pickle
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sql_turns import Turns
from twisted.internet.defer import Deferred

from kateway.errors import (
    Conflict,
    DataDirectoryLocked,
    InvalidRecord,
    StorageFull,
    StoreUnavailable,
    TopicNotFound,
    Unavailable,
)
from kateway.model import HandedOff, Message, TopicInfo
from kateway.storage.handoff import DiskHandoff, HandoffConfig
from kateway.storage.handoff.reserve import RESERVE_BYTES, DiskReserve
from kateway.storage.interface import Admission, Attempt, Numbering, Outcome


class Brokers:
    """A cluster that knows the last five batches of each producer id, as Kafka does. ``faults`` are used up, one an
    attempt; then all goes well.
    """

    max_batch_bytes = 400

    def __init__(self) -> None:
        self.topics = {"t": 2}
        self.logs: dict[tuple[str, int], list[bytes | None]] = {}
        self.faults: list[str] = []
        self.bad: set[bytes | None] = set()
        self.pending = False
        self.attempts = 0
        self._ids = 0
        self._known: dict[tuple[int, str, int], list[tuple[int, int]]] = {}

    # as a store
    def partitions(self, topic: str) -> int | None:
        return self.topics.get(topic)

    async def topic(self, topic: str) -> TopicInfo:
        if topic not in self.topics:
            raise TopicNotFound(topic)
        return TopicInfo(topic, self.topics[topic])

    def undecided(self, topic: str, partition: int) -> bool:
        return self.pending

    # as one that writes prepared batches
    def known_topics(self) -> Mapping[str, int]:
        return self.topics

    def partition_for(self, key: bytes | None, partitions: int) -> int:
        return sum(key or b"") % partitions

    def encoded_size(self, message: Message) -> int:
        return 20 + len(message.value or b"")

    def encode(self, messages: Sequence[Message], numbering: Numbering, sequence: int) -> bytes:
        return pickle.dumps((numbering.producer_id, sequence, [message.value for message in messages]))

    async def numbering(self) -> Numbering:
        self._ids += 1
        return Numbering(self._ids, 0)

    async def write(self, topic: str, partition: int, batch: bytes) -> Attempt:
        self.attempts += 1
        fault = self.faults.pop(0) if self.faults else ""
        away = Unavailable("no answer")
        if fault == "before":
            return Attempt("again", away)
        producer, sequence, values = pickle.loads(batch)
        if self.bad.intersection(values):
            return Attempt("split", InvalidRecord("one of them"))
        known = self._known.setdefault((producer, topic, partition), [])
        if (sequence, len(values)) not in known:
            if known and sequence != sum(known[-1]):
                return Attempt("renumber", Conflict("out of order"))
            if fault == "forgotten":
                return Attempt("renumber", Conflict("forgotten"))
            self.logs.setdefault((topic, partition), []).extend(values)
            known.append((sequence, len(values)))
        return Attempt("again", away) if fault == "after" else Attempt("written")


class AlwaysOpen:
    """A gate that a test closes."""

    def __init__(self) -> None:
        self.open = True
        self.outcomes: list[Sequence[Outcome]] = []

    def admit(self) -> Admission | None:
        return "write" if self.open else None

    def ended(self, admitted: Admission, outcomes: Sequence[Outcome], began: float) -> None:
        self.outcomes.append(outcomes)


class World:
    """A handoff in a directory, and its successors."""

    def __init__(self, folder: Path, **bounds: Any) -> None:
        self.folder = folder
        self.bounds = bounds
        self.turns = Turns()
        self.brokers = Brokers()
        self.gate = AlwaysOpen()
        self.now_ms = 1_700_000_000_000
        self.roomy = False
        self.handoff = self.make()

    def make(self, enabled: bool = True) -> DiskHandoff:
        limits = {"max_bytes": 1 << 20, "max_age_seconds": 3600.0, "drain_bytes_per_second": 1 << 30, **self.bounds}
        self.handoff = DiskHandoff(
            HandoffConfig(enabled=enabled, **limits),
            self.turns,
            self.folder / "handoff",
            "storage.default.handoff",
            self.brokers,  # type: ignore[arg-type]
            self.brokers,
            self.gate,
            lambda: self.now_ms + int(self.turns.seconds() * 1000),
        )
        self.turns.result(self.handoff.start())
        return self.handoff

    def take(self, *values: bytes, topic: str = "t", key: bytes | None = b"k", partition: int | None = None) -> Any:
        messages = [Message(value, key, (), partition) for value in values]
        refusal = StoreUnavailable("away")
        return self.turns.result(self.handoff.take(topic, messages, self.turns.seconds() + 5, refusal))

    def drain(self, done: Callable[[], bool] | None = None) -> None:
        """Lets it drain until ``done``, without which until nothing is kept."""

        def step() -> bool:
            Deferred.fromCoroutine(self.handoff.look())
            return done() if done is not None else not self.handoff.status()["records"]

        self.turns.run_until(step, 0.01)

    def crash(self) -> None:
        """Ends as ``kill -9`` does, as far as the file shows: what runs is not heard of any more."""
        old = self.handoff
        old._stopped = True
        for running in list(old._running.values()):
            running.cancel()
        lock = old._spool._lock
        assert lock is not None
        self.turns.result(old._spool._thread.stop())
        lock.release()
        self.make()

    def pragma(self, pragma: str) -> None:
        self.turns.result(self.handoff._spool._thread.call(lambda connection: connection.execute(f"PRAGMA {pragma}")))

    def written(self) -> list[bytes | None]:
        return [value for partition in sorted(self.brokers.logs) for value in self.brokers.logs[partition]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.turns.result(world.handoff.stop())


def test_records_that_are_taken_are_written_once_in_order_and_leave_nothing(world: World) -> None:
    assert world.take(b"a", b"b") == [HandedOff(1), HandedOff(2)]
    assert world.handoff.holds("t")
    assert world.take(b"c") == [HandedOff(3)]
    assert world.handoff.status()["records"] == 3
    assert world.handoff.status()["oldest_seconds"] >= 0
    world.drain()
    assert world.written() == [b"a", b"b", b"c"]
    assert not world.handoff.holds("t")
    assert world.handoff.status()["bytes"] == 0
    assert world.take(b"d") == [HandedOff(4)]


def test_null_values_keys_headers_and_partitions_come_back_as_they_were_taken(world: World) -> None:
    world.gate.open = False
    message = Message(None, b"key", (("h", b"1"), ("n", None)), 1, 17)
    world.turns.result(world.handoff.take("t", [message], 5.0, Unavailable()))
    (row,) = world.turns.result(world.handoff._spool.next_rows("t", 10, 1000))
    assert row.message == message


@pytest.mark.parametrize("fault", ["before", "after", "forgotten"])
def test_attempt_that_fails_is_repeated_and_nothing_is_written_twice(world: World, fault: str) -> None:
    world.brokers.faults = ["", fault, fault]
    for value in (b"a", b"b", b"c"):
        world.take(value)
        if value == b"a":
            world.drain()
    world.drain()
    assert world.written() == [b"a", b"b", b"c"]


def test_crash_between_sending_and_knowing_writes_nothing_twice(world: World) -> None:
    world.brokers.faults = ["after"]
    world.take(b"a", b"b")
    world.drain(lambda: world.brokers.attempts == 1)
    world.crash()
    assert world.handoff.holds("t")
    world.take(b"c")
    world.drain()
    assert world.written() == [b"a", b"b", b"c"]


def test_number_that_the_store_refuses_for_a_batch_that_may_have_been_written_goes_to_the_refused_ones(
    world: World,
) -> None:
    world.brokers.faults = ["before", "forgotten"]
    world.take(b"a")
    world.drain()
    (refused,) = world.turns.result(world.handoff.list_refused(0, 10))
    assert "may have been written" in refused.reason
    assert world.written() == []


def test_bad_record_goes_to_the_refused_ones_alone_and_can_be_written_again(world: World) -> None:
    world.brokers.bad = {b"x"}
    world.take(b"a", b"x", b"b", b"c")
    world.drain()
    assert world.written() == [b"a", b"b", b"c"]
    (refused,) = world.turns.result(world.handoff.list_refused(0, 10))
    assert (refused.topic, refused.key, refused.value_bytes, refused.reason) == (
        "t",
        b"k",
        1,
        "invalid-record: one of them",
    )
    assert world.handoff.status()["refused"] == 1
    world.brokers.bad = set()
    assert world.turns.result(world.handoff.retry_refused()) == 1
    world.drain()
    assert world.written() == [b"a", b"b", b"c", b"x"]
    assert world.handoff.status()["bytes"] == 0


def test_refused_records_survive_a_restart_and_are_deleted_by_an_operator(world: World) -> None:
    world.brokers.bad = {b"x"}
    world.take(b"x")
    world.drain()
    world.crash()
    assert world.handoff.status()["refused"] == 1
    assert world.turns.result(world.handoff.delete_refused()) == 1
    assert world.turns.result(world.handoff.list_refused(0, 10)) == []
    assert world.handoff.status()["bytes"] == 0


def test_topic_that_is_gone_for_long_has_its_records_refused(world: World) -> None:
    world.take(b"a")
    del world.brokers.topics["t"]
    world.drain(lambda: world.turns.seconds() > 8)
    assert world.handoff.status()["records"] == 1
    world.drain()
    (refused,) = world.turns.result(world.handoff.list_refused(0, 10))
    assert refused.reason == "there is no such topic any more"
    assert world.take(b"b")[0].code == "store-unavailable"


def test_topic_that_was_never_seen_is_not_taken_and_one_that_was_is_after_a_restart(world: World) -> None:
    assert world.take(b"a", topic="other")[0].code == "store-unavailable"
    assert not world.handoff.holds("other")
    world.drain(lambda: "t" in world.handoff._spool.seen)
    world.brokers.topics = {}
    world.crash()
    world.gate.open = False
    assert world.take(b"a") == [HandedOff(1)]


def test_full_spool_refuses_and_its_records_are_written(tmp_path: Path) -> None:
    world = World(tmp_path, max_bytes=2000)
    world.gate.open = False
    outcomes = [world.take(b"%d" % number)[0] for number in range(9)]
    taken = [outcome for outcome in outcomes if isinstance(outcome, HandedOff)]
    assert 3 <= len(taken) < 9
    assert all(isinstance(outcome, StorageFull) for outcome in outcomes[len(taken) :])
    world.gate.open = True
    world.drain()
    assert world.written() == [b"%d" % number for number in range(len(taken))]
    world.turns.result(world.handoff.stop())


def test_disk_that_fails_refuses_and_takes_again_when_it_works(world: World) -> None:
    world.turns.result(
        world.handoff._spool._thread.call(lambda connection: connection.execute("PRAGMA query_only = 1"))
    )
    (outcome,) = world.take(b"a")
    assert isinstance(outcome, StorageFull)
    assert not world.handoff.holds("t")
    world.turns.result(
        world.handoff._spool._thread.call(lambda connection: connection.execute("PRAGMA query_only = 0"))
    )
    assert world.take(b"a") == [HandedOff(1)]


def full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file may not grow, as on a disk that is full, until the room that was set aside is given up."""
    give_up = DiskReserve.give_up

    def given_up(reserve: DiskReserve) -> bool:
        world.roomy = give_up(reserve)
        return world.roomy

    def call(function: Any, *args: Any) -> Any:
        def limited(connection: sqlite3.Connection, *given: Any) -> Any:
            pages = 1 << 30 if world.roomy else connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages}")
            return function(connection, *given)

        return original(limited, *args)

    thread = world.handoff._spool._thread
    original = thread.call
    monkeypatch.setattr(DiskReserve, "give_up", given_up)
    monkeypatch.setattr(thread, "call", call)


def test_spool_that_has_filled_its_disk_is_drained_with_the_room_that_was_set_aside(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.gate.open = False
    reserve = world.folder / "handoff" / "reserve"
    assert reserve.stat().st_size == RESERVE_BYTES
    full(world, monkeypatch)
    taken = 0
    while isinstance(world.take(b"%d" % taken + b"x" * 200)[0], HandedOff):
        taken += 1
    assert "full" in world.handoff.status()["fault"]
    world.gate.open = True
    world.drain()
    assert len(world.written()) == taken > 3
    assert world.handoff.status()["fault"] is None


def test_nothing_is_taken_before_the_room_is_set_aside_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.handoff._spool._reserve.give_up()
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=RESERVE_BYTES))
    (outcome,) = world.take(b"a")
    assert isinstance(outcome, StorageFull)
    assert "nearly full" in outcome.detail
    monkeypatch.undo()
    world.drain(lambda: bool(world.handoff._spool._reserve.held))
    assert isinstance(world.take(b"a")[0], HandedOff)


def test_spool_that_was_removed_takes_nothing_more_and_writes_what_it_holds(world: World) -> None:
    world.gate.open = False
    assert isinstance(world.take(b"a")[0], HandedOff)
    shutil.rmtree(world.folder / "handoff")
    (outcome,) = world.take(b"b")
    assert isinstance(outcome, StorageFull)
    assert "removed" in outcome.detail
    assert world.handoff.status()["fault"] == outcome.detail
    world.gate.open = True
    world.drain()
    assert world.written() == [b"a"]
    (world.folder / "handoff").mkdir()


def test_record_that_is_too_old_is_refused_and_not_dropped(tmp_path: Path) -> None:
    world = World(tmp_path, max_age_seconds=30.0)
    world.gate.open = False
    world.take(b"old")
    world.turns.advance(20)
    world.take(b"new")
    world.drain(lambda: world.turns.seconds() > 38)
    (refused,) = world.turns.result(world.handoff.list_refused(0, 10))
    assert (refused.value_bytes, refused.reason) == (3, "it was kept for longer than 30 s")
    world.gate.open = True
    world.drain()
    assert world.written() == [b"new"]
    world.turns.result(world.handoff.stop())


def test_record_that_gets_too_old_while_its_batch_is_made_is_refused_and_not_written_as_well(world: World) -> None:
    world.take(b"a", b"b")
    numbering = world.brokers.numbering

    async def slow() -> Numbering:
        # between the reading of the rows and the writing of their batch
        assert await world.handoff._spool.refuse_older(-1.0, "too old") == 2
        world.brokers.numbering = numbering  # type: ignore[method-assign]
        return await numbering()

    world.brokers.numbering = slow  # type: ignore[method-assign]
    world.drain()
    world.take(b"c")
    world.drain()
    assert world.written() == [b"c"]
    assert world.handoff.status()["refused"] == 2
    assert world.handoff._spool.prepared == {}


def test_stop_while_two_batches_are_under_way_gives_both_up_and_logs_nothing_broken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    given_up: list[int] = []
    broken: list[str] = []
    log = SimpleNamespace(failure=lambda text, *_, **__: broken.append(text), debug=lambda *_, **__: None)
    monkeypatch.setattr("kateway.storage.handoff.handoff._log", log)

    async def write(topic: str, partition: int, batch: bytes) -> Attempt:
        begun.append(partition)
        never: Deferred[Attempt] = Deferred(lambda _: given_up.append(partition))
        return await never

    monkeypatch.setattr(world.brokers, "write", write)
    world.take(b"a", partition=0)
    world.take(b"b", partition=1)
    world.drain(lambda: len(begun) == 2)
    world.turns.result(world.handoff.stop())
    assert given_up == [0, 1]
    assert broken == []


def test_batch_that_may_have_been_written_is_known_as_such_though_the_disk_fills_in_its_round(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.take(b"a", partition=0)
    world.take(b"b", partition=1)
    spool = world.handoff._spool
    written = spool.written

    async def full(batches: Any) -> None:
        monkeypatch.setattr(spool, "written", written)
        raise StorageFull("full")

    monkeypatch.setattr(spool, "written", full)
    world.brokers.faults = ["", "after"]
    # and the store knows its producer no more when it comes again
    attempts = world.brokers.write

    async def forgetting(topic: str, partition: int, batch: bytes) -> Attempt:
        if world.brokers.attempts == 3:
            world.brokers._known.pop((1, "t", 1))
            world.brokers.faults = ["forgotten"]
        return await attempts(topic, partition, batch)

    monkeypatch.setattr(world.brokers, "write", forgetting)
    world.drain()
    assert sorted(value or b"" for value in world.written()) == [b"a", b"b"]
    (refused,) = world.turns.result(world.handoff.list_refused(0, 10))
    assert "may have been written" in refused.reason


def test_partition_that_is_not_there_is_refused_at_once_and_the_others_are_kept(world: World) -> None:
    messages = [Message(b"a", None, (), 0), Message(b"b", None, (), 7), Message(b"c", None, (), 1)]
    outcomes = world.turns.result(world.handoff.take("t", messages, 5.0, Unavailable()))
    assert outcomes[0] == HandedOff(1)
    assert outcomes[1].code == "partition-not-found"
    assert outcomes[2] == HandedOff(2)


def test_records_wait_while_an_earlier_publish_may_still_be_written(world: World) -> None:
    world.brokers.pending = True
    world.take(b"a")
    world.drain(lambda: world.turns.seconds() > 5)
    assert world.written() == []
    world.brokers.pending = False
    world.drain()
    assert world.written() == [b"a"]


def test_handoff_that_is_turned_off_takes_nothing_and_writes_the_rest(world: World) -> None:
    world.gate.open = False
    world.take(b"a")
    world.turns.result(world.handoff.stop())
    world.make(enabled=False)
    assert world.take(b"b")[0].code == "store-unavailable"
    world.gate.open = True
    world.drain()
    assert world.written() == [b"a"]


def test_answers_that_say_nothing_end_in_the_refused_ones_so_that_later_records_go_on(world: World) -> None:
    original = world.brokers.write

    async def write(topic: str, partition: int, batch: bytes) -> Attempt:
        if b"poison" in batch:
            return Attempt("unclear", Unavailable("unknown server error"))
        return await original(topic, partition, batch)

    world.brokers.write = write  # type: ignore[method-assign]
    world.take(b"poison")
    world.drain()
    world.take(b"good")
    world.drain()
    assert world.written() == [b"good"]
    assert world.handoff.status()["refused"] == 1


def test_second_process_is_refused_the_directory(world: World) -> None:
    first = world.handoff
    with pytest.raises(DataDirectoryLocked):
        world.make()
    world.handoff = first


STEP = st.one_of(
    st.tuples(st.just("take"), st.integers(1, 30)),
    st.tuples(st.just("drain"), st.integers(1, 40)),
    st.tuples(st.just("crash"), st.just(0)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(STEP, min_size=3, max_size=12),
    st.lists(st.sampled_from(["", "before", "after"]), max_size=30),
)
def test_each_record_is_written_once_in_its_keys_order_whatever_fails_and_crashes(
    steps: list[tuple[str, int]], faults: list[str]
) -> None:
    folder = Path(mkdtemp())
    try:
        world = World(folder)
        world.brokers.faults = list(faults)
        taken: dict[bytes, list[bytes]] = {b"k": [], b"l": []}
        number = 0
        for step, count in steps:
            if step == "take":
                for key in taken:
                    values = [b"%d" % (number + each) for each in range(count)]
                    number += count
                    assert all(isinstance(outcome, HandedOff) for outcome in world.take(*values, key=key))
                    taken[key] += values
            elif step == "drain":
                for _ in range(count):
                    Deferred.fromCoroutine(world.handoff.look())
                    world.turns.turn(0.002)
                    world.turns.advance(0.01)
            else:
                world.crash()
        world.drain()
        for key, values in taken.items():
            assert world.brokers.logs.get(("t", sum(key) % 2), []) == values
        assert world.handoff.status()["refused"] == 0
        assert world.handoff.status()["bytes"] == 0
        world.turns.result(world.handoff.stop())
    finally:
        shutil.rmtree(folder)
