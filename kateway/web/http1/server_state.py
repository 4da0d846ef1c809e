"""Holds what all HTTP connections of a factory share: limits in force, the clock of the last sweep, draining, heads.

Connections and parsers read it for each request, so a reload that replaces ``config`` is in force at once.
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from kateway.config.schema import HttpConfig
from kateway.observe.http import HttpCells
from kateway.web.access_log import AccessLog
from kateway.web.tcp.proxies import TrustedProxies
from kateway.web.troubles import Troubles

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class ServerState:
    """``clock`` is the reactor's; ``wall`` gives seconds since the epoch, for ``Date``."""

    __slots__ = (
        "_wall", "access", "cells", "config", "draining", "held_bytes", "interval", "later", "lead_away_until",
        "pass_on", "proxies", "seconds", "starts", "tick", "troubles",
    )  # fmt: skip

    def __init__(
        self,
        config: HttpConfig,
        clock: Any,
        access: AccessLog | None,
        wall: Callable[[], float],
        cells: HttpCells | None = None,
        troubles: Troubles | None = None,
    ) -> None:
        self.config = config
        self.proxies = TrustedProxies(config.proxies)
        """Whose word on the address of a client is believed."""
        self.access = access
        self.cells = cells
        """``None`` where nothing is counted."""
        self.troubles = troubles
        """Where refused and slow requests are noted; ``None``: nowhere."""
        self.seconds: Callable[[], float] = clock.seconds
        self.later: Callable[..., IDelayedCall] = clock.callLater
        self.tick: float = self.seconds()
        """The clock as of the last sweep: exact enough for a deadline, and free."""
        self.interval = 0.5
        """Seconds between two sweeps."""
        self.draining = False
        """Each connection ends with the response that is given next."""
        self.pass_on: Callable[[int], bool] | None = None
        """While draining: gives a connection's descriptor to the process that goes on with it, at the boundary of a
        request. ``False``: not now.
        """
        self.lead_away_until = 0.0
        """With ``pass_on``: for how long a connection that cannot be passed on is kept for one request more."""
        self.held_bytes = 0
        """Bytes of request bodies that are arriving or being answered."""
        self.starts: dict[int, bytes] = {}
        """Response heads up to the value of ``X-Request-Id``, by status; good until the next sweep."""
        self._wall = wall

    def configure(self, config: HttpConfig) -> None:
        """Takes other limits into force."""
        if config.proxies != self.config.proxies:
            self.proxies = TrustedProxies(config.proxies)
        self.config = config
        timeouts = (config.header_timeout_seconds, config.body_idle_timeout_seconds, config.keepalive_idle_seconds)
        self.interval = min(0.5, min(timeouts) / 2)

    def rejected(self, reason: str) -> None:
        """Counts what is refused before it was looked at."""
        if self.cells is not None:
            self.cells.rejected(reason)

    def look_at_clock(self) -> float:
        """Takes the time, for deadlines and for ``Date``."""
        self.starts.clear()
        self.tick = self.seconds()
        return self.tick

    def head_start(self, status: int) -> bytes:
        """A response head up to the value of ``X-Request-Id``; kept in ``starts``."""
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d Unknown\r\n" % status
        date = formatdate(self._wall(), usegmt=True).encode("ascii")
        start = self.starts[status] = b"%bDate: %b\r\nX-Request-Id: " % (line, date)
        return start
