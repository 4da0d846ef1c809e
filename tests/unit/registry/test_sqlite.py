"""The embedded registry's file: durable, exclusive, and honest about what it cannot read."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from kateway.errors import ConfigError, DataDirectoryLocked, RegistryOpen, RegistryUnavailable
from kateway.registry.interface import Application, GatewayEntry, Registry
from kateway.registry.read_only import OpenRegistry
from kateway.registry.sqlite import FILE_NAME, EmbeddedRegistry

WRITER = """
import sys
from pathlib import Path
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from kateway.registry.sqlite import EmbeddedRegistry
from kateway.registry.interface import Application

async def write():
    registry = EmbeddedRegistry(reactor, Path(sys.argv[1]))
    await registry.start()
    number = 0
    while True:
        await registry.put_application(Application(name=f"app{number}"))
        print(number, flush=True)
        number += 1

reactor.callWhenRunning(lambda: Deferred.fromCoroutine(write()).addErrback(lambda failure: failure.printTraceback()))
reactor.run()
"""


def written_until_killed(data: Path) -> list[int]:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(data)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        answered = [int(writer.stdout.readline()) for _ in range(20)]
        os.kill(writer.pid, signal.SIGKILL)
        return answered + [int(line) for line in writer.stdout if line.endswith("\n")]


@pytest_twisted.ensureDeferred
async def test_a_write_that_answered_survives_kill_9(tmp_path: Path) -> None:
    answered = await deferToThread(written_until_killed, tmp_path)
    registry = EmbeddedRegistry(reactor, tmp_path)
    await registry.start()
    assert {f"app{number}" for number in answered} <= set(registry.snapshot.applications)
    await registry.stop()


@pytest_twisted.ensureDeferred
async def test_a_file_in_use_is_refused_to_a_second(tmp_path: Path) -> None:
    first, second = EmbeddedRegistry(reactor, tmp_path), EmbeddedRegistry(reactor, tmp_path)
    await first.start()
    with pytest.raises(DataDirectoryLocked, match=r"registry\.db"):
        await second.start()
    await second.stop()
    await first.stop()
    await second.start()
    await second.stop()


@pytest_twisted.ensureDeferred
async def test_a_stopped_registry_writes_nothing_and_keeps_its_snapshot(tmp_path: Path) -> None:
    registry = EmbeddedRegistry(reactor, tmp_path)
    await registry.start()
    await registry.put_application(Application(name="app1"))
    await registry.stop()
    await registry.stop()
    assert set(registry.snapshot.applications) == {"app1"}
    with pytest.raises(RegistryUnavailable):
        await registry.put_application(Application(name="app2"))
    assert set(registry.snapshot.applications) == {"app1"}


@pytest_twisted.ensureDeferred
async def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    registry = EmbeddedRegistry(reactor, tmp_path)
    await registry.start()
    await registry.put_application(Application(name="app1"))
    await registry.stop()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    with connection:
        connection.execute("UPDATE entries SET document = '{\"colour\":1}'")
    connection.close()
    with pytest.raises(ConfigError, match=r"applications\.app1: colour"):
        await registry.start()
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="newer"):
        await registry.start()
    (tmp_path / FILE_NAME).write_bytes(b"this is no database" * 1000)
    with pytest.raises(ConfigError, match="not a database"):
        await registry.start()


@pytest_twisted.ensureDeferred
async def test_open_mode_allows_everything_and_keeps_nothing() -> None:
    registry: Registry = OpenRegistry()
    await registry.start()
    assert registry.snapshot.open
    assert registry.read_only
    assert registry.health().healthy
    with pytest.raises(RegistryOpen, match=r"\[registry\] driver"):
        await registry.put_application(Application(name="app1"))
    await registry.reload()
    await registry.register_gateway(GatewayEntry(name="gw"))
    assert [entry.name for entry in await registry.gateways()] == ["gw"]
    await registry.stop()
    assert await registry.gateways() == []
