"""Makes listening sockets that processes share, and listens on those that another process has made.

Each process has a SO_REUSEPORT socket of its own for a TCP endpoint, and the kernel spreads connections over them. The
supervisor keeps every one open: closing one would reset what is queued on it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from kateway.errors import ConfigError
from kateway.web.tcp.endpoints import Listening, parse_endpoint, shown
from kateway.web.tcp.listener import BACKLOG, use_our_transports
from kateway.web.tcp.proxied import ProxiedFactory, ProxyRules
from kateway.web.tcp.tls import Certificate, tls_endpoint


def listening_sockets(endpoint: str, count: int) -> list[socket.socket]:
    """Makes ``count`` sockets that listen on an endpoint; of a ``unix:`` one they are the same. ``ConfigError``."""
    listening = parse_endpoint(endpoint)
    made: list[socket.socket] = []
    try:
        if listening.kind == "unix":
            made.append(_unix(listening))
            made += [made[0].dup() for _ in range(count - 1)]
            return made
        family, address = _address(listening)
        if count > 1:
            _check_unused(family, address)
        for _ in range(count):
            one = socket.socket(family, socket.SOCK_STREAM)
            made.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if count > 1:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if listening.interface else 0)
            one.setblocking(False)
            one.bind(address)
            address = one.getsockname()
        for one in made:
            one.listen(int(listening.options.get("backlog", BACKLOG)))
    except OSError as error:
        for one in made:
            one.close()
        raise ConfigError([f"cannot listen on {shown(endpoint)}: {error}"]) from error
    return made


def listen_on(
    reactor: Any,
    descriptor: int,
    endpoint: str,
    factory: IProtocolFactory,
    certified: Callable[[Certificate], None],
    rules: ProxyRules | None = None,
) -> IListeningPort:
    """Listens on a socket that is there, as its endpoint asks for; the descriptor stays the caller's. With ``rules``
    trusted proxies may send a PROXY header.
    """
    listening = parse_endpoint(endpoint)
    if listening.kind == "ssl":
        _endpoint, certificate = tls_endpoint(reactor, endpoint)
        certified(certificate)
        factory = TLSMemoryBIOFactory(certificate, False, factory)
    with socket.socket(fileno=os.dup(descriptor)) as known:
        family = known.family
    if rules is not None:
        factory = ProxiedFactory(factory, rules)
    port: IListeningPort = reactor.adoptStreamPort(descriptor, family, factory)
    use_our_transports(port)
    return port


def _address(listening: Listening) -> tuple[socket.AddressFamily, Any]:
    interface = listening.interface
    if listening.kind == "tcp6" and not interface:
        interface = "::"
    found = socket.getaddrinfo(interface or "0.0.0.0", listening.port, type=socket.SOCK_STREAM)
    return found[0][0], found[0][4]


def _check_unused(family: socket.AddressFamily, address: Any) -> None:
    """Raises where another listens there: one with SO_REUSEPORT would take part of the clients."""
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)
        trial.listen(1)


def _unix(listening: Listening) -> socket.socket:
    path = listening.options.get("address", "")
    if os.path.exists(path):
        os.unlink(path)
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    one.setblocking(False)
    one.bind(path)
    os.chmod(path, int(listening.options.get("mode", "666"), 8))
    one.listen(BACKLOG)
    return one
