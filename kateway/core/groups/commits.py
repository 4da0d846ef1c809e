"""When a group commits: what is settled within an interval, at once where somebody has just gone, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.core.delivery.ledger import Delivery
from kateway.errors import Conflict, Unavailable
from kateway.model import Committed

_log = Logger()

Collect = Callable[[], list[tuple[Delivery, Committed]]]
Send = Callable[[Mapping[int, Committed]], Deferred[None]]


def committable(deliveries: Iterable[Delivery], *, last: bool = False) -> list[tuple[Delivery, Committed]]:
    """Those that have something to commit, and what. ``last``: also where a group has only begun, if there are leases,
    so that is seen whether others have moved it when the partition comes back.
    """
    found = [
        (delivery, delivery.place() if last and delivery.begun else delivery.to_commit()) for delivery in deliveries
    ]
    return [(delivery, committed) for delivery, committed in found if committed is not None]


class Commits:
    """Sends what ``collect`` finds through ``send``. What fails stays to be collected and is tried again."""

    def __init__(self, clock: IReactorTime, interval_seconds: float, collect: Collect, send: Send) -> None:
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._collect = collect
        self._send = send
        self._call: IDelayedCall | None = None
        self._under_way = False
        self._again: float | None = None
        self._waiting: list[Deferred[None]] = []
        self._stopped = False

    def due(self) -> None:
        """Something can be committed: within the interval it is."""
        self._in(self._interval_seconds)

    def soon(self) -> None:
        """Something can be committed that somebody looks at: in the reactor's next turn."""
        self._in(0)

    def done(self) -> Deferred[None]:
        """Fires when everything settled until now is committed; fails with what the store said."""
        if not self._collect() and not self._under_way:
            return succeed(None)
        done: Deferred[None] = Deferred(self._forget)
        self._waiting.append(done)
        self._in(0)
        return done

    def stop(self) -> None:
        """Commits no more by itself."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done.errback(Unavailable("the group was left before the acknowledgements were committed"))

    def _forget(self, done: Deferred[None]) -> None:
        if done in self._waiting:
            self._waiting.remove(done)

    def _in(self, seconds: float) -> None:
        if self._stopped:
            return
        if self._under_way:
            self._again = seconds if self._again is None else min(self._again, seconds)
        elif self._call is None:
            self._call = self._clock.callLater(seconds, self._commit)
        elif self._call.getTime() > self._clock.seconds() + seconds:
            self._call.reset(seconds)

    def _commit(self) -> None:
        self._call = None
        found = self._collect()
        waiting, self._waiting = self._waiting, []
        if not found:
            for done in waiting:
                done.callback(None)
            return
        self._under_way = True
        sent = self._send({delivery.partition: committed for delivery, committed in found})
        sent.addCallbacks(self._committed, self._failed, callbackArgs=(found, waiting), errbackArgs=(waiting,))
        sent.addErrback(lambda failure: _log.failure("a commit's end went wrong", failure))

    def _committed(self, _none: None, found: list[tuple[Delivery, Committed]], waiting: list[Deferred[None]]) -> None:
        for delivery, committed in found:
            delivery.committed = committed
        self._next()
        for done in waiting:
            done.callback(None)

    def _failed(self, failure: Failure, waiting: list[Deferred[None]]) -> None:
        _log.warn("a commit failed, it is tried again: {error}", error=failure.getErrorMessage())
        if self._again is None:
            self._again = self._interval_seconds
        self._again = max(self._again, self._interval_seconds)
        if failure.check(Conflict):
            # a partition has just gone: the next commit is without it, and says how it went for the others
            self._waiting += waiting
            waiting = []
        self._next()
        for done in waiting:
            done.errback(failure)

    def _next(self) -> None:
        self._under_way = False
        again, self._again = self._again, None
        if again is not None:
            self._in(again)
