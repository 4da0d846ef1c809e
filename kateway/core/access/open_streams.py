"""Ends open streams whose permission is gone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from kateway.core.access.control import AccessControl, AuthorizedRequest
from kateway.errors import KatewayError

MAX_TIMER_SECONDS = 86400.0
AGAIN_SECONDS = 10.0
"""After a review that broke."""

_log = Logger()
_goes_on = _log.failureHandler("an open stream could not be looked at; the others are")

End = Callable[[KatewayError], None]


class _Held:
    """An open stream."""

    __slots__ = ("authorized", "end", "timer", "until")

    def __init__(self, authorized: AuthorizedRequest, end: End) -> None:
        self.authorized = authorized
        self.end = end
        self.until: float | None = None
        self.timer: IDelayedCall | None = None


class OpenStreams:
    """Holds the authorised request of every open stream; reviews it when the registry or the configuration has changed
    (``recheck``) or the credentials of one expire. ``now`` is seconds since the epoch.
    """

    def __init__(self, control: AccessControl, clock: Any, now: Callable[[], float]) -> None:
        self._control = control
        self.clock = clock
        self._now = now
        self._held: dict[_Held, None] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, authorized: AuthorizedRequest, end: End) -> Callable[[], None]:
        """Calls ``end`` with the reason when the request is no longer permitted, at most once and never at once. The
        callable returned says that the stream has ended by itself.
        """
        held = _Held(authorized, end)
        self._held[held] = None
        until: float | None = 0.0  # where it is not permitted any more, it is called when it is ready for that
        with _goes_on, suppress(KatewayError):
            until = self._control.review(authorized)
        self._watch_expiry(held, until)
        return lambda: self._release(held)

    def _release(self, held: _Held) -> None:
        self._held.pop(held, None)
        self._watch_expiry(held, None)

    def _watch_expiry(self, held: _Held, until: float | None) -> None:
        held.until = until
        if held.timer is not None and held.timer.active():
            held.timer.cancel()
        held.timer = None
        if until is not None:
            seconds = min(max(until - self._now(), 0.0) + 0.01, MAX_TIMER_SECONDS)
            held.timer = self.clock.callLater(seconds, self._expired, held)

    def _expired(self, held: _Held) -> None:
        held.timer = None
        held.until = None
        with _goes_on:
            self._check(held)

    def recheck(self) -> None:
        """Ends every stream whose permission is gone."""
        for held in list(self._held):
            with _goes_on:
                self._check(held)

    def _check(self, held: _Held) -> None:
        if held not in self._held:
            return
        try:
            until = self._control.review(held.authorized)
        except KatewayError as error:
            self._release(held)
            held.end(error)
        except Exception:
            _log.failure("the permission of an open stream could not be reviewed; it is tried again")
            # its credentials may have expired: without a timer it would go on for as long as it likes
            self._watch_expiry(held, self._now() + AGAIN_SECONDS)
        else:
            if until != held.until:
                self._watch_expiry(held, until)
