"""Passes a link through to the process of this host that it is meant for; the handshake is between the ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.protocol import Protocol as Connection
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure


class Siblings(Protocol):
    """The processes that serve behind one address, this one among them."""

    @property
    def index(self) -> int:
        """This process's own."""

    def socket_path(self, index: int) -> Path:
        """Where a process listens for links."""

    def path_of(self, index: int, pid: int) -> Path:
        """Where the process of this number listens for links, or the one that came after it."""


def address_of(address: str, index: int) -> str:
    """The address of one of several processes behind an address."""
    return f"{address}/{index}"


def index_in(address: str, own: str) -> int | None:
    """The index of a process behind the address ``own``; ``None`` where an address is another gateway's."""
    host, slash, index = address.rpartition("/")
    return int(index) if slash and host == own and index.isascii() and index.isdigit() and len(index) < 5 else None


class Relay(Connection):
    """The connection to the process; ``outer`` is the transport of the other gateway's."""

    transport: Any

    def __init__(self, outer: Any, first: bytes, over: Callable[[], None]) -> None:
        self._outer = outer
        self._first = first
        self._over = over

    def connectionMade(self) -> None:
        self.transport.write(self._first)
        # each side is read as fast as the other takes it
        self.transport.registerProducer(self._outer, True)
        self._outer.registerProducer(self.transport, True)
        self._outer.resumeProducing()

    def forward(self, data: bytes) -> None:
        """Bytes of the other gateway."""
        self.transport.write(data)

    def dataReceived(self, data: bytes) -> None:
        self._outer.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._outer.unregisterProducer()
        self._outer.loseConnection()
        self._over()

    def end(self) -> None:
        """The other gateway's connection is over."""
        if self.transport is not None:
            self.transport.unregisterProducer()
            self.transport.loseConnection()
