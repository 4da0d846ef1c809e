"""Keeps all links of this gateway: one that it dials to each other gateway that it needs, and those that come in."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint as NamedEndpoint
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError
from twisted.internet.error import ConnectionRefusedError as Refusal
from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from kateway.cluster.handshake import Acceptor, Dialer, Elsewhere
from kateway.cluster.interface import UNIX, Answering, Home, Linked, place_of, same_place
from kateway.cluster.link import Link
from kateway.cluster.rare_log import RareLog
from kateway.cluster.relay import Relay, Siblings, index_in
from kateway.config.addresses import parse_address
from kateway.config.schema import ClusterConfig
from kateway.errors import GatewayGone, GatewayUnavailable, KatewayError
from kateway.shield import shield

T = TypeVar("T")

MISLED_SECONDS = 20.0
"""A gateway that has ended is a member of its groups for no longer than its session (10 s)."""


class Links:
    """Dials and accepts. ``tls`` makes the options of a connection to a host, where gateways speak TLS."""

    def __init__(
        self,
        reactor: Any,
        config: ClusterConfig,
        secret: bytes,
        name: str,
        answering: Answering,
        tls: Callable[[str], Any] | None = None,
        *,
        certified: bool = False,
        siblings: Siblings | None = None,
    ) -> None:
        """``certified``: other gateways have to show a certificate. ``siblings``: the processes behind this address."""
        self._siblings = siblings
        self.address = ""
        """Of this gateway's endpoint, whichever process takes a connection to it."""
        self._reactor = reactor
        self._config = config
        self._secret = secret
        self._name = name
        self._answering = answering
        self._tls = tls
        self._bytes = [0, 0]
        """Received and sent on links that are over."""
        self.addresses: frozenset[str] = frozenset()
        """Under which this gateway is dialed; none: any."""
        self._known: dict[Home, Link] = {}
        """Those that were dialed."""
        self._dialing: dict[Home, Deferred[Linked]] = {}
        """One attempt for all that ask for the link while it is under way."""
        self._connecting: set[Deferred[Any]] = set()
        self._links: dict[Link, str] = {}
        """With the address of those that were dialed."""
        self._handshakes: dict[Link, None] = {}
        """Those that came in and are not established, the oldest first."""
        self._misled: dict[Home, float] = {}
        """Gateways at whose address another one answers, and since when."""
        self._rare_log = RareLog(reactor.seconds)
        self._relayed: set[Link] = set()
        self._stopped = self._gives_way = False
        self.refused = 0
        """Connections that did not become links."""
        self.factory = _Factory(lambda: self._accept(certified))
        self.inner_factory = _Factory(lambda: self._accept(False))
        """Of the socket that only processes of this host reach: what other hosts say comes through one of them, which
        has seen the certificate.
        """

    def live(self) -> list[Link]:
        """The links that there are just now."""
        return [link for link in self._links if link.session is not None]

    def bytes_received(self) -> int:
        return self._bytes[0] + sum(link.bytes_received for link in self._links)

    def bytes_sent(self) -> int:
        return self._bytes[1] + sum(link.bytes_sent for link in self._links)

    def _forget(self, link: Link) -> None:
        if self._links.pop(link, None) is not None:
            self._bytes[0] += link.bytes_received
            self._bytes[1] += link.bytes_sent

    def link(self, home: Home) -> Deferred[Linked]:
        """The link to a gateway; it is dialed where there is none."""
        known = self._known.get(home)
        if known is not None:
            return succeed(known)
        dialing = self._dialing.get(home)
        if dialing is None:
            if self._stopped or len(self._known) + len(self._dialing) >= self._config.max_links:
                raise GatewayUnavailable("this gateway has no room for another link ([cluster] max_links)")
            try:
                dialed = self._dial(home)
            except ValueError as error:
                raise GatewayUnavailable(f"{home.address} is no address of a gateway: is advertise right?") from error
            dialing = dialed.addCallbacks(self._dialed, self._not_dialed, (home,), {}, (home,), {})
            self._dialing[home] = dialing
            dialing.addBoth(self._over, home)
        return shield(dialing)

    def _over(self, outcome: T, home: Home) -> T:
        del self._dialing[home]
        return outcome

    def _dial(self, home: Home) -> Deferred[Link]:
        address = home.address
        path = self._sibling_path(home)
        if path and address.startswith(UNIX):
            address = f"{UNIX}{path}"
        dialer = Dialer(self._secret, self._name, address)

        def gone(link: Link) -> None:
            self._forget(link)
            if self._known.get(home) is link:
                del self._known[home]

        link = Link(
            self._reactor, self._config, dialer, self._answering, gone, address=home.address, log=self._rare_log
        )
        endpoint = self._unix_endpoint(path) if path else self._endpoint(address)
        connecting = endpoint.connect(_One(link))
        self._connecting.add(connecting)
        connecting.addTimeout(self._config.silence_seconds, self._reactor)

        def over(result: object) -> object:
            self._connecting.discard(connecting)
            return result

        def connected(_: object) -> Deferred[Link]:
            self._links[link] = home.address
            return link.established

        def check(found: Link) -> Link:
            # a member that was passed on in an upgrade is known by the name of the process that joined
            if home.gateway and not same_place(found.peer, home.gateway):
                found.close()
                raise self._another(home, found.peer)
            self._misled.pop(home, None)
            return found

        return connecting.addBoth(over).addCallback(connected).addCallback(check)

    def _another(self, home: Home, found: str) -> GatewayUnavailable:
        """Another gateway has the port of one that has ended; or two of them say that they are at one address."""
        now = self._reactor.seconds()
        if len(self._misled) >= self._config.max_links:
            self._misled.clear()
        if now - self._misled.setdefault(home, now) < MISLED_SECONDS:
            return GatewayGone(f"the gateway {home.gateway} has ended; {found} is at its address now")
        why = f"the gateway {home.gateway} says that it is at {home.address}, where {found} is: is advertise right?"
        self._rare_log.warn(why)
        return GatewayUnavailable(why)

    def _dialed(self, link: Link, home: Home) -> Linked:
        self._known[home] = link
        return link

    def _not_dialed(self, failure: Failure, home: Home) -> Linked:
        if failure.check(KatewayError):
            failure.raiseException()
        error = failure.value
        if isinstance(error, (Refusal, FileNotFoundError)) or (
            isinstance(error, ConnectError) and error.osError == errno.ENOENT  # a UNIX socket whose file is gone
        ):
            raise GatewayGone(f"no gateway listens at {home.address} any more")
        raise GatewayUnavailable(f"the gateway at {home.address} cannot be reached; try again")

    def _endpoint(self, address: str) -> IStreamClientEndpoint:
        if address.startswith(UNIX):
            return self._unix_endpoint(address[len(UNIX) :])
        sibling = self._sibling(address)
        if sibling is not None and self._siblings is not None:
            return self._unix_endpoint(str(self._siblings.socket_path(sibling)))
        host, port = parse_address(address.partition("/")[0])
        endpoint: IStreamClientEndpoint
        if ":" in host:
            endpoint = TCP6ClientEndpoint(self._reactor, host, port)
        elif host.replace(".", "").isdigit():
            endpoint = TCP4ClientEndpoint(self._reactor, host, port)
        else:
            endpoint = NamedEndpoint(self._reactor, host.encode("idna"), port)
        return endpoint if self._tls is None else wrapClientTLS(self._tls(host), endpoint)

    def _unix_endpoint(self, path: str) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = UNIXClientEndpoint(self._reactor, path, timeout=self._config.silence_seconds)
        return endpoint

    def _sibling_path(self, home: Home) -> str:
        """Where a process of this gateway listens, or the one that came after it; empty: another gateway's.
        ``GatewayGone``: this one came after it.
        """
        place, own = place_of(home.gateway), place_of(self._name)
        if self._siblings is None or place is None or own is None or place.gateway != own.gateway:
            return ""
        path = self._siblings.path_of(place.number, place.pid)
        if path == self._siblings.socket_path(own.number):
            raise GatewayGone(f"the process {home.gateway} has ended")
        return str(path)

    def _accept(self, certified: bool) -> Link | None:
        if self._stopped or self._gives_way:
            return None
        if len(self._handshakes) >= self._config.max_handshakes:
            # a gateway needs milliseconds: the oldest is most likely none
            self._rare_log.warn(
                f"{self._config.max_handshakes} connections to the [cluster] endpoint prove nothing: the oldest are cut"
            )
            next(iter(self._handshakes)).close()

        def gone(link: Link) -> None:
            if self._handshakes.pop(link, link) is None:
                self.refused += 1
            self._forget(link)

        def established(link: Link) -> None:
            self._handshakes.pop(link, None)
            if len(self._links) >= 2 * self._config.max_links:
                link.close()
            else:
                self._links[link] = ""

        acceptor = Acceptor(self._secret, self._name, self.addresses, sibling=self._sibling)
        link = Link(
            self._reactor,
            self._config,
            acceptor,
            self._answering,
            gone,
            certified=certified,
            pass_through=self._pass_through,
            log=self._rare_log,
        )
        self._handshakes[link] = None
        link.established.addCallbacks(established, lambda _refused: None)
        return link

    def _sibling(self, address: str) -> int | None:
        """Which other process of this host an address is of."""
        if self._siblings is None:
            return None
        index = index_in(address, self.address)
        return None if index == self._siblings.index else index

    def _pass_through(self, link: Link, elsewhere: Elsewhere) -> None:
        """Lets another gateway talk to the process that it looks for."""
        assert self._siblings is not None
        self._handshakes.pop(link, None)
        self._relayed.add(link)
        relay = Relay(link.transport, elsewhere.said, lambda: self._relayed.discard(link))
        path = str(self._siblings.socket_path(elsewhere.index))
        connecting = UNIXClientEndpoint(self._reactor, path, timeout=self._config.silence_seconds).connect(_One(relay))

        def connected(_: object) -> None:
            link.relay = relay
            if link.over:
                relay.end()

        def failed(_: object) -> None:
            self._relayed.discard(link)
            link.close()

        connecting.addCallbacks(connected, failed)

    def give_way(self) -> None:
        """Ends the links that came in, and takes no more: what they are for is found at this process's successor."""
        self._gives_way = True
        for link in [*(each for each, dialed in self._links.items() if not dialed), *self._handshakes]:
            link.close()

    def stop(self) -> None:
        """Ends all links, and makes none any more."""
        self._stopped = True
        for link in [*self._links, *self._handshakes, *self._relayed]:
            link.close()
        for connecting in list(self._connecting):
            connecting.cancel()


class _Factory(Factory):
    noisy = False

    def __init__(self, accept: Callable[[], Link | None]) -> None:
        self._accept = accept

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        return self._accept()


class _One(Factory):
    noisy = False

    def __init__(self, link: Protocol) -> None:
        self._link = link

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self._link
