"""Partitions that are about to go: held up for a moment, so that what is on its way to clients can be committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from kateway.core.delivery.ledger import Delivery
from kateway.core.groups.commits import Send, committable
from kateway.core.groups.dispatch import Share

HAND_OVER_SECONDS = 1.0
"""So long at most."""

_log = Logger()


class HandOvers:
    """Revocations under way. ``send`` commits; ``gone`` hears of each delivery that is handed over."""

    def __init__(self, send: Send, gone: Callable[[Delivery], None]) -> None:
        self._send = send
        self._gone = gone
        self._under_way: list[tuple[list[Share], float, Deferred[None]]] = []

    def __bool__(self) -> bool:
        return bool(self._under_way)

    def begin(self, shares: list[Share], now: float) -> Deferred[None] | None:
        """Hands shares over: what it answers fires when they may go, ``None`` at once."""
        if not any(share.delivery.flights for share in shares):
            return self._end(shares)
        done: Deferred[None] = Deferred()
        self._under_way.append((shares, now + HAND_OVER_SECONDS, done))
        return done

    def lose(self, partitions: Iterable[int]) -> None:
        """They are gone already: nothing of them is committed any more."""
        lost = set(partitions)
        for shares, _until, _done in self._under_way:
            for share in shares:
                if share.partition in lost:
                    share.delivery.live = False

    def look(self, now: float) -> None:
        """Ends those where nothing is on its way any more, or the time is over."""
        under_way, self._under_way = self._under_way, []
        for shares, until, done in under_way:
            if now < until and any(share.delivery.live and share.delivery.flights for share in shares):
                self._under_way.append((shares, until, done))
                continue
            sent = self._end(shares)
            if sent is None:
                done.callback(None)
            else:
                sent.chainDeferred(done)

    def _end(self, shares: list[Share]) -> Deferred[None] | None:
        sent = self._commit_last([share.delivery for share in shares if share.delivery.live])
        for share in shares:
            self._gone(share.delivery)
        return sent

    def _commit_last(self, deliveries: list[Delivery]) -> Deferred[None] | None:
        found = committable(deliveries, last=True)
        if not found:
            return None
        sent = self._send({delivery.partition: committed for delivery, committed in found})
        return sent.addErrback(lambda failure: _log.warn("last commit: {e}", e=failure.getErrorMessage()))
