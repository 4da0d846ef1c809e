"""Reads a membership of this gateway for a client of another one.

To the membership it is a reader like any other, whose connection tells what was settled: a record counts as a byte of a
stream that "confirms" what the other gateway says its client has read. A stream that ends gives the rest back.
"""

from __future__ import annotations

from collections.abc import Callable

from kateway.cluster.frames import BadFrame
from kateway.cluster.interface import Stream
from kateway.core.delivery.batch import Batch
from kateway.core.delivery.confirmation import Span, Watcher
from kateway.core.groups.reader import Reader
from kateway.core.passing import messages
from kateway.core.passing.messages import Counts, Malformed
from kateway.errors import GatewayUnavailable, KatewayError, TooLarge


class PassedConnection:
    """What is settled at the other gateway, as a connection (``confirmation.Connection``) of records."""

    def __init__(self) -> None:
        self.settled = 0

    def confirmed(self) -> int | None:
        return self.settled

    def stalled(self) -> bool:
        return False

    def watch(self, watcher: Watcher) -> None:
        """The stream's end notifies its reader by itself."""

    def unwatch(self, watcher: Watcher) -> None:
        """There is nothing to forget."""


class PassedReader:
    """The home's end of a reader's stream."""

    def __init__(
        self,
        stream: Stream,
        begin: Callable[[PassedConnection], Reader],
        state: Callable[[Reader], bytes],
        over: Callable[[PassedReader], None],
    ) -> None:
        """``begin`` makes the reader, or raises why there is none."""
        self._stream = stream
        self._state = state
        self._over = over
        self._connection = PassedConnection()
        self._wanted: tuple[int, int] | None = None
        self._unsent: Batch | None = None
        """The last batch, as long as it is not known to be written to the client."""
        self._batches = 0
        """Batches that were passed on and did not come back unsent."""
        self._records = 0
        """Records with ``ack=auto`` in those that were sent."""
        self._told = b""
        self._waits = False
        self._closed = False
        self.reader = begin(self._connection)
        self.reader.on_failed(self.fail)
        self.reader.on_readable(self._pump)
        self.tell_state()

    def fail(self, error: KatewayError) -> None:
        """The reader takes no more; what it was sent may still be settled."""
        if not self._closed:
            self._wanted = None
            self._stream.send(messages.fail(error))

    def tell_state(self) -> None:
        """Tells the other gateway of the membership's state, where it is another than it was told."""
        if self._closed or not self.reader.reading:
            return
        state = self._state(self.reader)
        if state != self._told:
            self._told = state
            self._stream.send(state)

    @property
    def waits(self) -> bool:
        """Whether the other gateway waits for a batch."""
        return self._wanted is not None

    # --- what the other gateway says (cluster.interface.StreamEnd) ---------------------------------------------------

    def message(self, message: bytes) -> None:
        kind = message[:1]
        try:
            self._catch_up(messages.counts_of(message))
            if kind == messages.TAKE:
                self._wanted = messages.room_of(message)
                self._pump()
            elif kind == messages.FINISH:
                self._finish()
            elif kind == messages.PAUSE:
                self.reader.pause()
            elif kind == messages.READ:
                self.reader.settled(messages.read_of(message))
            elif kind != messages.SETTLE:
                raise Malformed("there is no such message")
        except Malformed as error:
            raise BadFrame(str(error)) from error

    def closed(self, error: KatewayError | None) -> None:
        """The stream is over: what the other gateway has not settled comes back."""
        self._closed = True
        self._wanted = None
        self._over(self)
        if self._unsent is not None:
            # perhaps it was sent: it comes again, and counts
            batch, self._unsent = self._unsent, None
            self._note_sent(batch)
        # orderly: what was told to be settled is; whether the stream or the link ended makes no difference
        self.reader.closed(self._connection.settled, True)

    def _catch_up(self, counts: Counts) -> None:
        """Notes which batches were sent to the client, and which records it has read."""
        if not self._batches - (self._unsent is not None) <= counts.sent <= self._batches:
            raise Malformed(f"{counts.sent} of {self._batches} batches cannot have been sent")
        if self._unsent is not None and counts.sent == self._batches:
            batch, self._unsent = self._unsent, None
            self._note_sent(batch)
        if not self._connection.settled <= counts.settled <= self._records:
            raise Malformed(f"{counts.settled} of {self._records} records cannot have been read")
        if counts.settled > self._connection.settled:
            self._connection.settled = counts.settled
            self.reader.asked()

    def _note_sent(self, batch: Batch) -> None:
        start = self._records
        if batch.items is None:
            self._records += batch.count
        self.reader.sent(batch, Span(start, [1] * batch.count, start + batch.count))

    def _release(self) -> None:
        batch, self._unsent = self._unsent, None
        if batch is not None:
            self._batches -= 1
            self.reader.release(batch)

    def _finish(self) -> None:
        self._wanted = None
        self._release()
        self.reader.finish()

    def _writable(self) -> None:
        self._waits = False
        self._pump()

    def _pump(self) -> None:
        """Passes one batch on, where one is wanted and there is one."""
        if self._wanted is None or self._closed:
            return
        # one that was passed on and is not known as sent came back: the other gateway asks anew
        self._release()
        if not self._stream.writable:
            if not self._waits:
                self._waits = True
                self._stream.on_writable(self._writable)
            return
        try:
            batch = self.reader.take(*self._wanted)
        except KatewayError as error:
            self.fail(error)
            return
        if batch is None:
            self.tell_state()
            return
        try:
            message = messages.batch(batch)
            self._unsent = batch
            self._batches += 1
            self._stream.send(message)
            self._wanted = None
        except TooLarge as error:
            self._release()
            self.fail(GatewayUnavailable(error.detail))
