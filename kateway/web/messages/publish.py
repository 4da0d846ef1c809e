"""Publishing over HTTP: ``POST /{version}/topics/{topic}`` to messages, outcomes to 201, 202 or a problem.

Callbacks throughout, because this runs for every request of the hot path.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

import orjson
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.core.access.control import AuthorizedRequest
from kateway.core.gateway import Gateway, Publish
from kateway.core.idempotency import Answered, Use, fingerprint
from kateway.errors import (
    BadRequest,
    InvalidParameter,
    KatewayError,
    LengthRequired,
    OutcomeUnknown,
    UnsupportedMediaType,
)
from kateway.model import HandedOff, Headers, Message, Receipt
from kateway.observe.tracing import Trace, Tracing
from kateway.storage.interface import Outcome
from kateway.web import params
from kateway.web.exchange import JSON, Exchange, Request, Response
from kateway.web.formats import frames, jsonarray, ndjson
from kateway.web.messages import paths, queries
from kateway.web.messages.admission import Admission
from kateway.web.messages.content_coding import Decode, decoder
from kateway.web.messages.publish_counts import PublishCounts
from kateway.web.messages.response_body import KEPT
from kateway.web.messages.traces import began, code_of, entered, publish_failed, published
from kateway.web.problems import problem, problem_object, problem_of

_BATCH_FORMS = {jsonarray.MEDIA_TYPE: jsonarray.parse, ndjson.MEDIA_TYPE: ndjson.parse, frames.MEDIA_TYPE: frames.parse}
MOST_EQUAL_PROBLEMS = 1000
_log = Logger()
_CREATED = b'{"partition":%d,"offset":%d}'
_CREATED_HEADERS = (
    b"Content-Type: application/json\r\nX-Partition: %d\r\nX-Offset: %d\r\nLocation: %b?partition=%d&offset=%d\r\n"
)
HANDED_OFF = (b"Kateway-Handoff", b"stored")
_TAKEN = b'{"partition":%d,"offset":null}'


class PublishQuery(NamedTuple):
    """What a publish's head asks for, query and headers together."""

    query: queries.PublishQuery
    key: bytes | None
    acks: int
    headers: Headers
    timestamp: int | None
    decode: Decode | None
    """Undoes the body's ``Content-Encoding``; ``None`` where it has none."""
    idempotency: str | None


class PublishEdge:
    """Turns publish requests into messages and outcomes into responses."""

    def __init__(
        self,
        gateway: Gateway,
        admission: Admission,
        max_body_bytes: int,
        counts: PublishCounts | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing or Tracing()
        self._gateway = gateway
        self._admission = admission
        self.max_body_bytes = max_body_bytes
        """Of a body that is decoded; a reload may change it."""
        self._queries = params.Cache(queries.publish_query)
        self._counts = counts

    def handle(  # noqa: PLR0915  # written out: a call less for every request
        self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes
    ) -> None:
        """Publishes and answers. The client going away changes nothing: the outcome is only not told."""
        request = exchange.request
        admission = self._admission
        authorized: AuthorizedRequest | None = None
        tracer = self._tracing.tracer
        trace = None if tracer is None else began(tracer, "publish", request)
        try:
            authorized = admission.enter(exchange, "publish", path)
            if trace is not None:
                entered(trace, authorized, request)
            head = request.head
            asked: PublishQuery | None = None if head is None else head.memo.get(self)
            if asked is None:
                asked = self._asked(request, raw_query)
                if head is not None:
                    head.memo[self] = asked
            query, key, acks, headers, timestamp, decode, idempotency = asked
            body = request.body if decode is None else decode(request.body, self.max_body_bytes)
            if query.batch or query.tombstone:
                messages = messages_of(request, asked, body)
            else:
                messages = (Message(body, key, headers, query.partition, timestamp),)
            if authorized.permission is not None:
                admission.count_publish(exchange, authorized, messages)
            publish = Publish(
                authorized.place,
                messages,
                acks,
                request.received + query.timeout,
                query.retries,
                request.received,
                query.handoff,
                authorized.principal.application,
                admission.transforms.incoming(authorized.registered) if admission.transforms.any_topic else None,
            )
            if idempotency is not None:
                publishing = self._once(exchange, authorized, path, publish, query.batch, idempotency, trace)
            else:
                if trace is not None:
                    publish = publish._replace(messages=trace.carried(messages))
                    trace.step()
                exchange.asks_store()
                publishing = self._gateway.publish_batch(publish) if query.batch else self._gateway.publish(publish)
        except Exception as error:
            if admission.audit.publishes:
                admission.record_failed(exchange, "publish", path, authorized, error)
            if self._counts is not None:
                self._counts.refused(authorized, error)
            if trace is not None:
                trace.end(code_of(error))
            exchange.respond(problem(error, request.id))
            return
        if trace is not None:
            publishing.addCallbacks(published, publish_failed, (trace,), {}, (trace,), {})
        counts = self._counts
        if counts is None:
            publishing.addCallback(_answer_batch if query.batch else _answer, exchange)
            publishing.addErrback(_fail, exchange)
        else:
            if idempotency is not None:
                # counted when it is known whether it was replayed
                publishing.addCallback(_answer_batch if query.batch else _answer, exchange)
            elif query.batch:
                publishing.addCallback(_count_batch, exchange, counts, authorized, messages)
            else:
                publishing.addCallback(_count, exchange, counts, authorized, messages)
            publishing.addErrback(_count_failure, exchange, counts, authorized, messages)
        if admission.audit.publishes:
            publishing.addBoth(self._record, exchange, authorized)

    def patience(self, request: Request) -> float:
        """Returns for how many seconds a request's client waits: a publish's ``timeout``; infinite for others, which
        are answered late rather than not, and for what is no sound publish.
        """
        if request.method != b"POST":
            return inf
        asked: PublishQuery | None = None if request.head is None else request.head.memo.get(self)
        if asked is not None:
            return asked.query.timeout
        try:
            return self._queries(request.target.partition(b"?")[2]).timeout
        except KatewayError:
            return inf

    def _asked(self, request: Request, raw_query: bytes) -> PublishQuery:
        return publish_query(request, self._queries(raw_query))

    def _once(
        self,
        exchange: Exchange,
        authorized: AuthorizedRequest,
        path: paths.TopicPath,
        publish: Publish,
        batch: bool,
        key: str,
        trace: Trace | None,
    ) -> Deferred[list[Outcome]]:
        """Publishes under an idempotency key, to its end though the client goes."""

        def answered(found: Answered) -> list[Outcome]:
            if self._counts is not None:
                if found.replayed:
                    self._counts.replayed(authorized.place.cluster)
                else:
                    self._counts.answered(authorized, publish.messages, found.outcomes)
            if found.replayed:
                exchange.extra_headers = (*exchange.extra_headers, (b"Idempotency-Replayed", b"true"))
            return found.outcomes

        asked = fingerprint(publish.messages, publish.acks, batch)
        if trace is not None:
            # behind the fingerprint: a repeat is of another trace
            publish = publish._replace(messages=trace.carried(publish.messages))
            trace.step()
        use = Use(authorized.principal.application, path.topic, path.version, key, asked)
        exchange.asks_store()
        return Deferred.fromCoroutine(self._gateway.publish_once(use, publish, batch=batch)).addCallback(answered)

    def _record(self, error: KatewayError | None, exchange: Exchange, authorized: AuthorizedRequest) -> None:
        self._admission.record(exchange, authorized, "publish", error)


def publish_query(request: Request, query: queries.PublishQuery) -> PublishQuery:
    """Adds a request's headers to its query. ``Contradiction``, ``InvalidParameter``, ``LengthRequired``."""
    given = queries.publish_headers(request.headers)
    if not request.body and not _has_length(request):
        raise LengthRequired("give the record as body, with its Content-Length (0 for an empty record)")
    acks = queries.agreed("ack", query.acks, given.acks)
    key = queries.agreed("key", query.key, given.key)
    timestamp = queries.agreed("timestamp", query.timestamp, given.timestamp)
    if query.tombstone and query.batch:
        raise InvalidParameter("tombstone is for single records: in a batch a record's value is null")
    decode = decoder(request.headers)
    if given.idempotency is not None and acks == 0:
        raise InvalidParameter("an Idempotency-Key needs an acknowledgement: leave ack=0 out")
    return PublishQuery(query, key, -1 if acks is None else acks, given.headers, timestamp, decode, given.idempotency)


def messages_of(request: Request, asked: PublishQuery, body: bytes) -> Sequence[Message]:
    """Reads the messages of a body that was decoded: one, a tombstone, or a batch's. ``MalformedBatch``."""
    query = asked.query
    if query.batch:
        messages = _batch(request, body, asked.key, query.partition, asked.headers)
        return messages if asked.timestamp is None else dated(messages, asked.timestamp)
    if query.tombstone:
        return (tombstone(body, asked.key, asked.headers, query.partition, asked.timestamp),)
    return (Message(body, asked.key, asked.headers, query.partition, asked.timestamp),)


def dated(messages: Sequence[Message], timestamp: int) -> Sequence[Message]:
    """Gives a timestamp to the messages that have none of their own."""
    return [each if each.timestamp is not None else each._replace(timestamp=timestamp) for each in messages]


def tombstone(
    body: bytes, key: bytes | None, headers: Headers, partition: int | None, timestamp: int | None
) -> Message:
    """A message without a value, which deletes its key from a compacted topic."""
    if body:
        raise BadRequest("a tombstone has no value: send an empty body")
    if key is None:
        raise BadRequest("a tombstone needs the key that it deletes")
    return Message(None, key, tuple(header for header in headers if header[0] != "content-type"), partition, timestamp)


def _has_length(request: Request) -> bool:
    return any(name in {b"content-length", b"transfer-encoding"} for name, _value in request.headers)


def _batch(
    request: Request, body: bytes, key: bytes | None, partition: int | None, headers: Headers
) -> Sequence[Message]:
    content_type = request.header(b"content-type") or b""
    parse = _BATCH_FORMS.get(content_type.partition(b";")[0].strip().lower())
    if parse is None:
        raise UnsupportedMediaType("a batch is one of " + ", ".join(sorted(form.decode() for form in _BATCH_FORMS)))
    # the request's Content-Type says how the batch is written, nothing of a record in it
    return parse(body, key, partition, tuple(header for header in headers if header[0] != "content-type"))


def _answer(outcomes: list[Outcome], exchange: Exchange) -> KatewayError | None:
    """Answers one message's publish; gives the error, for the audit."""
    outcome = outcomes[0]
    if isinstance(outcome, KatewayError):
        exchange.respond(problem(outcome, exchange.request.id))
        return outcome
    if isinstance(outcome, HandedOff):
        exchange.respond(Response(202, (JSON, HANDED_OFF), KEPT))
        return None
    partition, offset = outcome
    if offset is None:
        exchange.respond(Response(202, (JSON, (b"X-Partition", b"%d" % partition)), _TAKEN % partition))
        return None
    path = exchange.request.target.partition(b"?")[0]
    exchange.respond_with(
        201, _CREATED_HEADERS % (partition, offset, path, partition, offset), _CREATED % (partition, offset)
    )
    return None


def _count(
    outcomes: list[Outcome],
    exchange: Exchange,
    counts: PublishCounts,
    authorized: AuthorizedRequest,
    messages: Sequence[Message],
) -> KatewayError | None:
    """Counts one message's publish and answers it."""
    counted = authorized.counted
    topic, cluster = counted.topic, counted.cluster
    if outcomes[0].__class__ is Receipt and topic is not None and cluster is not None and topic.live:
        # by far the most are: written out, a call less for every request
        message = messages[0]
        topic.records.value += 1
        counted.producer.value += 1
        topic.bytes.value += len(message.value or b"") + len(message.key or b"")
        batch = cluster.batch
        batch.counts[0] += 1
        batch.total += 1.0
    else:
        counts.answered(authorized, messages, outcomes)
    return _answer(outcomes, exchange)


def _count_batch(
    outcomes: list[Outcome],
    exchange: Exchange,
    counts: PublishCounts,
    authorized: AuthorizedRequest,
    messages: Sequence[Message],
) -> KatewayError | None:
    """Counts a batch and answers it."""
    counts.answered(authorized, messages, outcomes)
    return _answer_batch(outcomes, exchange)


def _count_failure(
    failure: Failure,
    exchange: Exchange,
    counts: PublishCounts,
    authorized: AuthorizedRequest,
    messages: Sequence[Message],
) -> KatewayError:
    """Answers a publish that failed as a whole, and counts it."""
    error = _fail(failure, exchange)
    counts.refused(authorized, error, len(messages))
    return error


def _answer_batch(outcomes: list[Outcome], exchange: Exchange) -> KatewayError | None:
    response, worst = batch_response(outcomes, exchange.request.id)
    exchange.respond(response)
    return worst


def batch_response(outcomes: Sequence[Outcome], request_id: str) -> tuple[Response, KatewayError | None]:
    """Answers a batch, and gives its worst error. The status is that of the worst failure; a batch that was written
    whole is 201, or 202 without acks or where some of it is kept in the handoff. One of many records that is refused
    as a whole gets one problem: a hundred thousand would take 25 MB.
    """
    first = outcomes[0] if outcomes else None
    if (
        len(outcomes) > MOST_EQUAL_PROBLEMS
        and isinstance(first, KatewayError)
        and all(each is first for each in outcomes)
    ):
        return problem(first, request_id), first
    worst: KatewayError | None = None
    taken = kept = False
    results: list[Any] = []
    for outcome in outcomes:
        if isinstance(outcome, Receipt):
            taken = taken or outcome.offset is None
            results.append({"partition": outcome.partition, "offset": outcome.offset})
        elif isinstance(outcome, HandedOff):
            kept = True
            results.append({"handoff": "stored"})
        else:
            results.append(problem_object(outcome, request_id))
            if worst is None or _badness(outcome) > _badness(worst):
                worst = outcome
    body = orjson.dumps({"results": results})
    handed_off = (HANDED_OFF,) if kept else ()
    if worst is None:
        return Response(202 if taken or kept else 201, (JSON, *handed_off), body), None
    headers = problem(worst, request_id).headers
    retry = tuple(header for header in headers if header[0].lower() != b"content-type")
    return Response(worst.status, (JSON, *handed_off, *retry), body), worst


def _badness(error: KatewayError) -> tuple[bool, int]:
    """An unknown outcome is the worst, as it asks most of the client; then by status."""
    return error.maybe_written, error.status


def _fail(failure: Failure, exchange: Exchange) -> KatewayError:
    if failure.check(CancelledError):
        # a store that is torn down: whether the message was written is not known
        failure = Failure(OutcomeUnknown("the gateway gave the publish up before the store answered"))
    elif not failure.check(KatewayError):
        _log.failure("a publish failed after it was handed on", failure)
        failure = Failure(OutcomeUnknown("the gateway failed while this was published; its log says why"))
    exchange.respond(problem_of(failure, exchange.request.id))
    return failure.value if isinstance(failure.value, KatewayError) else KatewayError()
