"""Streams a reader's records to its client.

A ``Feed`` takes the records that there are and that the client has room for, lets its ``Outlet`` encode and write them
at once, and reports their place in the connection's bytes to the reader. The reader decides about delivery
(``kateway.core.groups.reader``), the outlet about the form on the wire.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kateway.core.delivery.confirmation import Span
from kateway.core.delivery.ledger import Batch
from kateway.core.groups.group_reader import GroupReader
from kateway.errors import Draining, KatewayError, NotHere
from kateway.observe.tracing import BatchTraces
from kateway.web.messages.read_counts import ReadCounts

FIRST_BATCH_BYTES = 8192
LARGEST_BATCH_BYTES = 262144
BATCH_RECORDS = 4000
"""Of one turn of the loop, so that no client keeps the others waiting for long."""


LEAST_LOOK_SECONDS = 0.75
"""How long a poll that would not wait so long looks for records that are there but not at hand: the group is being
joined, or the first fetch is under way. Else a client that polls seldom and never waits would never find anything.
"""
LOOK_SECONDS = 0.05
MOST_AWAY_SECONDS = 10.0
"""So much longer than its ``timeout`` or ``idle`` a response waits at most for partitions that a rebalance took."""

_log = Logger()
_goes_on = _log.failureHandler("the end of a stream broke; the stream ends all the same")


class Bounds(NamedTuple):
    """When a feed ends by itself. Time in which the client has no room, or in which a rebalance has taken the
    partitions, counts neither for ``first_seconds`` nor for ``idle_seconds``.
    """

    records: int
    bytes: float
    """Of encoded records; the one that passes it is still delivered."""
    first_seconds: float
    """To wait for a first record."""
    idle_seconds: float
    """Without a record after the first; infinite: heartbeats instead."""
    least_look_seconds: float = LEAST_LOOK_SECONDS


class Outlet(Protocol):
    """Where a feed's records go: a response, a WebSocket."""

    def send(self, batch: Batch) -> tuple[int, Span]:
        """Writes a batch; answers its encoded bytes and where it lies in the connection's stream."""

    def writable(self) -> bool:
        """Whether the client has room; ``on_writable`` is called when it has again."""

    def on_writable(self, callback: Callable[[], None] | None) -> None: ...

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        """Calls back once when the client has gone."""

    def beat(self) -> None:
        """Sends a heartbeat, where the form has one."""

    def end(self, last_error: KatewayError | None, *, leaving: bool) -> None:
        """Ends as whole. ``last_error`` is the group's error, where nothing was sent and that is the reason;
        ``leaving``: the gateway shuts down.
        """

    def fail(self, error: KatewayError) -> None:
        """Ends because of a failure: a problem, or a cut where records were sent already."""


class Feed:
    """One reader's records on their way to one outlet.

    Callbacks, not a coroutine: it runs once for each batch of every stream.
    """

    def __init__(
        self,
        reader: GroupReader,
        outlet: Outlet,
        bounds: Bounds,
        clock: IReactorTime,
        heartbeat_seconds: float,
        pause: Callable[[int], float] | None = None,
        counts: ReadCounts | None = None,
        traces: BatchTraces | None = None,
    ) -> None:
        """``pause`` counts bytes against a quota and answers the seconds to wait before the next."""
        self.counts = counts
        """``None`` where nothing is counted."""
        self._traces = traces
        self._heartbeat_seconds = heartbeat_seconds
        self._pause = pause
        self._paused_until = 0.0
        self._reader = reader
        self._outlet = outlet
        self._clock = clock
        self._bounds = bounds
        self._records_left = bounds.records
        self._bytes_left = bounds.bytes
        self._batch_bytes = FIRST_BATCH_BYTES
        self._arrived = 0
        # what the client's TCP had acknowledged when the batches last grew
        self._sent = False
        self._full = False
        """The client has no room."""
        self._since = clock.seconds()
        """When the client was last sent something, or had no room, or was paused."""
        self._look_until = clock.seconds() + bounds.least_look_seconds
        self._over = False
        self._next: IDelayedCall | None = None
        """The next turn of the loop, when there is more to send at once."""
        self._deadline: IDelayedCall | None = None
        """The timeout before the first record, the idle end or the heartbeat after it."""
        self._ended: Callable[[], None] | None = None

    def start(self, ended: Callable[[], None]) -> None:
        """Begins to move records; everything later comes by callback, ``ended`` last."""
        self._ended = ended
        self._outlet.on_gone(self._gone)
        if self._over:
            return  # it had gone already: what is begun from here on nothing would end
        self._outlet.on_writable(self._turn)
        self._reader.on_readable(self._turn)
        self._reader.on_failed(self.fail)
        self._restart(0.0)
        pause = 0.0 if self._pause is None else self._pause(0)
        if pause:
            # the records read before have used up the quota
            self._hold_back(pause)
        else:
            self._turn()

    def _hold_back(self, seconds: float) -> None:
        """Reading is slowed, not refused; other wake-ups in the meantime find it paused."""
        self._paused_until = self._clock.seconds() + seconds
        self._turn_after(seconds)

    def _turn(self) -> None:
        """Sends one batch, if there is one and the client has room for it."""
        if self._over or not self._outlet.writable() or self._clock.seconds() < self._paused_until:
            return
        if self._full:
            self._full = False
            self._restart(0.0)
        try:
            self._send_batch()
        except KatewayError as error:
            self.fail(error)
        except Exception:
            _log.failure("a stream broke")
            self.fail(KatewayError("the stream broke; the gateway's log says why"))

    def _send_batch(self) -> None:
        batch = self._reader.take(min(self._records_left, BATCH_RECORDS), int(min(self._bytes_left, self._batch_bytes)))
        if batch is None:
            if self.counts is not None:
                self.counts.blocked(self._reader.blocked)
            return
        if self._sent and len(batch.records[0].value or b"") > self._bounds.bytes:
            # larger than a whole response: it comes alone in the next
            self._reader.release(batch)
            self.end()
            return
        count = len(batch.records)
        trace = None if self._traces is None else self._traces.began()
        size, span = self._outlet.send(batch)
        if trace is not None and self._traces is not None:
            self._traces.sent(trace, batch.partition, batch.records)
        attempts = batch.attempts
        self._reader.sent(batch, span)
        if self.counts is not None:
            self.counts.sent(count, size, attempts)
        self._sent = True
        self._records_left -= count
        self._bytes_left -= size
        pause = 0.0 if self._pause is None else self._pause(size)
        if self._records_left <= 0 or self._bytes_left <= 0:
            self.end()
            return
        if pause:
            self._hold_back(pause)
        elif self._outlet.writable():
            if self._batch_bytes < LARGEST_BATCH_BYTES:
                self._grow()
            self._turn_after(0)
        else:
            self._full = True
            if self.counts is not None:
                self.counts.blocked(True)
            if self._batch_bytes > FIRST_BATCH_BYTES:
                self._batch_bytes = max(self._batch_bytes // 2, FIRST_BATCH_BYTES)
            else:
                self._reader.pause()
        self._restart(pause)

    def _grow(self) -> None:
        """A client that takes what it is given is given more at a time; one that merely lets it lie in buffers is not:
        a slow one costs little memory.
        """
        arrived = self._reader.arrived()
        if arrived is None or arrived - self._arrived >= self._batch_bytes:
            self._batch_bytes = min(self._batch_bytes * 2, LARGEST_BATCH_BYTES)
            self._arrived = arrived or 0

    def _turn_after(self, seconds: float) -> None:
        if self._next is None:
            self._next = self._clock.callLater(seconds, self._again)
        elif seconds:
            # a turn that waits for the next loop must not end a pause
            self._next.reset(seconds)

    @property
    def _follows(self) -> bool:
        return math.isinf(self._bounds.idle_seconds)

    def _again(self) -> None:
        self._next = None
        self._paused_until = 0.0
        self._turn()

    @property
    def _limit(self) -> float:
        """For how long nothing may be sent."""
        if self._follows:
            return self._heartbeat_seconds
        return self._bounds.idle_seconds if self._sent else self._bounds.first_seconds

    def _restart(self, pause: float) -> None:
        """Begins to wait anew, after a pause. Hot: the delayed call goes on, and looks at the time when it comes."""
        self._since = self._clock.seconds() + pause
        limit = self._limit
        if self._deadline is None:
            self._wait(limit + pause)
        elif self._deadline.getTime() > self._since + limit:
            self._deadline.reset(limit + pause)  # the first wait was longer than the others are

    def _wait(self, seconds: float) -> None:
        self._deadline = self._clock.callLater(seconds, self._waited)

    def _waited(self) -> None:
        self._deadline = None
        now = self._clock.seconds()
        since = self._since
        if not self._follows:
            since = self._counts_from(now)
        left = since + self._limit - now
        if left > 1e-6:
            self._wait(left)
        elif self._follows:
            if self._outlet.writable():
                self._outlet.beat()
            self._restart(0.0)
        elif not self._sent and now < self._look_until and self._reader.expects():
            self._wait(LOOK_SECONDS)
        else:
            self.end()

    def _counts_from(self, now: float) -> float:
        """Since when there was nothing to send to a client that could take it."""
        self._full = not self._outlet.writable()
        if self._full or self._reader.blocked:
            return now
        reader = self._reader
        if not self._limit or (reader.available_since is None and reader.last_error is not None):
            return self._since  # it does not wait, or for nothing: the store is away
        available = now if reader.available_since is None else reader.available_since
        # bounded: a group whose members never find together must not hold its clients
        return max(self._since, min(available, self._since + MOST_AWAY_SECONDS))

    # --- ends ------------------------------------------------------------------------------------------------

    def end(self, *, leaving: bool = False) -> None:
        """Ends the outlet as whole, with what it has had; ``leaving``: because the gateway shuts down."""
        if self._close():
            last_error = None if self._sent else self._reader.last_error
            self._reader.finish()
            self._outlet.end(last_error, leaving=leaving)

    def fail(self, error: KatewayError) -> None:
        """Ends the outlet because the reader cannot go on, or its permission is gone."""
        if isinstance(error, (Draining, NotHere)):
            # the gateway that holds the group shuts down or has lost it: what was sent is whole, and the next request
            # finds another
            self.end(leaving=True)
        elif self._close():
            self._reader.finish()
            self._outlet.fail(error)

    def _gone(self) -> None:
        # what the client was sent is judged by the reader, whom its connection tells how it ended
        if self._close():
            self._reader.finish()
            # one that has merely said that it sends no more still gets a whole response; else this goes nowhere
            self._outlet.end(None, leaving=False)

    def _close(self) -> bool:
        if self._over:
            return False
        self._over = True
        if self.counts is not None:
            self.counts.blocked(False)
        if self._ended is not None:
            # first of all: the records that it gives back must not be lost with those that come
            with _goes_on:
                self._ended()
        self._reader.on_readable(None)
        self._reader.on_failed(None)
        self._outlet.on_gone(None)
        self._outlet.on_writable(None)
        for call in (self._next, self._deadline):
            if call is not None and call.active():
                call.cancel()
        return True
