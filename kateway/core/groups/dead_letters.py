"""Takes what is to go to the dead-letter queue out of the deliveries, and writes it there until it is there."""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.core.delivery.batch import Lease
from kateway.core.delivery.ledger import Delivery
from kateway.core.groups.dead_letter_records import DeadLetters
from kateway.errors import KatewayError, Unavailable

MAX_LETTERS = 100
"""Written at once."""
MAX_WAIT_SECONDS = 30.0

_log = Logger()
Letter = tuple[Delivery, Lease]


class DeadLetterWriter:
    """One write at a time; a record that could not be written is tried again, for as long as its partition is ours."""

    def __init__(self, dead_letters: DeadLetters, clock: IReactorTime, buried: Callable[[Delivery], None]) -> None:
        self._dead_letters = dead_letters
        self._clock = clock
        self._buried = buried
        self._queue: list[Letter] = []
        self._busy = False
        self._writing: Deferred[None] | None = None
        self._later: IDelayedCall | None = None
        self._failures = 0
        self._waiting: list[tuple[Deferred[None], frozenset[Lease]]] = []

    def take(self, delivery: Delivery) -> None:
        """Takes over what a delivery has for the dead-letter queue."""
        if delivery.dying:
            queued = {lease for _delivery, lease in self._queue}  # of a partition that went and is back
            self._queue += [(delivery, lease) for lease in delivery.dying if lease not in queued]
            delivery.dying.clear()
            self._write()

    def done(self, only: Collection[tuple[int, int]] | None = None) -> Deferred[None]:
        """Fires when everything taken until now is written, or ``only`` some, by partition and offset. Fails where an
        attempt does, with what the store said, though more follow; and where a partition is given away before.
        """
        awaited = frozenset(
            lease
            for delivery, lease in self._queue
            if only is None or (delivery.partition, lease.record.offset) in only
        )
        if not awaited:
            return succeed(None)
        done: Deferred[None] = Deferred(self._forget)
        self._waiting.append((done, awaited))
        return done

    def stop(self) -> None:
        """Writes no more; what was not written was not acknowledged either."""
        queue, self._queue = self._queue, []
        self._tell(
            [lease for _delivery, lease in queue],
            Unavailable("the group was left before its dead letters were written"),
        )
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._writing is not None:
            self._writing.cancel()

    def _write(self) -> None:
        if self._busy or self._later is not None:
            return
        gone = [lease for delivery, lease in self._queue if not delivery.live]
        if gone:
            self._queue = [(delivery, lease) for delivery, lease in self._queue if delivery.live]
            self._tell(gone, Unavailable("the partition was given away before its dead letters were written"))
        letters = self._queue[:MAX_LETTERS]
        if letters:
            self._busy = True
            self._writing = Deferred.fromCoroutine(self._write_down(letters))
            self._writing.addErrback(self._broken)

    async def _write_down(self, letters: list[Letter]) -> None:
        results = await self._dead_letters.write([(delivery.partition, lease) for delivery, lease in letters])
        del self._queue[: len(letters)]
        errors: list[KatewayError] = []
        failed: list[Lease] = []
        for (delivery, lease), error in zip(letters, results, strict=True):
            if error is None:
                delivery.complete(lease)
                self._buried(delivery)
            else:
                errors.append(error)
                failed.append(lease)
                self._queue.append((delivery, lease))
        self._busy = False
        if not errors:
            self._failures = 0
            self._tell()
            self._write()
            return
        self._tell(failed, errors[0])
        _log.warn("{n} dead letters could not be written: {e}", n=len(errors), e=errors[0].detail)
        self._again()

    def _tell(self, failed: Collection[Lease] = (), error: KatewayError | None = None) -> None:
        """Tells those who wait what has failed, and whose items are all written."""
        left = {lease for _delivery, lease in self._queue}
        waiting, self._waiting = self._waiting, []
        for done, awaited in waiting:
            if error is not None and not awaited.isdisjoint(failed):
                done.errback(error)
            elif awaited.isdisjoint(left):
                done.callback(None)
            else:
                self._waiting.append((done, awaited))

    def _forget(self, done: Deferred[None]) -> None:
        self._waiting = [(other, awaited) for other, awaited in self._waiting if other is not done]

    def _again(self) -> None:
        seconds = min(float(1 << min(self._failures, 10)), MAX_WAIT_SECONDS)
        self._failures += 1
        self._later = self._clock.callLater(seconds, self._wait_over)

    def _wait_over(self) -> None:
        self._later = None
        self._write()

    def _broken(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            _log.failure("writing dead letters broke", failure)
