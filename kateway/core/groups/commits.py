"""Commits settled offsets: within an interval, at once where a reader has just gone, one request at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.core.delivery import moved_leases
from kateway.core.delivery.ledger import Ledger
from kateway.errors import Conflict, KatewayError, Unavailable
from kateway.model import Committed
from kateway.storage.interface import MetadataRefused

WAIT_SECONDS = 30.0
"""How long ``done`` waits at most: a broker's death and the rebalance behind it."""

_log = Logger()

Found = list[tuple[Ledger, Committed]]
Collect = Callable[[], Found]
Send = Callable[[Mapping[int, Committed]], Deferred[None]]


def committable(deliveries: Iterable[Ledger]) -> Found:
    """Finds the ledgers that have something to commit, and its place."""
    found = [(delivery, delivery.to_commit()) for delivery in deliveries]
    return [(delivery, committed) for delivery, committed in found if committed is not None]


def send(found: Found, through: Send) -> Deferred[None]:
    """Sends a commit and notes in each ledger that it was sent, and then that it is in the store. What the store
    refuses because of its metadata is sent again without leases, then without ranges: records are delivered again,
    and the place up to which all is done is kept.
    """

    def committed(_none: None) -> None:
        for delivery, place in found:
            delivery.confirm(place)

    def refused(failure: Failure) -> Deferred[None]:
        error = failure.value
        if not isinstance(error, MetadataRefused):
            return fail(failure)
        shorter: Found = []
        for delivery, place in found:
            if delivery.partition not in error.partitions:
                delivery.confirm(place)
            elif place.metadata:
                shorter.append((delivery, _shorter(delivery, place)))
        if len(shorter) < len(error.partitions):
            # not for the sake of metadata
            return fail(failure)
        _log.warn(
            "{error}: committed without leases of records, or without what is done beyond the first one that is not",
            error=error.detail,
        )
        return send(shorter, through)

    for delivery, place in found:
        delivery.offer(place)
    places = {delivery.partition: place for delivery, place in found}
    return maybeDeferred(through, places).addCallbacks(committed, refused)


def _shorter(delivery: Ledger, place: Committed) -> Committed:
    leases = moved_leases.decode(place.offset, place.metadata).leases
    if leases and delivery.cells is not None:
        delivery.cells.group.leases_not_moved.value += len(leases)
    return place._replace(metadata=moved_leases.without_leases(place.metadata))


class _Waiter:
    """Waits until the state that some ledgers had is committed."""

    __slots__ = ("done", "pending")

    def __init__(self, done: Deferred[None], pending: set[Ledger]) -> None:
        self.done = done
        self.pending = pending


class Commits:
    """Sends the places that ``collect`` finds through ``through``. A commit that fails is made again, by whatever
    generation of the membership owns the partition then. ``rebalancing``: whether partitions may still come back.
    ``on_failure`` is called with each that fails.
    """

    def __init__(
        self,
        clock: IReactorTime,
        interval_seconds: float,
        collect: Collect,
        through: Send,
        rebalancing: Callable[[], bool],
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_failure = on_failure
        self._clock = clock
        self._interval_seconds = interval_seconds
        self._collect = collect
        self._through = through
        self._rebalancing = rebalancing
        self._call: IDelayedCall | None = None
        self._under_way = False
        self._again: float | None = None
        self._waiting: list[_Waiter] = []
        self._stopped = False

    def due(self) -> None:
        """Something can be committed: within the interval it is."""
        self._in(self._interval_seconds)

    def soon(self) -> None:
        """Something can be committed that a client will look at: in the reactor's next turn."""
        self._in(0)

    def done(self) -> Deferred[None]:
        """Fires when everything settled until now is committed. Fails with the store's error, and with ``Unavailable``
        where a partition goes to another member before, or after ``WAIT_SECONDS``.
        """
        pending = {delivery for delivery, _committed in self._collect()}
        if not pending:
            return succeed(None)
        waiter = _Waiter(Deferred(lambda _: self._forget(waiter)), pending)
        self._waiting.append(waiter)
        self._in(0)
        return waiter.done.addTimeout(WAIT_SECONDS, self._clock, _too_late)

    def stop(self) -> None:
        """Commits no more by itself."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._answer(self._waiting, Unavailable("the group was left before the acknowledgements were committed"))

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def _answer(self, waiters: Iterable[_Waiter], error: KatewayError | Failure | None = None) -> None:
        for waiter in list(waiters):
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                if error is None:
                    waiter.done.callback(None)
                else:
                    waiter.done.errback(error)

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
        try:
            found = self._collect()
        except Exception:
            # else nothing would be committed before something else is settled
            _log.failure("a look for what can be committed broke, the next one comes")
            self._in(self._interval_seconds)
            return
        self._look_at_waiters(found)
        if not found:
            if self._waiting:
                self._in(self._interval_seconds)
            return
        self._under_way = True
        waiting = list(self._waiting)
        sent = send(found, self._through)
        sent.addCallbacks(self._committed, self._failed, callbackArgs=(found, waiting), errbackArgs=(waiting,))
        sent.addErrback(lambda failure: _log.failure("a commit's end went wrong", failure))
        sent.addBoth(lambda _: self._next())

    def _look_at_waiters(self, found: Found) -> None:
        """A ledger that is ours and has nothing to commit is committed; one that is gone may come back."""
        uncommitted = {delivery for delivery, _committed in found}
        for waiter in list(self._waiting):
            waiter.pending = {d for d in waiter.pending if d in uncommitted or not d.live}
            if not waiter.pending:
                self._answer([waiter])
            elif not self._rebalancing() and not all(delivery.live for delivery in waiter.pending):
                self._answer(
                    [waiter], Unavailable("the partition went to another member before it was committed; repeat it")
                )

    def _committed(self, _none: None, found: Found, waiting: list[_Waiter]) -> None:
        committed = {delivery for delivery, _committed in found}
        for waiter in waiting:
            waiter.pending -= committed
        self._answer(waiter for waiter in waiting if not waiter.pending)
        if self._waiting:
            self._in(self._interval_seconds)

    def _failed(self, failure: Failure, waiting: list[_Waiter]) -> None:
        self._on_failure()
        _log.warn("a commit failed, it is tried again: {error}", error=failure.getErrorMessage())
        self._again = max(self._again or 0.0, self._interval_seconds)
        if not failure.check(Conflict):
            # a conflict means that a partition has just gone: the outcome is known when it is back, or another's
            self._answer(waiting, failure)

    def _next(self) -> None:
        self._under_way = False
        again, self._again = self._again, None
        if again is not None:
            self._in(again)


def _too_late(_failure: object, seconds: float) -> None:
    raise Unavailable(f"the acknowledgements could not be committed within {seconds:g} s; repeat them")
