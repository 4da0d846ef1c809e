"""Gives a reader of this gateway the records of a membership at another one.

The reader takes, confirms and settles as ever, because the client's connection is here; what it takes comes over a
stream, and what it settles goes back, in the order of the response.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kateway.cluster.frames import BadFrame
from kateway.cluster.interface import Stream
from kateway.config.schema import DeliveryConfig
from kateway.core.delivery.batch import Batch
from kateway.core.groups.membership import BLOCKED_TICK_SECONDS, TICK_SECONDS
from kateway.core.groups.reader import Reader
from kateway.core.passing import messages
from kateway.core.passing.messages import Counts, Malformed
from kateway.errors import GatewayUnavailable, KatewayError

_goes_on = Logger().failureHandler("a reader of another gateway's records broke; the others go on")


class RemoteSource:
    """The source of one reader (``reader.Source``); the other end of a stream of ``PassedReader``."""

    def __init__(self, clock: IReactorTime, config: DeliveryConfig) -> None:
        self.config = config
        self.last_error: KatewayError | None = None
        self.available_since: float | None = None
        self.opened: Deferred[None] = Deferred()
        """Fires when the home has answered, fails with why it does not give a reader."""
        self._clock = clock
        self._stream: Stream | None = None
        self._reader: Reader | None = None
        self._error: KatewayError | None = None
        self._arrived: Batch | None = None
        self._asked = False
        """Whether the home owes a batch."""
        self._room = (0, 0)
        """How many records and bytes it was asked for."""
        self._handed: Batch | None = None
        """The last batch that the reader took, as long as the home was not told that it was written to the client."""
        self._sent = 0
        self._settled = 0
        self._told = Counts(0, 0)
        self._expects = True
        self._finished = False
        self._ticking: IDelayedCall | None = None
        self._waking: IDelayedCall | None = None
        self._telling: IDelayedCall | None = None

    def attach(self, stream: Stream) -> None:
        """Begins with the stream that was opened for it."""
        self._stream = stream

    def serve(self, reader: Reader) -> None:
        """Serves this reader from now on."""
        self._reader = reader
        if self._error is not None:
            reader.fail(self._error)

    def give_up(self) -> None:
        """Closes the stream before it has a reader."""
        if self._stream is not None:
            self._stream.close()

    # --- what the home says (cluster.interface.StreamEnd) ------------------------------------------------------------

    def message(self, message: bytes) -> None:
        kind = message[:1]
        try:
            if kind == messages.BATCH:
                self._take_in(messages.batch_of(message, self.now()))
            elif kind == messages.STATE:
                self._heard(messages.state_of(message))
            elif kind == messages.FAIL:
                self._fail(messages.failure_of(message))
            else:
                raise Malformed("there is no such message")
        except Malformed as error:
            raise BadFrame(str(error)) from error

    def closed(self, error: KatewayError | None) -> None:
        self._stream = None
        self._fail(error or GatewayUnavailable("the gateway that holds the group ended the stream; try again"))

    def _take_in(self, batch: Batch) -> None:
        if not self._asked:
            raise BadFrame("a batch came that was not asked for")
        self._asked = False
        self.available_since = self.now() if self.available_since is None else self.available_since
        self.last_error = None
        if self._finished:
            return  # the home knows from ``FINISH`` that it was not sent
        self._arrived = batch
        reader = self._reader
        if reader is not None:
            if reader.mode == "auto":
                reader.begins_again(batch.partition, batch.first)
            reader.call()

    def _heard(self, state: messages.HomeState) -> None:
        self._expects = state.expects
        self.last_error = state.last_error
        if not state.available:
            self.available_since = None
        elif self.available_since is None:
            self.available_since = self.now()
        if not self.opened.called:
            self.opened.callback(None)

    def _fail(self, error: KatewayError) -> None:
        self._error = self._error or error
        if not self.opened.called:
            self.opened.errback(error)
        elif self._reader is not None:
            self._reader.fail(error)

    # --- what the reader calls (reader.Source) -----------------------------------------------------------------------

    def now(self) -> float:
        return self._clock.seconds()

    def take(self, reader: Reader, max_records: int, max_bytes: int) -> Batch | None:
        """The batch that has come; else asks for one."""
        self._was_sent()
        batch, self._arrived = self._arrived, None
        if batch is not None and (batch.count <= max_records and self._room[1] <= max_bytes):
            self._handed = batch
            return batch
        # one that came for more room than is left goes back with the next request, as it was not sent
        if not self._asked and self._error is None:
            self._asked = True
            self._room = (max_records, max_bytes)
            self._tell(messages.take(self._counts(), max_records, max_bytes))
        return None

    def expects(self, reader: Reader, ends: Mapping[int, int]) -> bool:
        # ``ends`` are of partitions of this process: this is what the home expects by its own
        return self._expects or self._arrived is not None

    def pause(self, reader: Reader) -> None:
        self._was_sent()
        self._tell(messages.pause(self._counts()))

    def wake(self, reader: Reader) -> None:
        if self._waking is None:
            self._waking = self._clock.callLater(0, self._wake)

    def _wake(self) -> None:
        self._waking = None
        if self._reader is not None and self._reader.reading:
            with _goes_on:
                self._reader.call()

    def wants_attention(self, reader: Reader) -> None:
        seconds = BLOCKED_TICK_SECONDS if reader.blocked else TICK_SECONDS
        if self._ticking is None:
            self._ticking = self._clock.callLater(seconds, self._tick)
        elif reader.blocked and self._ticking.getTime() > self.now() + seconds:
            self._ticking.reset(seconds)

    def _tick(self) -> None:
        self._ticking = None
        reader = self._reader
        if reader is None:
            return
        goes_on = False
        with _goes_on:
            goes_on = reader.tick(self.now())
            if reader.blocked and reader.window() > 0:
                reader.blocked = False
                reader.call()
        # also where a look broke: what was sent is settled by a later one
        if goes_on or reader.unsettled():
            self.wants_attention(reader)

    def leased(self, batch: Batch) -> None:
        """The home hears that its client has them, with the next request where that comes in this turn of the loop:
        leases that no client has do not move with their partition.
        """
        if self._telling is None:
            self._telling = self._clock.callLater(0, self._tell_leased)

    def _tell_leased(self) -> None:
        self._telling = None
        self._tell_counts()

    def confirmed(self, batch: Batch) -> None:
        """The home counts what is settled."""

    def settle(self, batches: Iterable[Batch]) -> None:
        """Batches have been read; the reader settles them in the order in which it sent them."""
        self._settled += sum(batch.count for batch in batches)
        self._tell_counts()

    def settle_some(self, batch: Batch, count: int) -> None:
        self._settled += min(count, batch.count)

    def give_back(self, batches: Iterable[Batch]) -> None:
        """What was not sent is told apart by the counts; what is not settled goes back when the stream closes."""
        if self._handed is not None and not self._handed.sent and self._handed in batches:
            self._handed = None

    def read_up_to(self, reader: Reader, read: Mapping[int, int]) -> None:
        self._was_sent()
        self._tell(messages.read_up_to(self._counts(), read))

    def commit_soon(self) -> None:
        """The home does so when the stream closes."""

    def ended(self, reader: Reader) -> None:
        self._finished = True
        self._arrived = None
        self._was_sent()
        self._tell(messages.finish(self._counts()))

    def gone(self, reader: Reader) -> None:
        """Nothing that was sent is unsettled any more: the stream closes, and what was not settled comes back."""
        for call in (self._ticking, self._waking, self._telling):
            if call is not None and call.active():
                call.cancel()
        self._ticking = self._waking = self._telling = None
        self._tell_counts()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _was_sent(self) -> None:
        if self._handed is not None and self._handed.sent:
            self._sent += 1
            self._handed = None

    def _counts(self) -> Counts:
        self._told = Counts(self._sent, self._settled)
        return self._told

    def _tell_counts(self) -> None:
        self._was_sent()
        if (self._sent, self._settled) != self._told:
            self._tell(messages.settle(self._counts()))

    def _tell(self, message: bytes) -> None:
        if self._stream is not None:
            self._stream.send(message)
