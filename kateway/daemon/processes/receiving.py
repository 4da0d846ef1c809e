"""Takes over what a retiring process hands to its successor: connections, each with its descriptor, and memberships."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger

from kateway.daemon.processes.link import Link, close_all
from kateway.web.tcp.transport import PromptServer

_log = Logger()


class GoesOn(Protocol):
    """Goes on with the memberships of the process before this one; a key is store, group and topic."""

    @property
    def clusters(self) -> Iterable[str]:
        """The clusters that this process knows."""

    def begin(self) -> None:
        """The process before begins to give way."""

    def will_come(self, keys: Sequence[Sequence[str]], *, all_told: bool) -> None:
        """These are going to be passed on."""

    def take(self, membership: Mapping[str, Any]) -> None:
        """Goes on with one."""

    def does_not_come(self, key: Sequence[str]) -> None:
        """One is not passed on after all."""

    def end(self) -> None:
        """Nothing comes any more."""


class Receiving:
    """The successor's end of the link between two generations. ``factories`` are by ``public`` and ``admin``;
    ``goes_on`` is ``None`` where this process has no groups with other processes.
    """

    def __init__(
        self,
        reactor: Any,
        end: socket.socket,
        factories: Mapping[str, IProtocolFactory],
        goes_on: GoesOn | None = None,
    ) -> None:
        self._reactor = reactor
        self._factories = factories
        self._goes_on = goes_on
        self.taken = 0
        """How many connections came."""
        self._link = Link(reactor, end, self._received, self._over)
        if goes_on is not None:
            goes_on.begin()
            self._link.send({"clusters": list(goes_on.clusters)})

    def close(self) -> None:
        """Takes no more."""
        self._link.close()

    def _received(self, message: dict[str, Any], descriptors: list[int]) -> None:
        goes_on = self._goes_on
        if goes_on is not None and "coming" in message:
            goes_on.will_come(message["coming"], all_told=bool(message.get("all")))
        if goes_on is not None and "membership" in message:
            goes_on.take(message["membership"])
        if goes_on is not None and "not-coming" in message:
            goes_on.does_not_come(message["not-coming"])
        if not descriptors:
            return
        factory = self._factories[message["listener"]]
        while descriptors:
            try:
                adopt(self._reactor, descriptors.pop(0), factory)
                self.taken += 1
            except OSError as error:
                # the client has gone meanwhile
                _log.debug("a connection that was handed over is gone: {error}", error=error)

    def _over(self) -> None:
        if self._goes_on is not None:
            self._goes_on.end()
        _log.info("{count} connections were taken over", count=self.taken)


def adopt(reactor: Any, descriptor: int, factory: IProtocolFactory) -> None:
    """Goes on with a client's connection. ``OSError``: it is gone."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        close_all([descriptor])
        raise
    try:
        sock.setblocking(False)
        os.set_inheritable(sock.fileno(), False)
        peer = sock.getpeername()
    except OSError:
        sock.close()
        raise
    kind = IPv6Address if sock.family == socket.AF_INET6 else IPv4Address
    address = kind("TCP", *peer[:2])
    protocol: Any = factory.buildProtocol(address)
    if protocol is None:
        sock.close()
        return
    transport = PromptServer(sock, protocol, peer, _NoPort(), 0, reactor)
    protocol.makeConnection(transport)
    protocol.taken_over()


class _NoPort:
    """In the place of the listening port, which the connection has outlived."""

    _realPortNumber = 0
