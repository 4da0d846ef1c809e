"""Publishing over a WebSocket: each message a record, each answered in order by a receipt or a problem."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import orjson
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.core.access.control import AuthorizedRequest
from kateway.core.gateway import Gateway, Publish
from kateway.errors import InvalidParameter, KatewayError
from kateway.model import HandedOff, Headers, Message, Receipt
from kateway.observe.tracing import Tracing
from kateway.storage.interface import Outcome
from kateway.web import params
from kateway.web.exchange import Exchange
from kateway.web.formats.jsonrecord import loads
from kateway.web.formats.jsonrecord import message as record_of
from kateway.web.http1.websocket import GOING_AWAY, POLICY, TEXT, Socket, accept
from kateway.web.messages import paths, queries
from kateway.web.messages.admission import Admission
from kateway.web.messages.publish_counts import PublishCounts
from kateway.web.messages.response_body import KEPT
from kateway.web.messages.traces import context, describe, publish_failed, published
from kateway.web.problems import problem, problem_object

_goes_on = Logger().failureHandler("a socket broke when it was to end; the others end")

MAX_UNANSWERED = 1000
"""Messages of one socket on their way; beyond that no more is read from it."""


class _Slot:
    """A message's place in the order of answers."""

    __slots__ = ("answer", "messages")

    def __init__(self) -> None:
        self.answer: bytes | None = None
        self.messages: tuple[Message, ...] = ()
        """The message, once it is known to be one; until it has its outcome."""


class SocketPublishEdge:
    """Turns upgrades of a topic's path into sockets that publish."""

    def __init__(
        self,
        gateway: Gateway,
        admission: Admission,
        clock: IReactorTime,
        max_message_bytes: int,
        counts: PublishCounts | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing or Tracing()
        self._gateway = gateway
        self._admission = admission
        self._clock = clock
        self.max_message_bytes = max_message_bytes
        """Of a message; a reload may change it."""
        self._queries = params.Cache(queries.publish_query)
        self._sockets: set[PublishSocket] = set()
        self._draining = False
        self._counts = counts

    def handle(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> None:
        """Answers 101, or why not. The request's query and headers are the messages' defaults."""
        request = exchange.request
        authorized: AuthorizedRequest | None = None
        try:
            authorized = self._enter(exchange, path)
            query = self._queries(raw_query)
            given = queries.publish_headers(request.headers)
            if query.batch or query.tombstone:
                raise InvalidParameter("over a WebSocket each message is one record, one with a null value a tombstone")
            if given.idempotency is not None:
                raise InvalidParameter("an Idempotency-Key is for one request: over a WebSocket leave it out")
            acks = queries.agreed("ack", query.acks, given.acks)
            defaults = Defaults(
                authorized,
                queries.agreed("key", query.key, given.key),
                query.partition,
                given.headers,
                -1 if acks is None else acks,
                query.timeout,
                query.retries,
                query.handoff,
                queries.agreed("timestamp", query.timestamp, given.timestamp),
            )
            socket = accept(exchange, (), self.max_message_bytes)
        except Exception as error:
            if self._counts is not None:
                self._counts.refused(authorized, error)
            exchange.respond(problem(error, request.id))
            return
        publisher = PublishSocket(
            socket, self._gateway, self._admission, defaults, exchange, self._clock, self._tracing, self._counts
        )
        release = self._admission.open_streams.hold(authorized, publisher.revoke)

        def gone() -> None:
            self._sockets.discard(publisher)
            release()

        self._sockets.add(publisher)
        publisher.start(gone)
        if self._draining:
            publisher.drain()  # its request had arrived before: left open it would hold the whole drain up

    def _enter(self, exchange: Exchange, path: paths.TopicPath) -> AuthorizedRequest:
        try:
            return self._admission.enter(exchange, "publish", path)
        except Exception as error:
            if self._admission.audit.publishes:
                self._admission.record_refused(exchange, "publish", path, error)
            raise

    def drain(self) -> None:
        """Closes every socket as soon as its messages are answered, also one that begins later."""
        self._draining = True
        for publisher in list(self._sockets):
            with _goes_on:
                publisher.drain()


class Defaults(NamedTuple):
    """Defaults of a socket's messages."""

    authorized: AuthorizedRequest
    key: bytes | None
    partition: int | None
    headers: Headers
    acks: int
    timeout: float
    retries: int
    handoff: bool
    timestamp: int | None


class PublishSocket:
    """One client that publishes: text messages are record objects, binary ones values."""

    def __init__(
        self,
        socket: Socket,
        gateway: Gateway,
        admission: Admission,
        defaults: Defaults,
        exchange: Exchange,
        clock: IReactorTime,
        tracing: Tracing,
        counts: PublishCounts | None = None,
    ) -> None:
        self._tracing = tracing
        self._context = context(exchange.request) if tracing.tracer is not None else None
        """Of the upgrade: the parent of every message."""
        self._socket = socket
        self._counts = counts
        self._gateway = gateway
        self._admission = admission
        self._defaults = defaults
        self._exchange = exchange
        self._request_id = exchange.request.id
        self._clock = clock
        self._slots: deque[_Slot] = deque()
        self._paused = False
        self._leaving = False

    def start(self, gone: Callable[[], None]) -> None:
        self._socket.on_gone(gone)
        self._socket.on_writable(self._answer)
        self._socket.listen(self._message, lambda _payload: None)

    def drain(self) -> None:
        """Takes no more messages and closes once those that came are answered."""
        self._leaving = True
        self._socket.pause()
        self._answer()

    def revoke(self, error: KatewayError) -> None:
        """Ends it because its permission is gone."""
        self._socket.send(TEXT, [orjson.dumps(problem_object(error, self._request_id))])
        self._socket.close(POLICY, error.code)

    def _message(self, message: str | bytes) -> None:
        slot = _Slot()
        self._slots.append(slot)
        publishing = self._publish(message, slot)
        publishing.addCallback(self._written, slot)
        publishing.addErrback(self._failed, slot)
        # a client that does not read its answers is read no further either
        if not self._paused and (len(self._slots) >= MAX_UNANSWERED or not self._socket.writable()):
            self._paused = True
            self._socket.pause()

    def _publish(self, message: str | bytes, slot: _Slot) -> Deferred[list[Outcome]]:
        authorized, key, partition, headers, acks, timeout, retries, handoff, timestamp = self._defaults
        try:
            if isinstance(message, bytes):
                record = Message(message, key, headers, partition, timestamp)
            else:
                element = loads(message, "the message")
                record = record_of(element, "the message", key, partition, headers)
                if record.timestamp is None:
                    record = record._replace(timestamp=timestamp)
            if authorized.permission is not None:
                # as for a request: what the quota has no room for is refused
                self._admission.count_message(authorized, record)
        except Exception:
            # whatever it is: a message without an answer would hold up those behind it
            return fail()
        slot.messages = (record,)
        now = self._clock.seconds()
        application = authorized.principal.application
        incoming = self._admission.transforms.incoming(authorized.registered)
        publish = Publish(
            authorized.place, slot.messages, acks, now + timeout, retries, now, handoff, application, incoming
        )
        tracer = self._tracing.tracer
        trace = None if tracer is None else tracer.begin("publish", self._context)
        if trace is None:
            return self._gateway.publish(publish)
        describe(trace, authorized, self._request_id)
        publishing = self._gateway.publish(publish._replace(messages=trace.carried(slot.messages)))
        return publishing.addCallbacks(published, publish_failed, (trace,), {}, (trace,), {})

    def _written(self, outcomes: list[Outcome], slot: _Slot) -> None:
        outcome = outcomes[0]
        if self._counts is not None:
            self._counts.answered(self._defaults.authorized, slot.messages, outcomes)
        slot.messages = ()
        if self._admission.audit.publishes:
            error = outcome if isinstance(outcome, KatewayError) else None
            self._admission.record(self._exchange, self._defaults.authorized, "publish", error)
        if isinstance(outcome, Receipt):
            slot.answer = orjson.dumps({"partition": outcome.partition, "offset": outcome.offset})
        elif isinstance(outcome, HandedOff):
            slot.answer = KEPT
        else:
            slot.answer = orjson.dumps(problem_object(outcome, self._request_id))
        self._answer()

    def _failed(self, failure: Failure, slot: _Slot) -> None:
        if self._counts is not None:
            self._counts.refused(self._defaults.authorized, failure.value)
        if self._admission.audit.publishes:
            self._admission.record(self._exchange, self._defaults.authorized, "publish", failure.value)
        slot.answer = orjson.dumps(problem_object(failure.value or KatewayError(), self._request_id))
        self._answer()

    def _answer(self) -> None:
        """Sends every answer whose turn has come, in one write."""
        ready: list[bytes] = []
        while self._slots and self._slots[0].answer is not None:
            ready.append(self._slots.popleft().answer or b"")
        if ready:
            self._socket.send(TEXT, ready)
        if self._leaving:
            if not self._slots:
                self._socket.close(GOING_AWAY)
        elif self._paused and len(self._slots) < MAX_UNANSWERED // 2 and self._socket.writable():
            self._paused = False
            self._socket.resume()
