"""Killed in the middle of writing, the embedded store has kept everything that it had acknowledged."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from kateway.config.schema import EmbeddedStorageConfig
from kateway.model import Message, Receipt
from kateway.storage.embedded import EmbeddedStore

ROUNDS = 6
SEED = 20261122
WRITER = Path(__file__).with_name("embedded_writer.py")
ROOT = Path(__file__).resolve().parents[2]


def run_and_kill(directory: Path, round_: int, lines_before: int) -> list[list[str]]:
    """Runs the writer until it has said so many lines, kills it, answers all it had said."""
    process = subprocess.Popen(
        [sys.executable, str(WRITER), str(directory), f"{SEED}-{round_}"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    with process, process.stdout as said:
        lines = []
        for line in said:
            lines.append(line.decode().split())
            if len(lines) == lines_before:
                process.send_signal(signal.SIGKILL)
        # what it said before it died is what counts, also what was in the pipe
    assert process.returncode == -signal.SIGKILL
    return lines


@pytest_twisted.ensureDeferred
async def test_a_kill_at_any_moment_loses_nothing_acknowledged(tmp_path):
    random_ = random.Random(SEED)
    acknowledged: dict[tuple[int, int], str] = {}
    committed = 0
    for round_ in range(ROUNDS):
        for kind, partition, offset, *name in await deferToThread(
            run_and_kill, tmp_path, round_, random_.randrange(1, 1500)
        ):
            if kind == "record":
                assert acknowledged.setdefault((int(partition), int(offset)), name[0]) == name[0]
            else:
                committed = max(committed, int(offset))
        store = EmbeddedStore(EmbeddedStorageConfig(path=str(tmp_path)), reactor)
        await store.start()
        found = await everything(store)
        kept = await store.committed("group", "topic")
        await store.stop(5.0)
        assert {place: found.get(place) for place in acknowledged} == acknowledged
        assert len(set(found.values())) == len(found)
        assert (kept[0].offset if kept[0] else 0) >= committed
    assert len(acknowledged) > 100


async def everything(store: EmbeddedStore) -> dict[tuple[int, int], str]:
    found = {}
    for partition, end in (await store.offsets("topic", "latest")).items():
        offset = 0
        while offset < end:
            fetched = await store.read("topic", partition, offset, max_bytes=1 << 20, wait_seconds=0)
            for record in fetched.records:
                assert record.offset == offset
                assert record.value.split(b" ")[0] == record.key
                found[partition, offset] = record.key.decode()
                offset += 1
    return found


@pytest_twisted.ensureDeferred
async def test_written_records_are_there_after_an_orderly_stop_and_offsets_go_on(tmp_path):
    for round_ in range(3):
        store = EmbeddedStore(EmbeddedStorageConfig(path=str(tmp_path)), reactor)
        await store.start()
        if round_ == 0:
            await store.create_topic("topic", partitions=1)
        outcomes = await store.publish("topic", [Message(b"x ", b"x")], -1, reactor.seconds() + 10)
        assert outcomes == [Receipt(0, round_)]
        await store.stop(5.0)
