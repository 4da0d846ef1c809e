"""An upgrade in place that is given up leaves the code that runs with its listeners, and nothing else open."""

from __future__ import annotations

import gc
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as the_reactor
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
