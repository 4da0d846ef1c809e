"""Audit: events reach their sinks, in order, without holding a request up, and losses are counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThreadPool
from twisted.logger import LogLevel, globalLogPublisher

from kateway.config.schema import AuditConfig, PluginsConfig
from kateway.core.audit.events import ROOM_FOR_CHANGES, Audit, Event, SinkContext, build_audit
from kateway.core.audit.sinks import FileSink, TopicSink
from kateway.core.plugin_watch import Watches
from kateway.errors import ConfigError, Unavailable
from kateway.model import Message, Receipt


class HeldSink:
    """Writes when told to."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Event]] = []
        self.writes: list[Deferred[None]] = []
        self.closed = False

    async def write(self, events: Sequence[Event]) -> None:
        self.batches.append(events)
        self.writes.append(Deferred())
        await self.writes[-1]

    async def close(self) -> None:
        self.closed = True


def in_line(function: Callable[[], None]) -> Deferred[None]:
    function()
    return succeed(None)


def record(audit: Audit, *objects: str) -> None:
    for name in objects:
        audit.record("app1/key1", "publish", name, "ok", request_id="r1", address="192.0.2.1")


def objects(batch: Sequence[Event]) -> list[str]:
    return [event.object for event in batch]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def test_events_that_gather_while_a_sink_writes_are_its_next_batch() -> None:
    sink = HeldSink()
    audit = Audit({"held": sink}, now=lambda: 1.0)
    record(audit, "a", "b", "c")
    assert [objects(batch) for batch in sink.batches] == [["a"]]
    sink.writes[0].callback(None)
    assert [objects(batch) for batch in sink.batches] == [["a"], ["b", "c"]]
    sink.writes[1].callback(None)
    record(audit, "d")
    assert objects(sink.batches[2]) == ["d"]
    sink.writes[2].callback(None)
    assert audit.dropped == audit.queued == 0


def test_a_full_queue_drops_and_counts_and_holds_up_no_other_sink() -> None:
    slow, quick = HeldSink(), HeldSink()
    audit = Audit({"slow": slow, "quick": quick}, now=lambda: 1.0, config=AuditConfig(max_queued_events=2))
    for name in "abcde":
        record(audit, name)
        quick.writes[-1].callback(None)
    assert audit.dropped == 2
    assert audit.queued == 2
    assert [objects(batch) for batch in quick.batches] == [["a"], ["b"], ["c"], ["d"], ["e"]]
    slow.writes[0].callback(None)
    assert objects(slow.batches[1]) == ["b", "c"]
    slow.writes[1].callback(None)


def test_traffic_that_fills_a_queue_leaves_room_for_changes() -> None:
    sink = HeldSink()
    audit = Audit({"held": sink}, now=lambda: 1.0, config=AuditConfig(max_queued_events=2))
    record(audit, "a", "b", "c", "d")
    for number in range(ROOM_FOR_CHANGES + 1):
        audit.record("admin", "key.delete", f"change-{number}", "ok", change=True)
    assert audit.dropped == 2
    while not sink.writes[-1].called:
        sink.writes[-1].callback(None)
    kept = [name for batch in sink.batches for name in objects(batch)]
    assert kept == ["a", "b", "c", *(f"change-{number}" for number in range(ROOM_FOR_CHANGES))]


def test_a_sink_that_fails_is_complained_of_once_until_it_works_again() -> None:
    warnings: list[str] = []

    def observe(event: Any) -> None:
        if event.get("log_level") is LogLevel.warn and "audit sink" in event["log_format"]:
            warnings.append(str(event["error"]))

    sink = HeldSink()
    audit = Audit({"held": sink}, now=lambda: 1.0)
    globalLogPublisher.addObserver(observe)
    try:
        for outcome in (OSError("disk full"), OSError("still full"), CancelledError(), None, OSError("again")):
            record(audit, "a")
            if outcome is None:
                sink.writes[-1].callback(None)
            else:
                sink.writes[-1].errback(outcome)
    finally:
        globalLogPublisher.removeObserver(observe)
    assert warnings == ["disk full", "again"]
    assert audit.dropped == 4


@pytest_twisted.ensureDeferred
async def test_stopping_writes_what_is_queued_and_closes_the_sinks() -> None:
    sink = HeldSink()
    audit = Audit({"held": sink}, now=lambda: 1.0)
    record(audit, "a", "b")
    stopping = Deferred.fromCoroutine(audit.stop())
    sink.writes[0].callback(None)
    assert not sink.closed
    sink.writes[1].callback(None)
    await stopping
    assert sink.closed


def test_a_stop_in_a_hurry_can_be_cancelled() -> None:
    sink = HeldSink()
    audit = Audit({"held": sink}, now=lambda: 1.0)
    record(audit, "a")
    stopping = Deferred.fromCoroutine(audit.stop())
    stopping.cancel()
    stopping.addErrback(lambda failure: failure.trap(CancelledError))
    assert stopping.called
    sink.writes[0].callback(None)


# --- the file --------------------------------------------------------------------------------------------------


def test_the_file_has_one_json_object_a_line_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "made" / "audit.jsonl"
    audit = Audit(
        {"file": FileSink(path, max_bytes=1 << 20, max_files=2, in_thread=in_line)}, now=lambda: 1_767_225_600.5
    )
    record(audit, "app1/foo/v1", 'with "quotes"\nand a line', "half a pair \udcff")
    assert lines(path)[0] == {
        "time": "2026-01-01T00:00:00.500Z",
        "actor": "app1/key1",
        "action": "publish",
        "object": "app1/foo/v1",
        "outcome": "ok",
        "request_id": "r1",
        "address": "192.0.2.1",
    }
    assert len(lines(path)) == 3
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_file_is_rotated_and_only_so_many_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit({"file": FileSink(path, max_bytes=400, max_files=3, in_thread=in_line)}, now=lambda: 0.0)
    for number in range(20):
        record(audit, f"event-{number}")
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
    assert all(file.stat().st_size <= 400 for file in tmp_path.iterdir())
    kept = [line["object"] for name in reversed(names) for line in lines(tmp_path / name)]
    assert kept == [f"event-{number}" for number in range(20 - len(kept), 20)]


def test_one_file_alone_starts_afresh(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = Audit({"file": FileSink(path, max_bytes=400, max_files=1, in_thread=in_line)}, now=lambda: 0.0)
    for number in range(20):
        record(audit, f"event-{number}")
    assert [file.name for file in tmp_path.iterdir()] == ["audit.jsonl"]
    assert lines(path)[-1]["object"] == "event-19"


@pytest_twisted.ensureDeferred
async def test_the_file_is_written_in_a_thread(tmp_path: Path) -> None:
    def in_thread(function: Callable[[], None]) -> Deferred[None]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), function)  # type: ignore[attr-defined, arg-type]

    path = tmp_path / "audit.jsonl"
    audit = Audit(
        {"file": FileSink(path, max_bytes=1 << 20, max_files=2, in_thread=in_thread)},
        now=lambda: 0.0,
        config=AuditConfig(max_queued_events=5000),
    )
    record(audit, *(str(number) for number in range(3000)))
    assert audit.queued > 0, "nothing was waited for"
    await audit.stop()
    assert [line["object"] for line in lines(path)] == [str(number) for number in range(3000)]
    assert audit.dropped == 0


# --- the topic -------------------------------------------------------------------------------------------------


class OneTopicStore:
    """The part of a store that publishes; answers as it is told."""

    def __init__(self) -> None:
        self.published: list[tuple[str, list[Message], int, float]] = []
        self.failing = False

    def publish(self, topic: str, messages: Sequence[Message], acks: int, deadline: float) -> Deferred[list[Any]]:
        self.published.append((topic, list(messages), acks, deadline))
        return succeed([Unavailable() if self.failing else Receipt(0, n) for n in range(len(messages))])


def test_a_topic_gets_each_event_as_a_record_keyed_by_its_object() -> None:
    store = OneTopicStore()
    audit = Audit(
        {"topic": TopicSink(store, "trail", timeout_seconds=3, seconds=lambda: 100.0)},  # type: ignore[arg-type]
        now=lambda: 0.0,
    )
    record(audit, "app1/foo/v1")
    topic, messages, acks, deadline = store.published[0]
    assert (topic, acks, deadline) == ("trail", -1, 103.0)
    assert messages[0].key == b"app1/foo/v1"
    assert json.loads(messages[0].value or b"")["actor"] == "app1/key1"
    store.failing = True
    record(audit, "b")
    assert audit.dropped == 1


# --- configuration ---------------------------------------------------------------------------------------------


def context(tmp_path: Path, **options: Any) -> SinkContext:
    return SinkContext(
        config=AuditConfig(**options), data_directory=tmp_path, stores={}, seconds=lambda: 0.0, in_thread=in_line
    )


def test_by_default_events_go_to_a_file_in_the_data_directory(tmp_path: Path) -> None:
    record(build_audit(context(tmp_path), lambda: 0.0, Watches(PluginsConfig(), Clock().seconds)), "a")
    assert lines(tmp_path / "audit.jsonl")[0]["object"] == "a"


def test_every_fault_of_the_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        build_audit(
            context(tmp_path, sinks=("file", "topic", "magic"), file=str(tmp_path)),
            lambda: 0.0,
            Watches(PluginsConfig(), Clock().seconds),
        )
    assert [problem.partition(":")[0] for problem in refused.value.problems] == [
        "audit.file",
        "audit.topic",
        "audit.cluster",
        "audit.sinks",
    ]


def test_without_sinks_nothing_is_kept() -> None:
    audit = Audit({}, now=lambda: 0.0)
    record(audit, "a")
    assert audit.queued == audit.dropped == 0
