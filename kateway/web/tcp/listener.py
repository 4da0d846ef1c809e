"""Listens on Twisted endpoint strings with the transports of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from kateway.errors import ConfigError
from kateway.web.tcp.endpoints import parse_endpoint, shown
from kateway.web.tcp.proxied import ProxiedFactory, ProxyRules
from kateway.web.tcp.tls import Certificate, tls_endpoint
from kateway.web.tcp.tls_transport import CountingTls
from kateway.web.tcp.transport import PromptServer, PromptUnixServer

BACKLOG = 4096


def use_our_transports(port: IListeningPort) -> None:
    """Makes a listening port build the transports of this package."""
    if isinstance(port, unix.Port):
        port.transport = PromptUnixServer
    elif isinstance(port, tcp.Port):
        port.transport = PromptServer  # type: ignore[assignment]
    if isinstance(port, tcp.Port | unix.Port) and port.backlog == tcp.Port.backlog and port.socket is not None:
        # Twisted's default queue of 50 drops the SYNs of a burst; Linux takes a second listen as a new length
        port.socket.listen(BACKLOG)
    factory = getattr(port, "factory", None)
    if isinstance(factory, TLSMemoryBIOFactory):
        factory.protocol = CountingTls


def listen(
    reactor: Any,
    endpoint_string: str,
    factory: IProtocolFactory,
    certified: Callable[[Certificate], None] | None = None,
    rules: ProxyRules | None = None,
) -> Deferred[IListeningPort]:
    """Listens on a Twisted endpoint string (``tcp:``, ``ssl:``, ``unix:``). ``certified`` is told the certificate of
    an ``ssl:`` one, which can be read anew while it is in use. With ``rules`` trusted proxies may send a PROXY header.

    Fails with ``ConfigError``, in one line that names the endpoint, if it cannot be understood or is taken.
    """

    def listening(port: IListeningPort) -> IListeningPort:
        use_our_transports(port)
        if rules is not None:
            # outermost: the header comes before a TLS handshake
            port.factory = ProxiedFactory(port.factory, rules)  # type: ignore[attr-defined]
        return port

    def failed(failure: Failure) -> Failure:
        error = failure.value
        if isinstance(error, CancelledError):
            return failure
        if isinstance(error, CannotListenError):
            return Failure(ConfigError([f"cannot listen on {shown(endpoint_string)}: {error.socketError}"]))
        return Failure(ConfigError([f"cannot listen on {shown(endpoint_string)}: {error}"]))

    endpoint, certificate = build_endpoint(reactor, endpoint_string)
    if certificate is not None and certified is not None:
        certified(certificate)
    listened: Deferred[IListeningPort] = endpoint.listen(factory)
    return listened.addCallbacks(listening, failed)


async def stop_listening(port: IListeningPort) -> None:
    """Closes a listener, but for the connections that the kernel has made already: those it would reset."""
    if isinstance(port, tcp.Port | unix.Port) and port.connected:
        port.doRead()
        # Twisted closes in the reactor's next turn: once more right before that
        port.reactor.callLater(0, _accept_last, port)  # type: ignore[attr-defined]
    await maybeDeferred(port.stopListening)


def _accept_last(port: tcp.Port) -> None:
    port.disconnecting = False  # one that is being closed accepts nothing
    port.doRead()
    port.disconnecting = True


def build_endpoint(reactor: Any, endpoint_string: str) -> tuple[IStreamServerEndpoint, Certificate | None]:
    """An endpoint, with its certificate if it is an ``ssl:`` one; nothing listens yet. ``ConfigError``."""
    parse_endpoint(endpoint_string)
    try:
        if endpoint_string.startswith("ssl:"):
            return tls_endpoint(reactor, endpoint_string)
        return serverFromString(reactor, endpoint_string), None
    except ConfigError:
        raise
    except Exception as error:  # whatever its parser meets: a TypeError for an option that does not exist
        raise ConfigError([f"{shown(endpoint_string)} is not an endpoint: {error}"]) from error


def bound_address(port: IListeningPort) -> str:
    """Where a listener listens: ``host:port``, ``[v6]:port``, or a Unix socket's path."""
    host: Any = port.getHost()
    if not hasattr(host, "port"):
        return str(getattr(host, "name", host))
    return f"[{host.host}]:{host.port}" if ":" in host.host else f"{host.host}:{host.port}"
