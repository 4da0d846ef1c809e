"""Begins and ends the traces of requests, for the edges that publish, deliver and acknowledge."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from kateway.core.access.control import AuthorizedRequest
from kateway.errors import KatewayError
from kateway.model import Record
from kateway.observe.tracing import MOST_LINKS, BatchTraces, Context, Trace, Tracer, Tracing, context_of, contexts_of
from kateway.storage.interface import Outcome
from kateway.web.exchange import Request


def context(request: Request) -> Context | None:
    """Returns where in a trace the caller is; ``None`` where it does not say, or not soundly."""
    parent = request.listed(b"traceparent")
    return None if parent is None else context_of(parent, request.listed(b"tracestate"))


def began(tracer: Tracer, name: str, request: Request) -> Trace | None:
    """Begins the trace of a request, from its first byte on."""
    return tracer.begin(name, context(request), request.received)


def entered(trace: Trace, authorized: AuthorizedRequest, request: Request) -> None:
    """Notes that the request was let in, and what it asks for."""
    trace.phase("authorise")
    describe(trace, authorized, request.id)


def describe(trace: Trace, authorized: AuthorizedRequest, request_id: str) -> None:
    """Says what a request is about: never a key or a secret."""
    if not trace.sampled:
        return
    owner, topic, version = authorized.registered
    attributes = trace.attributes
    attributes["messaging.system"] = "kateway"
    attributes["messaging.destination.name"] = topic
    attributes["kateway.owner"] = owner
    attributes["kateway.version"] = version
    attributes["kateway.application"] = authorized.principal.application
    attributes["kateway.request_id"] = request_id
    if authorized.asked.group is not None:
        attributes["messaging.consumer.group.name"] = authorized.asked.group


def batches(tracing: Tracing, request: Request, authorized: AuthorizedRequest, trace: Trace | None) -> BatchTraces:
    """Traces what a subscription is sent; ``trace`` is that of its request."""
    attributes: dict[str, str | int | bool] = {} if trace is None else dict(trace.attributes)
    if not attributes:
        attributes["messaging.destination.name"] = authorized.registered[1]
        attributes["kateway.request_id"] = request.id
    return BatchTraces(tracing, context(request), trace, attributes)


def published(outcomes: list[Outcome], trace: Trace) -> list[Outcome]:
    """Ends a publish's trace with its outcomes."""
    trace.published(outcomes)
    return outcomes


def publish_failed(failure: Failure, trace: Trace) -> Failure:
    """Ends the trace of a publish that failed as a whole."""
    trace.phase("store")
    trace.end(code_of(failure.value))
    return failure


def acknowledged(trace: Trace, outcomes: Sequence[KatewayError | None]) -> None:
    """Ends the trace of acknowledgements."""
    trace.phase("store")
    trace.attributes["messaging.batch.message_count"] = len(outcomes)
    trace.end(next((each.code for each in outcomes if each is not None), ""))


def code_of(error: BaseException | None) -> str:
    """Returns the code of an error, for a span."""
    if isinstance(error, KatewayError):
        return error.code
    return "client-gone" if isinstance(error, CancelledError) else KatewayError.code


class Refused:
    """A context in which a request that is refused ends its trace."""

    def __init__(self, trace: Trace | None) -> None:
        self._trace = trace

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self._trace is not None and error is not None:
            self._trace.end(code_of(error))


class Ended:
    """A context behind which a trace of acknowledgements, if there is one, has ended; ``outcomes`` are set in it."""

    def __init__(self, trace: Trace | None) -> None:
        self.outcomes: list[KatewayError | None] = []
        self._trace = trace
        if trace is not None:
            trace.step()

    def __enter__(self) -> Ended:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        trace = self._trace
        if trace is None:
            return
        if error is None:
            acknowledged(trace, self.outcomes)
        else:
            trace.end(code_of(error))


class ReadEnded:
    """A context behind which the trace of a read without a group, if there is one, has ended, linked with the traces of
    the records that it gave.
    """

    def __init__(self, trace: Trace | None) -> None:
        self._trace = trace
        self._count = 0
        self._links: list[Context] = []

    def came(self) -> None:
        """The first records are there, or none came."""
        if self._trace is not None:
            self._trace.phase("store")

    def took(self, records: Sequence[Record]) -> None:
        """Notes records that are given."""
        if self._trace is not None:
            self._count += len(records)
            if len(self._links) < MOST_LINKS:
                self._links += contexts_of(records)[: MOST_LINKS - len(self._links)]

    def __enter__(self) -> ReadEnded:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self._trace is not None:
            self._trace.attributes["messaging.batch.message_count"] = self._count
            self._trace.end("" if error is None else code_of(error), self._links)
