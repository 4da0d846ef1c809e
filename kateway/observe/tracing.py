"""Traces requests: a caller's ``traceparent`` (W3C Trace Context) becomes the parent of a span, which a sink takes.

Spans are plain tuples; what sends them knows OpenTelemetry (``otlp``). Where tracing is off ``Tracing.tracer`` is
``None``, and a request costs a look at it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import NamedTuple, Protocol

from kateway.errors import KatewayError
from kateway.model import HandedOff, Headers, Message, Receipt, Record
from kateway.observe.cells import Histogram

MOST_STATE_BYTES = 512
"""Of ``tracestate``: a longer one is left out, as the recommendation allows (3.3.1.5)."""
MOST_PARENT_BYTES = 256
MOST_LINKS = 32
"""Traces of records that the span of a batch is linked with."""
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?")
_STATE = re.compile(rb"[\x20-\x7e]+")

Attributes = Mapping[str, str | int | bool]


class Context(NamedTuple):
    """A place in a trace, as a caller names it."""

    trace_id: int
    span_id: int
    sampled: bool
    state: str
    text: bytes
    """As it came."""


def context_of(parent: bytes | None, state: bytes | None = None) -> Context | None:
    """Reads ``traceparent`` and ``tracestate``; ``None`` where the first is missing or malformed, several included."""
    if parent is None or len(parent) > MOST_PARENT_BYTES:
        return None
    found = _PARENT.fullmatch(parent)
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    trace_id, span_id = int(trace, 16), int(span, 16)
    if not trace_id or not span_id:
        return None
    sound = state is not None and len(state) <= MOST_STATE_BYTES and _STATE.fullmatch(state)
    return Context(trace_id, span_id, bool(int(flags, 16) & 1), (state or b"").decode() if sound else "", parent)


class Span(NamedTuple):
    """A span that is over. Times are nanoseconds since the epoch."""

    name: str
    trace_id: int
    span_id: int
    parent_id: int | None
    remote: bool
    """Whether the parent is the caller's."""
    state: str
    start_ns: int
    end_ns: int
    error: str
    """The code of what failed; empty where nothing did."""
    attributes: Attributes
    links: Sequence[Context] = ()


class Sink(Protocol):
    """Takes spans, and never waits."""

    def add(self, span: Span) -> None: ...


class Tracer:
    """Begins traces. ``seconds`` is the reactor's clock, ``wall_ns`` gives nanoseconds since the epoch."""

    def __init__(
        self,
        sample_ratio: float,
        sink: Sink,
        seconds: Callable[[], float],
        wall_ns: Callable[[], int],
        durations: Mapping[str, Histogram],
    ) -> None:
        """``durations``: where the times of requests are counted, by operation: they get a trace as an example."""
        self.sink = sink
        self.wall_ns = wall_ns
        self._ratio = sample_ratio
        self._seconds = seconds
        self._durations = durations
        # seeded by the system, as OpenTelemetry's own: identifiers are no secrets, and a system call costs 0.5 µs
        self._random = Random()

    def begin(self, name: str, context: Context | None, received: float | None = None) -> Trace | None:
        """Begins the trace of a request that came at ``received``, on the reactor's clock; ``None`` where there is
        nothing to do: no caller has a trace, and no new one was drawn.
        """
        if context is None and self._random.random() >= self._ratio:
            return None
        now = self.wall_ns()
        start = now if received is None else now - max(int((self._seconds() - received) * 1e9), 0)
        return Trace(self, name, context, start, exemplary=received is not None)

    def new_id(self, bits: int) -> int:
        """Draws an identifier, never 0."""
        return self._random.getrandbits(bits) or 1

    def example(self, operation: str, seconds: float, trace_id: int) -> None:
        """Keeps a trace as an example of how long requests take."""
        histogram = self._durations.get(operation)
        if histogram is not None:
            histogram.keep_example(seconds, f"{trace_id:032x}", self.wall_ns() / 1e9)


class Trace:
    """One request under way. Where its caller does not sample it, it only hands the caller's context on."""

    __slots__ = (
        "_began_ns",
        "_context",
        "_name",
        "_phase_ns",
        "_phases",
        "_span_id",
        "_trace_id",
        "_tracer",
        "attributes",
        "exemplary",
        "sampled",
    )

    def __init__(self, tracer: Tracer, name: str, context: Context | None, start_ns: int, *, exemplary: bool) -> None:
        self.exemplary = exemplary
        """Whether it takes as long as the request does: not so of a message on a socket, nor of a batch of a stream."""
        self._tracer = tracer
        self._name = name
        self._context = context
        self.sampled = context is None or context.sampled
        self._trace_id = tracer.new_id(128) if context is None else context.trace_id
        self._span_id = tracer.new_id(64)
        self._began_ns = start_ns
        self._phase_ns = tracer.wall_ns()
        self._phases: list[tuple[str, int, int]] = []
        self.attributes: dict[str, str | int | bool] = {}

    @property
    def headers(self) -> Headers:
        """The headers that records carry: the caller's own context, or that of the span where there is none."""
        context = self._context
        if context is None:
            return (("traceparent", b"00-%032x-%016x-01" % (self._trace_id, self._span_id)),)
        if context.state:
            return ("traceparent", context.text), ("tracestate", context.state.encode())
        return (("traceparent", context.text),)

    def carried(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Gives the context to messages that have none of their own."""
        added = self.headers
        return [
            message
            if any(name == "traceparent" for name, _ in message.headers)
            else message._replace(headers=(*message.headers, *added))
            for message in messages
        ]

    def phase(self, name: str) -> None:
        """Ends a step of the request, which began where the last one ended; it becomes a span below the request's."""
        now = self._tracer.wall_ns()
        if self.sampled:
            self._phases.append((name, self._phase_ns, now))
        self._phase_ns = now

    def step(self) -> None:
        """Begins a step: what was since the last one belongs to none."""
        self._phase_ns = self._tracer.wall_ns()

    def published(self, outcomes: Sequence[Receipt | HandedOff | KatewayError]) -> None:
        """Ends a publish, by its outcomes."""
        self.phase("store")
        worst = next((each for each in outcomes if isinstance(each, KatewayError)), None)
        if any(isinstance(each, HandedOff) for each in outcomes):
            self.attributes["kateway.handoff"] = True
        self.end("" if worst is None else worst.code)

    def end(self, error: str = "", links: Sequence[Context] = ()) -> None:
        """Ends the request: its span and those below it are handed on. It may go on as one batch after another."""
        if not self.sampled:
            return
        tracer, sink, context = self._tracer, self._tracer.sink, self._context
        now = tracer.wall_ns()
        parent = None if context is None else context.span_id
        state = "" if context is None else context.state
        sink.add(
            Span(
                self._name,
                self._trace_id,
                self._span_id,
                parent,
                parent is not None,
                state,
                self._began_ns,
                now,
                error,
                dict(self.attributes),
                links,
            )
        )
        for name, start, end in self._phases:
            child = tracer.new_id(64)
            sink.add(Span(name, self._trace_id, child, self._span_id, False, state, start, end, "", {}))
        self._phases.clear()
        if self.exemplary:
            tracer.example(self._name, (now - self._began_ns) / 1e9, self._trace_id)


class BatchTraces:
    """Traces the batches of one subscription, each a span below the request's caller."""

    def __init__(self, tracing: Tracing, context: Context | None, first: Trace | None, attributes: Attributes) -> None:
        """``first``: the trace of the request itself, which its first batch ends."""
        self._tracing = tracing
        self._context = context
        self._first = first
        self._attributes = attributes

    def began(self) -> Trace | None:
        """Begins a batch's span; ``None`` where there is none."""
        trace, self._first = self._first, None
        if trace is None:
            tracer = self._tracing.tracer
            trace = None if tracer is None else tracer.begin("subscribe", self._context)
        return trace if trace is not None and trace.sampled else None

    def sent(self, trace: Trace, partition: int, records: Sequence[Record]) -> None:
        """Ends a batch's span behind its write, linked with the traces of its records."""
        trace.attributes.update(self._attributes)
        trace.attributes["messaging.destination.partition.id"] = str(partition)
        trace.attributes["messaging.batch.message_count"] = len(records)
        trace.attributes["kateway.offset"] = records[0].offset
        trace.end(links=contexts_of(records))


def contexts_of(records: Sequence[Record]) -> list[Context]:
    """Returns the traces of records, so many at most."""
    found: list[Context] = []
    for record in records:
        for name, value in record.headers:
            if name == "traceparent" and len(found) < MOST_LINKS:
                context = context_of(value)
                if context is not None:
                    found.append(context)
    return found


class Tracing:
    """Holds the tracer of now, which a reload changes, and counts the spans that were lost."""

    def __init__(self) -> None:
        self.tracer: Tracer | None = None
        """``None`` while nothing is traced."""
        self.dropped: dict[str, int] = {"queue": 0, "export": 0}
        """Spans by why they were lost: no room for more to wait, or the receiver did not take them."""
