"""Open streams and the permission that each lives on: what ends one whose permission is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from kateway.core.entrance import Entrance, Visit
from kateway.errors import KatewayError

MAX_TIMER_SECONDS = 86400.0

End = Callable[[KatewayError], None]


class Permits:
    """Holds every open stream's visit, and looks at them again when the registry has changed (``recheck``) or the
    credentials of one expire. ``now`` is seconds since the epoch.
    """

    def __init__(self, entrance: Entrance, clock: Any, now: Callable[[], float]) -> None:
        self._entrance = entrance
        self.clock = clock
        self._now = now
        self._held: dict[object, tuple[Visit, End]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, visit: Visit, end: End) -> Callable[[], None]:
        """Calls ``end`` with the reason when the visit is allowed no more, at most once. The callable returned says
        that the stream has ended by itself.
        """
        token = object()
        timer: IDelayedCall | None = None

        def expired() -> None:
            nonlocal timer
            timer = None
            self._check(token)
            watch_expiry()

        def watch_expiry() -> None:
            nonlocal timer
            expires = visit.principal.expires
            if expires is not None and token in self._held:
                timer = self.clock.callLater(min(max(expires - self._now(), 0.0) + 0.01, MAX_TIMER_SECONDS), expired)

        def release() -> None:
            self._held.pop(token, None)
            if timer is not None and timer.active():
                timer.cancel()

        self._held[token] = (visit, end)
        watch_expiry()
        return release

    def recheck(self) -> None:
        """Ends every stream whose permission is gone."""
        for token in list(self._held):
            self._check(token)

    def _check(self, token: object) -> None:
        held = self._held.get(token)
        if held is None:
            return
        visit, end = held
        error = self._entrance.revoked(visit)
        if error is not None:
            self._held.pop(token, None)
            end(error)
