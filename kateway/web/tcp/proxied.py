"""Reads a PROXY header before anything else, TLS included, on connections of trusted proxies; others are left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

from twisted.internet import tcp
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IProtocolFactory
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from kateway.config.schema import HttpConfig
from kateway.web.tcp.proxies import TrustedProxies
from kateway.web.tcp.proxy_header import UNIX, Malformed, read_header

_goes_on = Logger().failureHandler("a connection could not be read while its port closed; the others are")


class ProxyRules(Interface):
    """What is in force at the moment at the server behind a listener."""

    config: HttpConfig
    proxies: TrustedProxies
    later: Callable[..., IDelayedCall]

    def rejected(self, reason: str) -> None: ...


@implementer(IProtocolFactory)
class ProxiedFactory:
    """Stands before a listening port's factory, and builds that one's protocols: at once, or behind a header."""

    noisy = False

    def __init__(self, factory: Any, rules: ProxyRules) -> None:
        self.factory = factory
        self.rules = rules
        self.waiting: set[HeaderReader] = set()

    def doStart(self) -> None:
        self.factory.doStart()

    def doStop(self) -> None:
        """The port is closed: a connection that has not even said whose it is has asked for nothing."""
        for reader in tuple(self.waiting):
            with _goes_on:
                reader.read_what_is_there()
            if reader in self.waiting:
                reader.close()
        self.factory.doStop()

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:
        proxies = self.rules.proxies
        if proxies and proxies.trusts(getattr(addr, "host", None) or UNIX):
            if len(self.waiting) >= self.rules.config.max_connections:
                self.rules.rejected("connections")
                return None
            return HeaderReader(self, addr)
        built: IProtocol | None = self.factory.buildProtocol(addr)
        return built


class HeaderReader(Protocol):
    """Waits for one connection's first bytes, and hands it to the protocol of the factory behind."""

    def __init__(self, server: ProxiedFactory, address: IAddress) -> None:
        self._server = server
        self._address = address
        self._data = b""
        self._timeout: IDelayedCall | None = None

    def connectionMade(self) -> None:
        rules = self._server.rules
        self._server.waiting.add(self)
        self._timeout = rules.later(rules.config.header_timeout_seconds, self._late)

    def dataReceived(self, data: bytes) -> None:
        if self not in self._server.waiting:
            return
        self._data += data
        try:
            header = read_header(self._data, self._server.rules.config.max_header_bytes)
        except Malformed:
            self._refuse()
            return
        if header is not None:
            self._hand_over(_named(header.address) or self._address, self._data[header.length :])

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self._forget()

    def read_what_is_there(self) -> None:
        """Reads from a socket before the reactor does: it may have been accepted in this turn, its request with it."""
        transport: Any = self.transport
        if isinstance(transport, tcp.Connection) and transport.connected:
            transport.doRead()  # an end that it meets the reactor finds as well

    def close(self) -> None:
        self._forget()
        transport: Any = self.transport
        transport.abortConnection()

    def _late(self) -> None:
        self._timeout = None
        if self._data:
            self._refuse()
        else:
            self.close()  # opened ahead of need, and not used

    def _refuse(self) -> None:
        self._server.rules.rejected("proxy_header")
        self.close()

    def _hand_over(self, address: IAddress, rest: bytes) -> None:
        self._forget()
        transport: Any = self.transport
        protocol = self._server.factory.buildProtocol(address)
        if protocol is None:
            transport.abortConnection()
            return
        # from now on nothing of this is on the connection's way
        transport.protocol = protocol
        protocol.makeConnection(transport)
        if rest:
            protocol.dataReceived(rest)

    def _forget(self) -> None:
        self._server.waiting.discard(self)
        timeout, self._timeout = self._timeout, None
        if timeout is not None:
            timeout.cancel()


def _named(address: str) -> IAddress | None:
    if address == UNIX:
        return NAMED_UNIX
    if address:
        kind = IPv6Address if ":" in address else IPv4Address
        return kind("TCP", address, 0)
    return None


NAMED_UNIX = UNIXAddress(None)
"""A proxy's word that its client came by a UNIX socket: such a client is no proxy of ours."""
