"""What all HTTP connections share: limits on their number, one coarse sweep for every timeout, draining."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.web.server import Site

from kateway.config.schema import HttpConfig
from kateway.errors import KatewayError, Overloaded, TooManyRequests
from kateway.observe.http import HttpCells
from kateway.web.access_log import AccessLog
from kateway.web.http1.channel import HttpChannel, Router
from kateway.web.http1.head_cache import Heads
from kateway.web.http1.server_state import ServerState
from kateway.web.tcp.proxied import NAMED_UNIX
from kateway.web.tcp.proxy_header import UNIX
from kateway.web.troubles import Troubles

_log = Logger()

# so many connections beyond the limit are told why before they are closed; further ones are just closed
_MOST_TURNED_AWAY = 100
_STALL_LOOKS = 8
LEAD_AWAY_SECONDS = 2.0
"""For how long a process that passes its connections on keeps those that it cannot: the answer to their next request
says that it is the last, and a publish never meets a connection that was just then closed."""
_PASS_ON_SECONDS = 0.02


class HttpFactory(Factory):
    """Builds channels. ``router`` names the direct handler of a request; those it has none for go to ``site``.

    One factory serves one listener or several; nothing is running while no client is connected.
    """

    noisy = False

    def __init__(
        self,
        router: Router,
        site: Site,
        config: HttpConfig,
        clock: Any,
        *,
        access: AccessLog | None = None,
        wall: Callable[[], float] = time.time,
        cells: HttpCells | None = None,
        troubles: Troubles | None = None,
    ) -> None:
        self.router = router
        self.site = site
        self.heads = Heads()
        self.state = ServerState(config, clock, access, wall, cells, troubles)
        self._stall_look = 0.0
        self._clock = clock
        self._channels: set[HttpChannel] = set()
        self._by_address: dict[str, int] = {}
        self._sweeping: IDelayedCall | None = None
        self._passing: IDelayedCall | None = None
        self._waiting: list[Deferred[None]] = []
        self.configure(config)

    def configure(self, config: HttpConfig) -> None:
        """Takes other limits into force, on open connections too; a request that has begun keeps those of its
        beginning.
        """
        self.state.configure(config)
        self.heads.clear()
        self._each(self._channels, HttpChannel.configured)
        self._stall_interval = max(config.write_stall_timeout_seconds / _STALL_LOOKS, self.state.interval)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._channels)

    def requests_in_flight(self) -> Iterator[str]:
        """Gives the operation of each request that is being answered."""
        for channel in tuple(self._channels):
            exchange = channel.connection.exchange
            if exchange is not None and (exchange.fresh or exchange.streaming):
                yield exchange.operation

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of request bodies that are arriving or being answered."""
        return self.state.held_bytes

    def buildProtocol(self, addr: IAddress) -> HttpChannel | None:  # type: ignore[override]
        peer = getattr(addr, "host", None) or UNIX
        proxies = self.state.proxies
        # of its clients, not of the proxy itself, are the connections that one address may have
        is_proxy = bool(proxies) and addr is not NAMED_UNIX and proxies.trusts(peer)
        turned_away: KatewayError | None = None
        config = self.state.config
        if len(self._channels) >= config.max_connections:
            self.state.rejected("connections")
            if len(self._channels) >= config.max_connections + _MOST_TURNED_AWAY:
                return None
            turned_away = Overloaded("Too many connections are open (http.max_connections).")
        elif not is_proxy and self._by_address.get(peer, 0) >= config.max_connections_per_address:
            self.state.rejected("address_connections")
            if self._by_address[peer] >= config.max_connections_per_address + _MOST_TURNED_AWAY:
                return None
            turned_away = TooManyRequests(
                "Too many connections are open from this address (http.max_connections_per_address)."
            )
        return HttpChannel(self, peer, turned_away, proxies if is_proxy else None)

    # --- the channels' side -----------------------------------------------------------------------------------------

    def opened(self, channel: HttpChannel) -> None:
        if not self._channels:
            self.state.look_at_clock()
            self._sweeping = self._clock.callLater(self.state.interval, self._sweep)
        self._channels.add(channel)
        self._by_address[channel.address] = self._by_address.get(channel.address, 0) + 1

    def closed(self, channel: HttpChannel) -> None:
        if channel not in self._channels:
            return
        self._channels.remove(channel)
        left = self._by_address[channel.address] - 1
        if left:
            self._by_address[channel.address] = left
        else:
            del self._by_address[channel.address]
        if not self._channels:
            if self._sweeping is not None:
                self._sweeping.cancel()
                self._sweeping = None
            if self._passing is not None:
                self._passing.cancel()
                self._passing = None
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                deferred.callback(None)

    # --- ending -----------------------------------------------------------------------------------------------------

    def lead_away(self) -> None:
        """From now on each connection is closed after its response, so that a proxy that keeps connections for requests
        to come has none left when the listener closes: it would send a request on one that is just then ended.
        """
        self.state.draining = True

    def drain(self, pass_on: Callable[[int], bool] | None = None) -> None:
        """From now on each connection is closed after its response; idle ones at once. With ``pass_on``, which takes
        their descriptors, they are passed on instead, where that can be done; those that cannot (TLS) end with the
        response to the next request, or after ``LEAD_AWAY_SECONDS``.
        """
        self.state.draining = True
        self.state.pass_on = pass_on
        self.state.lead_away_until = self.state.look_at_clock() + LEAD_AWAY_SECONDS
        self._each(self._channels, HttpChannel.close_if_idle)
        if pass_on is not None:
            self._pass_on_again()

    def _pass_on_again(self) -> None:
        """Tries connections whose last response the client had not confirmed, or for which there was no room."""
        self._passing = None
        self._each(self._channels, HttpChannel.close_if_idle)
        if self._channels:
            self._passing = self._clock.callLater(_PASS_ON_SECONDS, self._pass_on_again)

    def empty(self) -> Deferred[None]:
        """Fires when no connection is left. A cancel only forgets the waiting."""
        deferred: Deferred[None] = Deferred(self._forget)
        if self._channels:
            self._waiting.append(deferred)
        else:
            deferred.callback(None)
        return deferred

    def cut_all(self) -> None:
        """Resets the remaining connections."""
        self._each(self._channels, lambda channel: channel.connection.cut())

    def _forget(self, deferred: Deferred[None]) -> None:
        if deferred in self._waiting:
            self._waiting.remove(deferred)

    def _sweep(self) -> None:
        self._sweeping = self._clock.callLater(self.state.interval, self._sweep)
        now = self.state.look_at_clock()
        self._each([each for each in self._channels if each.connection.deadline <= now], HttpChannel.expired)
        if now - self._stall_look >= self._stall_interval:
            self._stall_look = now
            self._each(self._channels, lambda channel: channel.connection.cut_if_stuck(now))

    @staticmethod
    def _each(channels: Iterable[HttpChannel], do: Callable[[HttpChannel], None]) -> None:
        """A failure on one connection does not keep the call from the others."""
        for channel in tuple(channels):
            try:
                do(channel)
            except Exception:
                _log.failure("a connection failed; it is reset")
                channel.connection.cut()
