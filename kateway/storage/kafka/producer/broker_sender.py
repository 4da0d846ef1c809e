"""Sends to one broker: gathers its partitions' batches into requests, and takes the answers.

One request holds one batch of each partition that has something. With nothing in flight a request goes at the end of
the reactor's turn; with something in flight the next waits for its answer, for enough bytes to be worth it, or for
the next sweep: gathering is what makes publishing fast (DESIGN.md). At most five are in flight; a connection answers
in order, so order is kept.

Before anything is entrusted to a connection it has answered a greeting (ApiVersions): until then messages stay in
their lanes, *never sent*, however long a broker that is frozen or unreachable takes to be found out.

Callbacks, not coroutines: every published message passes through here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.backoff import Backoff
from kateway.config.schema import KafkaStorageConfig
from kateway.drain_pace import DrainPace
from kateway.errors import KatewayError, OutcomeUnknown, Unavailable
from kateway.model import Receipt
from kateway.observe.cells import Histogram
from kateway.storage.interface import Outcome
from kateway.storage.kafka.cluster.connection import NeverSent
from kateway.storage.kafka.cluster.pool import Pool
from kateway.storage.kafka.producer.partition_queue import MAX_IN_FLIGHT, Lane, QueuedBatch, Verdict
from kateway.storage.kafka.producer.pending import Pending
from kateway.storage.kafka.producer.verdicts import UNKNOWN_SERVER_ERROR, unclear, verdict_of
from kateway.storage.kafka.protocol.errors import DUPLICATE_SEQUENCE, error_for
from kateway.storage.kafka.protocol.metadata import API_VERSIONS, API_VERSIONS_VERSION
from kateway.storage.kafka.protocol.primitives import MalformedResponse
from kateway.storage.kafka.protocol.produce_requests import (
    PRODUCE,
    PRODUCE_VERSION,
    ProduceResult,
    decode_produced,
    encode_produce,
)
from kateway.storage.kafka.protocol.record_batches import encode_batch

GATHER_BYTES = 65536
"""With a request in flight the next goes without waiting for its answer when it has this much."""

LEAST_PATIENCE_SECONDS = 0.005
MOST_PATIENCE_SECONDS = 0.1
"""With a request in flight for twice the usual time, within these, the next request does not wait for its answer. A
broker that is slow because it is busy gets larger requests, not more of them.
"""

LEAST_ROOM_BYTES = 256
FIRST_BACKOFF_SECONDS = 0.05
MAX_BACKOFF_SECONDS = 0.5
ANSWER_GRACE_SECONDS = 1.0
"""How much longer than the broker itself waits for replicas we wait for the broker."""

_log = Logger()

SILENCE_SECONDS = 1.0
"""After a request that is unanswered for so long, other brokers are asked for the leader."""

_NO_BACKOFF = (Verdict.TOO_LARGE, Verdict.BAD_RECORD, Verdict.REFUSED, Verdict.OUT_OF_ORDER)


class PartitionLane(Lane[Pending]):
    """A lane and where it is served."""

    __slots__ = (
        "absent", "acks", "active", "backoff", "deadline", "not_before", "sender", "sent_by", "since", "used", "why",
    )  # fmt: skip

    def __init__(self, topic: str, partition: int, acks: int, *, numbered: bool, max_batch_bytes: int) -> None:
        super().__init__(topic, partition, numbered=numbered, max_batch_bytes=max_batch_bytes)
        self.acks = acks
        self.sender: Sender | None = None
        """Of the leader, as far as is known."""
        self.sent_by: Sender | None = None
        """The sender of the batches in flight; a new leader's waits until they are answered."""
        self.active = False
        self.since = 0.0
        """When the first of the messages that wait came, or the last batch left some behind."""
        self.absent = 0
        """Listings in a row that lack its topic or partition."""
        self.deadline = float("inf")
        """No caller's deadline is earlier."""
        self.not_before = 0.0
        self.backoff = Backoff(FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
        self.used: object = None
        """The last id: it must not be given again."""
        self.why: tuple[type[KatewayError], str] | None = None
        """What kept the last attempt from being written."""


class Flight:
    """A request that was handed to a connection."""

    __slots__ = ("answer", "batches", "over", "since", "size")

    def __init__(self, batches: list[tuple[PartitionLane, QueuedBatch[Pending]]], size: int, since: float) -> None:
        self.batches = batches
        self.size = size
        self.since = since
        self.over = False
        self.answer: Deferred[bytes] | None = None


class Sender:
    """The requests of one kind of acknowledgement to one broker.

    Calls ``failed(lane, batch, verdict, error)`` for all but plain successes, ``released(bytes, records)`` for
    items that left the lanes, ``expire(lane, now)`` to settle overdue items before they are sent. ``queued`` counts
    how long the first message of each batch waited.
    """

    def __init__(
        self,
        reactor: Any,
        config: KafkaStorageConfig,
        pool: Pool,
        node_id: int,
        acks: int,
        *,
        now_ms: Callable[[], int],
        failed: Callable[[PartitionLane, QueuedBatch[Pending], Verdict, KatewayError], None],
        released: Callable[[int, int], None],
        expire: Callable[[PartitionLane, float], None],
        queued: Histogram | None = None,
    ) -> None:
        self.node_id = node_id
        self.acks = acks
        self.ready: dict[PartitionLane, None] = {}
        """Lanes that may have something to send, the longest waiting first."""
        self.waiting_bytes = 0
        """Of the lanes' queues; counted anew by the sweep while the broker is behind."""
        self.flights: dict[Flight, None] = {}
        self.pace = DrainPace(GATHER_BYTES)
        """Of bytes, of all partitions: a broker answers a connection's requests in order."""
        self._seconds: Callable[[], float] = reactor.seconds
        self._flew_at = 0.0
        self._answered_at = 0.0
        self._round_trip_seconds = 0.0
        """Smoothed as RFC 6298 smooths it."""
        self._patience_seconds = LEAST_PATIENCE_SECONDS
        self._pool = pool
        self._compression = config.compression
        self._max_request_bytes = config.max_request_bytes
        self._timeout_seconds = config.request_timeout_seconds
        self._connect_timeout_seconds = config.connect_timeout_seconds
        self._now_ms = now_ms
        self._failed = failed
        self._released = released
        self._expire = expire
        self._queued = queued
        self._flushing = False
        self._greeted = False
        self._greeting: Deferred[None] | None = None
        self._greet_not_before = 0.0
        self._greet_backoff = Backoff(FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
        self.why = ""
        """Why the broker cannot be sent anything, for a person."""

    @property
    def wants_a_turn(self) -> bool:
        """Whether a request should go at the end of this turn. Hot."""
        return (
            not self.flights
            or self.waiting_bytes >= GATHER_BYTES
            or self._seconds() - self._flew_at >= self._patience_seconds
        )

    def flush(self, *, force: bool = False) -> None:
        """Sends requests that are worth sending; ``force``: all items."""
        if not self.ready:
            if not self.pace.behind:
                self.waiting_bytes = 0
            return
        if not self._greeted or not self._pool.connected(self.node_id):
            # a connection that ended while nothing was under way: the next one has to prove itself anew
            self._greeted = False
            self._greet()
            return
        if self._flushing:
            return  # acks=0 is answered while it is sent: the loop below goes on, a call deeper would recurse
        self._flushing = True
        try:
            while self.ready and self._greeted and len(self.flights) < MAX_IN_FLIGHT and (force or self.wants_a_turn):
                if not self._send():
                    break
        finally:
            self._flushing = False

    # --- the connection ----------------------------------------------------------------------------------------

    def _greet(self) -> None:
        if self._greeting is not None or self._seconds() < self._greet_not_before:
            return
        asked = self._pool.request(
            self.node_id, API_VERSIONS, API_VERSIONS_VERSION, b"", timeout_seconds=self._connect_timeout_seconds
        )
        self._greeting = greeting = asked.addCallbacks(self._welcome, self._unwelcome)
        if greeting.called:
            self._greeting = None

    def _welcome(self, _body: bytes) -> None:
        self._greeting = None
        self._greeted = True
        self._greet_backoff.reset()
        self.why = ""
        self.flush(force=True)

    def _unwelcome(self, failure: Failure) -> None:
        self._greeting = None
        self._greet_not_before = self._seconds() + self._greet_backoff.next()
        self.why = failure.getErrorMessage()

    # --- sending -----------------------------------------------------------------------------------------------

    def _send(self) -> bool:
        """Makes one request of the ready batches. False where none may be sent."""
        room = self._max_request_bytes
        chosen: list[tuple[PartitionLane, QueuedBatch[Pending]]] = []
        topics: dict[str, list[tuple[int, bytes]]] = {}
        again: list[PartitionLane] = []
        now = self._seconds()
        now_ms = self._now_ms()
        for lane in list(self.ready):
            if room < LEAST_ROOM_BYTES:
                break
            if lane.sender is not self or (lane.in_flight and lane.sent_by is not self) or lane.not_before > now:
                del self.ready[lane]  # comes back with its answer or with the sweep
                continue
            if lane.deadline <= now:
                self._expire(lane, now)
            batch = lane.next(room, first=not chosen)
            if batch is None:
                if lane.sendable:
                    break  # the next request begins with it
                del self.ready[lane]
                continue
            del self.ready[lane]
            if not batch.data:
                if self._queued is not None:
                    self._queued.observe(now - lane.since)
                lane.since = now
                identity = batch.identity
                try:
                    batch.data = encode_batch(
                        [item.message for item in batch.items],
                        now_ms=now_ms,
                        compression=self._compression,
                        producer_id=-1 if identity is None else identity.producer_id,
                        epoch=-1 if identity is None else identity.epoch,
                        sequence=-1 if identity is None else batch.sequence,
                    )
                except Exception:
                    # raised from here, it would leave this batch and those chosen before it in flight for ever
                    _log.failure("a batch of {topic} could not be encoded", topic=lane.topic)
                    self._fail(lane, batch, Verdict.REFUSED, Unavailable("the gateway's log says why"))
                    continue
            lane.sent_by = self
            room -= batch.size
            chosen.append((lane, batch))
            topics.setdefault(lane.topic, []).append((lane.partition, batch.data))
            if lane.sendable:
                again.append(lane)
        for lane in again:
            self.ready[lane] = None
        if not chosen:
            return False
        # a lane with all that may be in flight is not ready, and its queue waits all the same
        waits = self.ready or self.pace.behind
        self.waiting_bytes = max(0, self.waiting_bytes - (self._max_request_bytes - room)) if waits else 0
        self._fly(chosen, encode_produce(self.acks, int(self._timeout_seconds * 1000), topics), now)
        return True

    def _fly(self, batches: list[tuple[PartitionLane, QueuedBatch[Pending]]], body: bytes, now: float) -> None:
        flight = Flight(batches, len(body), now)
        self._flew_at = now
        self.flights[flight] = None
        answer = self._pool.request(
            self.node_id,
            PRODUCE,
            PRODUCE_VERSION,
            body,
            timeout_seconds=self._timeout_seconds + ANSWER_GRACE_SECONDS,
            expect_response=self.acks != 0,
        )
        flight.answer = answer
        answer.addCallbacks(self._answered, self._unanswered, (flight,), {}, (flight,), {})
        answer.addErrback(self._broke, flight)

    def abandon(self, flight: Flight) -> None:
        """Waits no longer for an answer: what it carried is of unknown outcome."""
        if flight.answer is not None and not flight.over:
            flight.answer.cancel()

    # --- answers -----------------------------------------------------------------------------------------------

    def _answered(self, body: bytes, flight: Flight) -> None:
        flight.over = True
        self.flights.pop(flight, None)
        self._answered_at = now = self._seconds()
        self._round_trip_seconds += (now - flight.since - self._round_trip_seconds) / 8
        self.pace.answered(flight.size, flight.since, now, self._waiting_and_sent())
        self._patience_seconds = min(max(2 * self._round_trip_seconds, LEAST_PATIENCE_SECONDS), MOST_PATIENCE_SECONDS)
        try:
            written = decode_produced(body) if self.acks else {}
        except MalformedResponse as error:
            for lane, batch in flight.batches:
                self._fail(lane, batch, unclear(batch), OutcomeUnknown(str(error)))
            return
        told: list[tuple[Pending, Outcome]] = []
        for lane, batch in flight.batches:
            found = written.get((lane.topic, lane.partition), _NOT_SAID) if self.acks else _TAKEN
            if found.error and found.error != DUPLICATE_SEQUENCE:
                self._refused(lane, batch, found)
                continue
            items, lost = lane.answered(batch, Verdict.WRITTEN)
            self._written(lane, items, found.base_offset, told)
            told += [(item, OutcomeUnknown("no answer came in time")) for item in lost if not item.settled]
            if lost:
                self._released(sum(item.size for item in lost), len(lost))
            if lane.sendable and lane.sender is not None:
                lane.sender.ready[lane] = None
        for item, outcome in told:
            if not item.settled:
                item.settle(outcome)
        self.flush()

    def _waiting_and_sent(self) -> int:
        return self.waiting_bytes + sum([flight.size for flight in self.flights])

    def wait_seconds(self) -> float:
        """How long a message that is added now will wait for its answer; 0 where the broker is not behind. With nothing
        under way none is: only a publish that is taken brings its connection back.
        """
        if not self.flights:
            return 0.0
        return self.pace.seconds_per_item * self._waiting_and_sent()

    def silent(self, now: float) -> bool:
        """Whether the broker has answered nothing for longer than what is under way explains."""
        oldest = next(iter(self.flights), None)
        if oldest is None:
            return False
        since = max(oldest.since, self._answered_at)
        return now - since > SILENCE_SECONDS + 2 * self.pace.seconds_per_item * oldest.size

    def _written(
        self, lane: PartitionLane, items: list[Pending], offset: int, told: list[tuple[Pending, Outcome]]
    ) -> None:
        lane.backoff.reset()
        lane.why = None
        partition = lane.partition
        size = 0
        for at, item in enumerate(items, offset):
            size += item.size
            if not item.settled:
                told.append((item, Receipt(partition, at if offset >= 0 else None)))
        self._released(size, len(items))

    def _refused(self, lane: PartitionLane, batch: QueuedBatch[Pending], found: ProduceResult) -> None:
        verdict = verdict_of(found.error, batch, self.acks)
        about = f"{lane.topic} partition {lane.partition}"
        self._fail(lane, batch, verdict, error_for(found.error, about))

    def _fail(self, lane: PartitionLane, batch: QueuedBatch[Pending], verdict: Verdict, error: KatewayError) -> None:
        if verdict not in _NO_BACKOFF:
            lane.not_before = self._seconds() + lane.backoff.next()
        lane.why = type(error), error.detail
        self._failed(lane, batch, verdict, error)
        if lane.sender is not None and lane.sendable:
            lane.sender.ready[lane] = None

    def _unanswered(self, failure: Failure, flight: Flight) -> None:
        flight.over = True
        self.flights.pop(flight, None)
        if failure.check(NeverSent):
            self._greeted = False
            self._all(flight, Verdict.NOT_WRITTEN, Unavailable(failure.getErrorMessage()))
        else:
            if not failure.check(CancelledError):
                self._greeted = False
            self._all(flight, Verdict.UNKNOWN, OutcomeUnknown(_why_unknown(failure)))

    def _all(self, flight: Flight, verdict: Verdict, error: KatewayError) -> None:
        for lane, batch in flight.batches:
            self._fail(lane, batch, verdict, error)

    def _broke(self, failure: Failure, flight: Flight) -> Failure:
        """A fault of ours must not leave callers without an outcome; it goes on to be logged."""
        self.flights.pop(flight, None)
        for lane, batch in flight.batches:
            if batch.in_flight:
                self._fail(lane, batch, Verdict.LOST, OutcomeUnknown(failure.getErrorMessage()))
        return failure


_NOT_SAID = ProduceResult(UNKNOWN_SERVER_ERROR, -1)
_TAKEN = ProduceResult(0, -1)


def _why_unknown(failure: Failure) -> str:
    if failure.check(CancelledError):
        return "the broker did not answer, and another one leads now"
    return failure.getErrorMessage()
