"""Partitions that are about to go: held up for a moment, so that what is on its way to clients can be committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from kateway.core.delivery.ledger import Delivery
from kateway.core.groups.commits import Send, committable
from kateway.core.groups.dispatch import OwnedPartition

HAND_OVER_SECONDS = 1.0
"""So long at most."""

_log = Logger()


class HandOvers:
    """Revocations under way. ``send`` commits; ``gone`` hears of each delivery that is handed over."""

    def __init__(self, send: Send, gone: Callable[[Delivery], None]) -> None:
        self._send = send
        self._gone = gone
        self._under_way: list[tuple[list[OwnedPartition], float, Deferred[None]]] = []

    def __bool__(self) -> bool:
        return bool(self._under_way)

    def begin(self, owned_partitions: list[OwnedPartition], now: float) -> Deferred[None] | None:
        """Hands shares over: what it answers fires when they may go, ``None`` at once."""
        if not any(owned.delivery.flights for owned in owned_partitions):
            return self._end(owned_partitions)
        done: Deferred[None] = Deferred()
        self._under_way.append((owned_partitions, now + HAND_OVER_SECONDS, done))
        return done

    def lose(self, partitions: Iterable[int]) -> None:
        """They are gone already: nothing of them is committed any more."""
        lost = set(partitions)
        for owned_partitions, _until, _done in self._under_way:
            for owned in owned_partitions:
                if owned.partition in lost:
                    owned.delivery.live = False

    def look(self, now: float) -> None:
        """Ends those where nothing is on its way any more, or the time is over."""
        under_way, self._under_way = self._under_way, []
        for owned_partitions, until, done in under_way:
            if now < until and any(owned.delivery.live and owned.delivery.flights for owned in owned_partitions):
                self._under_way.append((owned_partitions, until, done))
                continue
            sent = self._end(owned_partitions)
            if sent is None:
                done.callback(None)
            else:
                sent.chainDeferred(done)

    def _end(self, owned_partitions: list[OwnedPartition]) -> Deferred[None] | None:
        sent = self._commit_last([owned.delivery for owned in owned_partitions if owned.delivery.live])
        for owned in owned_partitions:
            self._gone(owned.delivery)
        return sent

    def _commit_last(self, deliveries: list[Delivery]) -> Deferred[None] | None:
        found = committable(deliveries, last=True)
        if not found:
            return None
        sent = self._send({delivery.partition: committed for delivery, committed in found})
        return sent.addErrback(lambda failure: _log.warn("last commit: {e}", e=failure.getErrorMessage()))
