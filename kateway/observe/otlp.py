"""Sends spans by OTLP over HTTP with OpenTelemetry's SDK, in a thread of its own.

Loaded only where tracing is configured: the SDK takes 0.2 s and some megabytes. What waits is bounded; beyond it, and
where the receiver is away, spans are dropped and counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Thread
from typing import Any, NamedTuple

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.logger import Logger

from kateway.observe.tracing import Context, Span

_log = Logger()
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_BELOW = {"authorise": SpanKind.INTERNAL, "store": SpanKind.CLIENT}


class Plan(NamedTuple):
    """Where spans are sent, and within which bounds."""

    endpoint: str
    """With its path."""
    service_name: str
    timeout_seconds: float
    interval_seconds: float
    """For so long spans wait for others, so that one request takes many."""
    max_queued_spans: int
    max_request_spans: int


class _Resource(Resource):
    """The SDK asks each span for its resource's hash, and works it out by writing JSON: 15 to 40 µs."""

    def __hash__(self) -> int:
        return id(self)


class OtlpSender:
    """The sink of one configuration. ``dropped`` is counted up, by the thread under ``export`` and else ``queue``."""

    def __init__(self, plan: Plan, reactor: Any, resource: dict[str, str], dropped: dict[str, int]) -> None:
        self._plan = plan
        self.timeout_seconds = plan.timeout_seconds
        self._reactor = reactor
        self._dropped = dropped
        self._resource = _Resource({**resource, "service.name": plan.service_name})
        self._scope = InstrumentationScope("kateway")
        self._exporter = OTLPSpanExporter(endpoint=plan.endpoint, timeout=plan.timeout_seconds)
        self._waiting: deque[Span] = deque()
        self._changed = Condition()
        self._stopping = False
        self._ended: Deferred[None] | None = None
        self._reachable = True
        Thread(target=self._run, name="kateway-tracing", daemon=True).start()

    def add(self, span: Span) -> None:
        """Keeps a span until the thread sends it; beyond the bound it is dropped."""
        waiting = self._waiting
        if len(waiting) >= self._plan.max_queued_spans or self._stopping:
            self._dropped["queue"] += 1
            return
        # of one producer and one consumer: a deque needs no lock, and waking costs one
        waiting.append(span)
        if len(waiting) == self._plan.max_request_spans:
            with self._changed:
                self._changed.notify()

    async def stop(self, seconds: float) -> None:
        """Sends what waits, for so long at most or until this is cancelled; the rest is dropped."""
        ended: Deferred[None] = Deferred()
        self._ended = ended
        with self._changed:
            self._stopping = True
            self._changed.notify()
        try:
            await ended.addTimeout(seconds, self._reactor)
        except (TookTooLong, CancelledError):
            self._dropped["queue"] += len(self._waiting)
            self._waiting.clear()
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # ends its wait between two tries

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._stopping and len(self._waiting) < self._plan.max_request_spans:
                    self._changed.wait(self._plan.interval_seconds)
            if self._waiting:
                self._send(self._take())
            elif self._stopping:
                break
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
        self._reactor.callFromThread(self._over)

    def _take(self) -> list[Span]:
        taken: list[Span] = []
        try:
            while len(taken) < self._plan.max_request_spans:
                taken.append(self._waiting.popleft())
        except IndexError:
            pass
        return taken

    def _send(self, spans: Sequence[Span]) -> None:
        try:
            found = self._exporter.export([self._readable(span) for span in spans])
            sent = found is SpanExportResult.SUCCESS
        except Exception:
            # whatever the SDK does: the thread goes on
            sent = False
        if not sent:
            self._dropped["export"] += len(spans)
        if sent is not self._reachable:
            self._reachable = sent
            self._tell(_taken if sent else _away)

    def _tell(self, say: Callable[[str], None]) -> None:
        self._reactor.callFromThread(say, self._plan.endpoint)

    def _readable(self, span: Span) -> ReadableSpan:
        state = TraceState.from_header([span.state]) if span.state else None
        context = SpanContext(span.trace_id, span.span_id, is_remote=False, trace_flags=_SAMPLED, trace_state=state)
        parent = (
            None
            if span.parent_id is None
            else SpanContext(span.trace_id, span.parent_id, is_remote=span.remote, trace_flags=_SAMPLED)
        )
        attributes = {**span.attributes, "error.type": span.error} if span.error else span.attributes
        return ReadableSpan(
            name=span.name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            links=[_link(each) for each in span.links],
            kind=_BELOW.get(span.name, SpanKind.SERVER),
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )

    # --- in the reactor ---------------------------------------------------------------------------------------------

    def _over(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None and not ended.called:
            ended.callback(None)


def _link(context: Context) -> Link:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    return Link(SpanContext(context.trace_id, context.span_id, is_remote=True, trace_flags=flags))


def _away(endpoint: str) -> None:
    _log.warn(
        "spans are dropped: {endpoint} does not take them ([tracing] otlp_endpoint; is the receiver up?)",
        endpoint=endpoint,
    )


def _taken(endpoint: str) -> None:
    _log.info("{endpoint} takes spans again", endpoint=endpoint)
