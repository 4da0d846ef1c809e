"""Two ends of a link in memory: what one sends arrives at the other when the test, or the clock, says so."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.task import Clock

from kateway.cluster.frames import Frame, Kind
from kateway.cluster.session import Session
from kateway.errors import KatewayError


class Pipe:
    """``near`` dialed ``far``; each answers with what it is given."""

    def __init__(self, clock: Clock, far: Any, near: Any = None) -> None:
        self._clock = clock
        self._frames: deque[tuple[str, Frame]] = deque()
        self._scheduled = False
        self.count = 0
        self.near = Session(self._sender("far"), near, dialed=True, max_begun=100, max_payload=1 << 20)
        self.far = Session(self._sender("near"), far, dialed=False, max_begun=100, max_payload=1 << 20)

    def _sender(self, to: str) -> Any:
        def send(kind: Kind, number: int, payload: bytes) -> None:
            self.count += 1
            self._frames.append((to, Frame(kind, number, payload)))
            if not self._scheduled:
                self._scheduled = True
                self._clock.callLater(0, self.pump)

        return send

    def pump(self) -> None:
        """Delivers what is on its way, and what that brings about."""
        self._scheduled = False
        while self._frames:
            to, frame = self._frames.popleft()
            (self.far if to == "far" else self.near).receive(frame)

    def lose(self, error: KatewayError) -> None:
        self._frames.clear()
        self.near.lose(error)
        self.far.lose(error)
