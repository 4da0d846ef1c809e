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
from kateway.web.access_log import AccessLog

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class ServerState:
    """``clock`` is the reactor's; ``wall`` gives seconds since the epoch, for ``Date``."""

    __slots__ = (
        "_wall", "access", "config", "draining", "held_bytes", "interval", "later", "seconds", "starts", "tick",
    )  # fmt: skip

    def __init__(self, config: HttpConfig, clock: Any, access: AccessLog | None, wall: Callable[[], float]) -> None:
        self.config = config
        self.access = access
        self.seconds: Callable[[], float] = clock.seconds
        self.later: Callable[..., IDelayedCall] = clock.callLater
        self.tick: float = self.seconds()
        """The clock as of the last sweep: exact enough for a deadline, and free."""
        self.interval = 0.5
        """Seconds between two sweeps."""
        self.draining = False
        """Each connection ends with the response that is given next."""
        self.held_bytes = 0
        """Bytes of request bodies that are arriving or being answered."""
        self.starts: dict[int, bytes] = {}
        """Response heads up to the value of ``X-Request-Id``, by status; good until the next sweep."""
        self._wall = wall

    def configure(self, config: HttpConfig) -> None:
        """Takes other limits into force."""
        self.config = config
        timeouts = (config.header_timeout_seconds, config.body_idle_timeout_seconds, config.keepalive_idle_seconds)
        self.interval = min(0.5, min(timeouts) / 2)

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
