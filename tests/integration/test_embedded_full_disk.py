"""No room: publishes are refused, nothing written is lost, and it goes on by itself when there is room again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from kateway.config.schema import EmbeddedStorageConfig
from kateway.errors import KatewayError, StorageFull
from kateway.model import Message, Receipt
from kateway.storage.embedded import EmbeddedStore

PROGRAM = Path(__file__).with_name("embedded_full_disk.py")
ROOT = Path(__file__).resolve().parents[2]


def test_files_that_may_not_grow_are_a_full_disk_and_it_recovers(tmp_path):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "data")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        timeout=60,
    )
    told = json.loads(done.stdout)
    assert told["errors"] == ["storage-full", "storage-full", None]
    assert told["maybe_written"] is False
    assert told["ill"][0] is False
    assert "make room" in told["ill"][1]
    assert told["well"] is True
    assert len(told["written"]) > 20
    assert len(told["refused"]) == 2
    assert told["found"] == told["written"]


async def wait(seconds: float) -> None:
    passed: Deferred[None] = Deferred()
    reactor.callLater(seconds, passed.callback, None)
    await passed


@pytest_twisted.ensureDeferred
async def test_a_file_that_has_reached_its_bound_is_full_until_something_is_deleted(tmp_path):
    store = EmbeddedStore(EmbeddedStorageConfig(path=str(tmp_path), max_bytes=2 << 20), reactor)
    await store.start()
    await store.create_topic("old", partitions=1)
    await store.create_topic("kept", partitions=1)
    assert await store.publish("kept", [Message(b"first")], -1, reactor.seconds() + 10) == [Receipt(0, 0)]
    outcome: Receipt | KatewayError = Receipt(0, 0)
    while isinstance(outcome, Receipt):
        (outcome,) = await store.publish("old", [Message(b"x" * 50_000)], -1, reactor.seconds() + 10)
    assert isinstance(outcome, StorageFull)
    assert outcome.retry_after_seconds
    assert not store.health().healthy
    await store.delete_topic("old")
    deadline = reactor.seconds() + 20
    while not store.health().healthy:
        assert reactor.seconds() < deadline
        await wait(0.05)
    assert await store.publish("kept", [Message(b"x" * 50_000)], -1, reactor.seconds() + 10) == [Receipt(0, 1)]
    assert (tmp_path / "kateway.sqlite3").stat().st_size <= 2 << 20
    await store.stop(5.0)
