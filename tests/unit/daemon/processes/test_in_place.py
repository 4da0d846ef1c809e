"""An upgrade in place that is given up leaves the code that runs with its listeners, and nothing else open."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as the_reactor
from twisted.internet.error import ReactorNotRunning
from twisted.internet.protocol import Factory

from kateway.daemon.processes.in_place import InPlace

reactor: Any = the_reactor


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def checked(monkeypatch: pytest.MonkeyPatch, folder: Path) -> InPlace:
    sound = folder / "sound.py"
    sound.write_text("")
    monkeypatch.setattr(sys, "argv", [str(sound), "-n", "kateway"])
    upgrade = InPlace(reactor, 2)
    await upgrade.check(30, "text")
    return upgrade


async def test_upgrade_that_is_given_up_closes_what_it_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
    before = descriptors()
    upgrade = await checked(monkeypatch, tmp_path)
    upgrade.keep_listeners("public", ["tcp:0", "tcp:1"], [port, port])
    assert descriptors() == before + 2 + 1
    upgrade.give_up()
    assert (descriptors(), port._shouldShutdown) == (before, True)
    await port.stopListening()


async def test_connection_that_cannot_be_kept_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    upgrade = await checked(monkeypatch, tmp_path)
    one, other = socket.socketpair()
    with one, other:
        gone = other.detach()
        os.close(gone)
        assert not upgrade.takes("public")(gone)
    upgrade.give_up()


class Stopping:
    """A reactor that stops when it is told to."""

    def __init__(self, *, stopped: bool = False) -> None:
        self.stopped = stopped
        self.after: list[Callable[[], None]] = []

    def addSystemEventTrigger(self, _phase: str, _event: str, do: Callable[[], None]) -> None:
        self.after.append(do)

    def stop(self) -> None:
        if self.stopped:
            raise ReactorNotRunning
        self.stopped = True

    def end(self) -> None:
        for do in self.after:
            do()


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Notes that the new code was run."""
    found: list[object] = []
    monkeypatch.setattr(os, "execve", lambda *told: found.append(told))
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_new_code_runs_when_the_old_one_has_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, executed: list[object]
) -> None:
    upgrade = await checked(monkeypatch, tmp_path)
    stopping = upgrade._reactor = Stopping()
    upgrade.start()
    assert not executed
    stopping.end()
    assert len(executed) == 1
    upgrade.give_up()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_process_that_is_told_to_end_while_it_drains_for_an_upgrade_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, executed: list[object], number: signal.Signals
) -> None:
    upgrade = await checked(monkeypatch, tmp_path)
    stopping = upgrade._reactor = Stopping()
    upgrade.start()
    signal.raise_signal(number)
    stopping.end()
    assert not executed
    upgrade.give_up()


async def test_process_that_stops_when_its_upgrade_is_to_begin_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, executed: list[object]
) -> None:
    upgrade = await checked(monkeypatch, tmp_path)
    stopping = upgrade._reactor = Stopping(stopped=True)
    upgrade.start()
    stopping.end()
    assert not executed
    upgrade.give_up()
