"""Holds partitions that are about to go for a moment, so that records on their way to clients can be committed.

The last commit carries the leases that are open (``delivery/moved_leases.py``): the next owner holds them on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.core.delivery.ledger import Ledger
from kateway.core.groups.commits import Found, Send, committable, send
from kateway.core.groups.dispatch import OwnedPartition
from kateway.errors import Conflict, Unavailable

HAND_OVER_SECONDS = 1.0
"""So long at most."""

_log = Logger()
_goes_on = _log.failureHandler("the last commit of a partition broke: what it would have said comes again")


class Revocations:
    """Revocations under way. ``through`` sends commits; ``gone`` is called with each partition that is given up, and
    ``not_moved`` with how many leases the next owner will not know of. ``wall`` gives seconds since the epoch.
    """

    def __init__(
        self,
        through: Send,
        gone: Callable[[OwnedPartition], None],
        not_moved: Callable[[int], None],
        wall: Callable[[], float],
    ) -> None:
        self._not_moved = not_moved
        self._wall = wall
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
        if not any(owned.delivery.undecided for owned in owned_partitions):
            return self._end(owned_partitions, now)
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
        """Ends those of which nothing more is to be heard, or whose time is over."""
        for each in list(self._under_way):
            owned_partitions, until, done = each
            if each not in self._under_way:
                continue  # a call from inside ended it
            if now < until and any(owned.delivery.live and owned.delivery.undecided for owned in owned_partitions):
                continue
            sent = self._end(owned_partitions, now)
            # only now, when they can be found among those that may come back
            self._under_way.remove(each)
            if sent is None:
                done.callback(None)
            else:
                sent.chainDeferred(done)

    def _end(self, owned_partitions: list[OwnedPartition], now: float) -> Deferred[None] | None:
        found: Found = []
        moved = 0
        for owned in owned_partitions:
            if owned.delivery.live:
                with _goes_on:
                    moved += self._find_last_place(owned.delivery, found, now)
        sent = send(found, self._through).addErrback(self._refused, found, moved) if found else None
        for owned in owned_partitions:
            self._gone(owned)
        return sent

    def _find_last_place(self, delivery: Ledger, found: Found, now: float) -> int:
        """Adds what the last commit says of a partition; returns how many leases move with it."""
        place, left_out = delivery.last_place(now, self._wall() * 1000)
        if left_out:
            _log.info(
                "partition {p}: {n} leases do not fit into the last commit: their records are delivered again",
                p=delivery.partition,
                n=left_out,
            )
            self._not_moved(left_out)
        if place is not None:
            found.append((delivery, place))
        return delivery.leases.handed_out() - left_out

    def _refused(self, failure: Failure, found: Found, moved: int) -> Deferred[None]:
        # what it would have committed is retained: it is committed when the partition is back
        _log.warn("the last commit before a partition went was refused: {e}", e=failure.value)
        if not moved:
            return succeed(None)
        self._not_moved(moved)
        settled = committable(delivery for delivery, _place in found)
        if not settled or failure.check(Conflict, Unavailable):
            return succeed(None)
        # Kafka bounds a commit's metadata, and a request's: leases that are too long cost nothing but themselves
        return send(settled, self._through).addErrback(
            lambda failure: _log.warn("nor was it taken without leases: {e}", e=failure.value)
        )
