"""Reads a group for one response or socket: takes records, and reports their way to the client.

The order of a reader's life::

    reader = groups.reader(...)             # may raise: TooManyConsumers, Conflict, Draining
    reader.on_readable(pump)                # while there is room: taken = reader.take(...); write; reader.sent(...)
    reader.on_failed(stop)
    ...
    reader.finish()                         # the response ended; its connection lives on

The reader watches the connection by itself until nothing of what it sent is unsettled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from kateway.config.schema import DeliveryConfig
from kateway.core.delivery.batch import Batch
from kateway.core.delivery.confirmation import Connection, Span
from kateway.core.groups.wanted import Wanted
from kateway.core.transforms.in_force import Outgoing
from kateway.errors import KatewayError, Unavailable

_NOT_ASKED: Mapping[int, int] = {}


class Source(Protocol):
    """The membership that a reader reads from, as far as a reader needs it."""

    config: DeliveryConfig

    @property
    def last_error(self) -> KatewayError | None: ...
    @property
    def available_since(self) -> float | None: ...

    def now(self) -> float: ...
    def take(self, reader: Reader, max_records: int, max_bytes: int) -> Batch | None: ...
    def expects(self, reader: Reader, ends: Mapping[int, int]) -> bool: ...
    def pause(self, reader: Reader) -> None: ...
    def wake(self, reader: Reader) -> None: ...
    def wants_attention(self, reader: Reader) -> None: ...
    def leased(self, batch: Batch) -> None: ...
    def confirmed(self, batch: Batch) -> None: ...
    def settle(self, batches: Iterable[Batch]) -> None: ...
    def settle_some(self, batch: Batch, count: int) -> None: ...
    def give_back(self, batches: Iterable[Batch]) -> None: ...
    def read_up_to(self, reader: Reader, read: Mapping[int, int]) -> None: ...
    def commit_soon(self) -> None: ...
    def ended(self, reader: Reader) -> None: ...
    def gone(self, reader: Reader) -> None: ...


class Reader:
    """A client that reads a group through one response or socket."""

    __slots__ = (
        "_asked_end",
        "_carried",
        "_connection",
        "_leased",
        "_on_failed",
        "_on_readable",
        "_open_since",
        "_sent_end",
        "_source",
        "_unsent",
        "_unsettled",
        "_view",
        "ack_timeout",
        "blocked",
        "blocked_seconds",
        "client",
        "error",
        "gateway",
        "hungry",
        "mode",
        "must_begin_anew",
        "read_up_to",
        "reading",
        "short",
        "since",
        "spare",
        "wanted",
    )  # fmt: skip

    def __init__(
        self,
        source: Source,
        wanted: Wanted,
        connection: Connection,
    ) -> None:
        self.mode = wanted.mode
        self._view = wanted.view
        self.spare = wanted.spare
        """Gives way to others (``Wanted.spare``)."""
        self.short = wanted.short
        """A poll that ends by itself soon; false for followers and long streams."""
        self.ack_timeout = wanted.ack_timeout
        self.since = source.now()
        """When it came."""
        self.client = wanted.client
        self.gateway = ""
        """The gateway that holds what it reads; empty: this one."""
        self.wanted: Wanted | None = None
        """What was asked for, where it may move to another gateway."""
        self.error: KatewayError | None = None
        """Why it cannot go on; also raised by ``take``."""
        self.must_begin_anew = False
        """The error is that its response has carried later records than those that come now."""
        self.reading = True
        self.hungry = True
        """The last ``take`` gave nothing: it has to be told when the next may give something."""
        self.blocked = False
        """It may not take before its client has confirmed more."""
        self.blocked_seconds: float | None = None
        """For how long its client has had no room, where that is counted."""
        self.read_up_to: dict[int, int] = {}
        """What its client said it had read when it came, of partitions not looked at yet."""
        self._source = source
        self._connection = connection
        self._on_readable: Callable[[], None] | None = None
        self._on_failed: Callable[[KatewayError], None] | None = None
        self._unsent: list[Batch] = []
        self._unsettled: list[Batch] = []
        self._carried: dict[int, int] = {}
        self._leased: dict[int, int] = {}
        # behind the last record of each partition that its response has carried
        self._sent_end = 0
        self._asked_end = -1
        self._open_since = float("-inf")
        connection.watch(self)

    @property
    def filter(self) -> str:
        """The expression that its client asked for; empty where it wants every record."""
        return "" if self._view is None or self._view.extra is None else self._view.extra.text

    def outgoing(self) -> Outgoing | None:
        """What its client sees now; ``None`` where that is every record as it is."""
        return None if self._view is None else self._view.outgoing()

    def wall_clock(self) -> float:
        """Seconds since the epoch, as expressions see it."""
        return 0.0 if self._view is None else self._view.in_force.now()

    # --- what the edge calls --------------------------------------------------------------------------------------

    def take(self, max_records: int, max_bytes: int) -> Batch | None:
        """The next records of one partition: at most ``max_records``, about ``max_bytes`` but at least one record.
        ``None``: nothing just now, ``on_readable`` will be called. Raises ``error`` where there is one.

        ``Batch`` has ``partition``, ``records``, ``attempts`` (``None``: all first deliveries) and ``leases``
        (``None`` with ``ack=auto``). Write it, then say ``sent``; it holds no records afterwards.
        """
        if self.error is not None:
            raise self.error
        self.hungry = True
        if not self.reading or max_records < 1:
            return None
        if self._unsettled and self._may_be_full() and self.window() <= 0:
            self.blocked = True
            self._source.wants_attention(self)
            return None
        batch = self._source.take(self, max_records, max_bytes)
        if batch is not None:
            self.hungry = False
            self._unsent.append(batch)
        return batch

    def expects(self, ends: Mapping[int, int] = _NOT_ASKED) -> bool:
        """Whether there ought to be something for it that is not at hand yet. ``ends``: where partitions of this
        process end as the store said just now; what the subscription heard last may be older.
        """
        return self.reading and self._source.expects(self, ends)

    def sent(self, batch: Batch, span: Span) -> None:
        """A batch was written: every record is one piece of ``span`` (or all are one piece, where compressed)."""
        try:
            self._unsent.remove(batch)
        except ValueError:
            return  # the reader is over and gave it back
        batch.was_sent(span.start, span.lengths, span.end)
        if batch.items is None:
            self._sent_end = span.end
            self._carried[batch.partition] = batch.stop
            self._unsettled.append(batch)
            self._source.wants_attention(self)
        else:
            self._leased[batch.partition] = max(batch.stop, self._leased.get(batch.partition, 0))
            self._source.leased(batch)

    def pause(self) -> None:
        """The client has no room, and was not quick so far: until it takes again, nothing is kept at hand for it."""
        if self.mode == "auto" and self.reading:
            self._source.pause(self)

    def release(self, batch: Batch) -> None:
        """Gives back a batch that will not be written after all; it does not count as an attempt."""
        if batch in self._unsent:
            self._unsent.remove(batch)
            self._source.give_back([batch])

    def on_readable(self, callback: Callable[[], None] | None) -> None:
        """Calls back, never from inside a call to the reader, when ``take`` may give something after it gave nothing;
        once after this call, too. Take until nothing comes or enough has.
        """
        self._on_readable = callback
        if callback is not None:
            self._source.wake(self)

    def on_failed(self, callback: Callable[[KatewayError], None] | None) -> None:
        """Calls back once if the reader cannot go on: the group failed, or every partition got another reader."""
        self._on_failed = callback

    @property
    def last_error(self) -> KatewayError | None:
        """The group's present error while it keeps trying: for a client that waited in vain."""
        return self._source.last_error

    @property
    def available_since(self) -> float | None:
        """Since when the partitions of this process are known; ``None`` while a rebalance has taken them."""
        return self._source.available_since

    def settled(self, read: Mapping[int, int]) -> None:
        """The client says what it has read: partition → last offset (a WebSocket's pong, an SSE ``Last-Event-ID``).
        What of it was delivered, to this reader or an earlier one, is done with.
        """
        self._source.read_up_to(self, read)

    def finish(self) -> None:
        """Takes no more, and gives back records taken and not sent. The response has ended or was cut off; records
        sent stays unsettled until the connection tells more, for a bounded time. Twice is fine.
        """
        if not self.reading:
            return
        self.reading = False
        self._on_readable = self._on_failed = None
        unsent, self._unsent = self._unsent, []
        self._source.give_back(unsent)
        self._source.ended(self)
        self._rest()

    # --- what the connection tells (confirmation.Watcher) ---------------------------------------------------------

    def asked(self) -> None:
        """The client's next request arrives: it has read the records sent, as far as they are confirmed."""
        self._asked_end = self._sent_end
        if self._unsettled:
            self.look(self._source.now(), self._connection.confirmed())
            self._rest()

    def closed(self, confirmed: int, orderly: bool) -> None:
        """The connection is over: after a FIN the confirmed records have been read, after a reset no more."""
        now = self._source.now()
        self.look(now, confirmed)
        unsettled, self._unsettled = self._unsettled, []
        if orderly:
            for batch in unsettled:
                self._source.settle_some(batch, batch.whole_records(confirmed))
        self._source.give_back(unsettled)
        self._source.commit_soon()
        self.finish()
        self._rest()

    def give_up(self) -> None:
        """What it sent is settled here no more, and comes again at another process: its connection is free to go."""
        self._unsettled.clear()
        self.finish()
        self._rest()

    # --- what the group calls ---------------------------------------------------------------------------------------

    def look(self, now: float, confirmed: int | None) -> None:
        """Settles records that are confirmed and old enough, or were followed by a request. ``confirmed``: the
        position that the client's TCP acknowledged; ``None`` where it is unknown, then only settling counts.
        """
        unsettled = self._unsettled
        if not unsettled:
            return
        if self._connection.stalled():
            self._open_since = now
        settle_seconds = self._source.config.settle_seconds
        done = 0
        for batch in unsettled:
            if confirmed is not None and batch.end > confirmed:
                break
            if batch.confirmed_at is None:
                batch.confirmed_at = now
                self._source.confirmed(batch)
                batch.lengths = ()  # wholly confirmed: the records' ends are not needed any more
            if batch.end <= self._asked_end or now - max(batch.confirmed_at, self._open_since) >= settle_seconds:
                done += 1
        if done:
            settled = unsettled[:done]
            del unsettled[:done]
            self._source.settle(settled)

    def tick(self, now: float) -> bool:
        """Looks whether more has arrived; answers whether there is still something to look for."""
        self.look(now, self._connection.confirmed() if self._unsettled else None)
        self._rest()
        return bool(self._unsettled) or self.blocked

    def window(self) -> int:
        """How many bytes more the client may be sent before it confirms some."""
        confirmed = self._connection.confirmed()
        if confirmed is None:
            confirmed = self._unsettled[0].begin if self._unsettled else self._sent_end
        return self._source.config.max_unsettled_bytes - (self._sent_end - confirmed)

    def arrived(self) -> int | None:
        """How much of the connection's stream its client's TCP has acknowledged; ``None`` where it is unknown."""
        return self._connection.confirmed()

    def _may_be_full(self) -> bool:
        # spares asking the socket before every batch
        return self._sent_end - self._unsettled[0].begin >= self._source.config.max_unsettled_bytes

    @property
    def unsettled_records(self) -> int:
        """How many records its client has that are not settled; those that are leased do not count."""
        return sum(batch.count for batch in self._unsettled)

    def unsettled(self) -> bool:
        """Whether something that was sent may still come back."""
        return bool(self._unsettled)

    def move_to(self, source: Source) -> None:
        """Goes on at another source. Only while nothing is unsent or unsettled, which would be the old source's."""
        old, self._source = self._source, source
        old.ended(self)
        old.gone(self)
        source.wake(self)

    def share_response(self, other: Reader) -> None:
        """Its records go into the same response as another reader's: what one has carried counts for both."""
        self._carried = other._carried

    def is_beyond(self, partition: int, offset: int) -> bool:
        """Whether a record that no client has had would stand behind later ones in the response. It waits for the next
        one, which comes soon; a long stream may be the only one that there is.
        """
        return self.short and self._leased.get(partition, 0) > offset

    def begins_again(self, partition: int, offset: int) -> None:
        """A partition is to be read from ``offset`` on: where the response has carried later records, no earlier one
        may follow in it, and it is cut off.
        """
        if self._carried.get(partition, offset) > offset:
            self.must_begin_anew = True
            self.fail(Unavailable(f"partition {partition} is read again from offset {offset} on: begin anew"))

    def call(self) -> None:
        """Tells the edge that ``take`` may give something."""
        if self.hungry and self._on_readable is not None:
            self.hungry = False
            self._on_readable()

    def fail(self, error: KatewayError) -> None:
        """Ends it: notifies the edge, and ``take`` raises."""
        if self.reading and self.error is None:
            self.error = error
            callback, self._on_failed = self._on_failed, None
            if callback is not None:
                callback(error)

    def _rest(self) -> None:
        if not self.reading and not self._unsettled:
            self._connection.unwatch(self)
            self._source.gone(self)
