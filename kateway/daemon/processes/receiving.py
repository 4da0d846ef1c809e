"""Takes over the connections that a retiring process hands to its successor, each with its descriptor."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger

from kateway.daemon.processes.link import Link, close_all
from kateway.web.tcp.transport import PromptServer

_log = Logger()


class Receiving:
    """The successor's end of the link between two generations. ``factories`` are by ``public`` and ``admin``."""

    def __init__(self, reactor: Any, end: socket.socket, factories: Mapping[str, IProtocolFactory]) -> None:
        self._reactor = reactor
        self._factories = factories
        self.taken = 0
        """How many connections came."""
        self._link = Link(reactor, end, self._received, self._over)

    def close(self) -> None:
        """Takes no more."""
        self._link.close()

    def _received(self, message: dict[str, Any], descriptors: list[int]) -> None:
        factory = self._factories[message["listener"]]
        while descriptors:
            try:
                adopt(self._reactor, descriptors.pop(0), factory)
                self.taken += 1
            except OSError as error:
                # the client has gone meanwhile
                _log.debug("a connection that was handed over is gone: {error}", error=error)

    def _over(self) -> None:
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
