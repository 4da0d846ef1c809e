"""A process listens in the place of another one as far as it can, says where it cannot, and leaves nothing open."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor as the_reactor
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from kateway.daemon.processes.inherited import Inherited
from kateway.daemon.processes.link import Link, pair
from kateway.daemon.processes.listeners import Listeners
from kateway.daemon.processes.receiving import Receiving
from kateway.daemon.processes.worker import BEAT_SECONDS, Worker
from kateway.web.tcp.shared_sockets import listening_sockets
from kateway.web.tcp.tls import Certificate

reactor: Any = the_reactor
TCP = "tcp:0:interface=127.0.0.1"


class Crowded:
    """The reactor, but that ``room`` more ports can be listened on."""

    def __init__(self, room: int) -> None:
        self.room = room

    def adoptStreamPort(self, *told: Any) -> Any:
        if not self.room:
            raise OSError(24, "Too many open files")
        self.room -= 1
        return reactor.adoptStreamPort(*told)

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


async def test_place_that_one_cannot_listen_at_leaves_the_others_and_no_descriptor_open() -> None:
    crowded = Crowded(1)
    listeners = Listeners(crowded)
    listeners.listen("public", {}, Factory(), [], None)
    places = [("public", TCP), ("public", "tcp:1"), ("admin", "tcp:2")]
    made = listening_sockets(TCP, 3)
    given = [os.dup(one.fileno()) for one in made]
    remaining = list(given)
    assert not listeners.stand_in(1, places, remaining)
    assert (remaining, [is_open(one) for one in given]) == ([], [False, False, False])
    crowded.room = 1
    again = [os.dup(one.fileno()) for one in made]
    # only what is missing: one more would be refused
    assert listeners.stand_in(1, places, again)
    await listeners.stop()
    for one in made:
        one.close()


@pytest.fixture
def key_and_cert(tmp_path: Path) -> tuple[Path, Path]:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-keyout", key, "-out", cert], check=True, capture_output=True,
    )  # fmt: skip
    return key, cert


async def test_certificate_of_a_place_is_read_anew_only_while_it_is_in_use(key_and_cert: tuple[Path, Path]) -> None:
    key, cert = key_and_cert
    certificates: list[Certificate] = []
    listeners = Listeners(reactor)
    listeners.listen("public", {}, Factory(), certificates, None)
    endpoint = f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={cert}"
    (made,) = listening_sockets(endpoint, 1)
    for _ in range(2):
        assert listeners.stand_in(1, [("public", endpoint)], [os.dup(made.fileno())])
        assert len(certificates) == 1
        await listeners.stand_down(1)
        assert certificates == []
    cert.write_text("")
    assert not listeners.stand_in(1, [("public", endpoint)], [os.dup(made.fileno())])
    assert certificates == []
    await listeners.stop()
    made.close()


class Readers:
    """A reactor for links that are read when it is told to."""

    def __init__(self) -> None:
        self.links: list[Link] = []

    def addReader(self, link: Link) -> None:
        self.links.append(link)

    def removeReader(self, link: Link) -> None:
        self.links.remove(link)


@pytest.mark.parametrize("message", [{"listener": "none"}, {}])
def test_connection_for_a_listener_that_is_not_known_is_closed(
    message: dict[str, str], logged_errors: list[dict[str, Any]]
) -> None:
    readers = Readers()
    ours, theirs = pair()
    receiving = Receiving(readers, ours, {"public": Factory()})
    client, server = socket.socketpair()
    sender = Link(readers, theirs, lambda _message, _descriptors: None, lambda: None)
    assert sender.send(message, [server.fileno()])
    server.close()
    readers.links[0].doRead()
    client.settimeout(5)
    assert client.recv(1) == b""  # nothing holds the other end
    client.close()
    sender.close()
    receiving.close()
    assert len(logged_errors) == 1
    logged_errors.clear()


class Faulty:
    """A gateway whose figures cannot be told."""

    def figures(self) -> Any:
        raise ZeroDivisionError


async def test_sign_of_life_is_given_though_the_figures_cannot_be_told(
    tmp_path: Path, logged_errors: list[dict[str, Any]]
) -> None:
    ours, theirs = pair()
    told = Inherited(index=1, count=2, generation=1, gateway="g", link=os.dup(theirs.fileno()), quotas=-1)
    theirs.close()
    clock = ClockWithReaders()
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)]
    worker = Worker(told, clock, tmp_path)
    gateway: Any = Faulty()
    worker.start(gateway, NoSockets(), {}, {})
    for number, handler in before:
        signal.signal(number, handler)
    clock.advance(BEAT_SECONDS)
    clock.advance(BEAT_SECONDS)
    for _ in range(3):
        assert ours.recv(1000) == b"{}"
    await worker.stop()
    ours.close()
    assert len(logged_errors) == 3
    logged_errors.clear()


class ClockWithReaders(Clock, Readers):
    def __init__(self) -> None:
        Clock.__init__(self)
        Readers.__init__(self)


class NoSockets:
    """In the place of the reactor that listens for questions."""

    def listenUNIX(self, *_told: object, mode: int) -> NoSockets:
        return self

    def stopListening(self) -> None:
        pass
