"""Holds partitions that are about to go for a moment, so that records on their way to clients can be committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from kateway.core.delivery.ledger import Ledger
from kateway.core.groups.commits import Send, committable, send
from kateway.core.groups.dispatch import OwnedPartition

HAND_OVER_SECONDS = 1.0
"""So long at most."""

_log = Logger()


class Revocations:
    """Revocations under way. ``through`` sends commits; ``gone`` is called with each partition that is given up."""

    def __init__(self, through: Send, gone: Callable[[OwnedPartition], None]) -> None:
        self._through = through
        self._gone = gone
        self._under_way: list[tuple[list[OwnedPartition], float, Deferred[None]]] = []

    def __bool__(self) -> bool:
        return bool(self._under_way)

    def find(self, partition: int) -> Ledger | None:
        """Returns the ledger of a partition that is about to go."""
        for owned_partitions, _until, _done in self._under_way:
            for owned in owned_partitions:
                if owned.partition == partition:
                    return owned.delivery
        return None

    def begin(self, owned_partitions: list[OwnedPartition], now: float) -> Deferred[None] | None:
        """Begins to give partitions up: the result fires when they may go, ``None`` at once."""
        if not any(owned.delivery.in_flight for owned in owned_partitions):
            return self._end(owned_partitions)
        done: Deferred[None] = Deferred()
        self._under_way.append((owned_partitions, now + HAND_OVER_SECONDS, done))
        return done

    def lose(self, partitions: Iterable[int]) -> None:
        """They are gone already: nothing of them can be committed."""
        lost = set(partitions)
        for owned_partitions, _until, _done in self._under_way:
            for owned in owned_partitions:
                if owned.partition in lost:
                    owned.delivery.live = False

    def look(self, now: float) -> None:
        """Ends those that have nothing in flight any more, or whose time is over."""
        under_way, self._under_way = self._under_way, []
        for owned_partitions, until, done in under_way:
            if now < until and any(owned.delivery.live and owned.delivery.in_flight for owned in owned_partitions):
                self._under_way.append((owned_partitions, until, done))
                continue
            sent = self._end(owned_partitions)
            if sent is None:
                done.callback(None)
            else:
                sent.chainDeferred(done)

    def _end(self, owned_partitions: list[OwnedPartition]) -> Deferred[None] | None:
        found = committable((owned.delivery for owned in owned_partitions if owned.delivery.live), last=True)
        sent = send(found, self._through).addErrback(_refused) if found else None
        for owned in owned_partitions:
            self._gone(owned)
        return sent


def _refused(failure: object) -> None:
    # what it would have committed is retained: it is committed when the partition is back
    _log.warn("the last commit before a partition went was refused: {e}", e=getattr(failure, "value", failure))
