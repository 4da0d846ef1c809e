"""Contexts that are taken and ignored, and the spans that requests become."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from kateway.errors import TopicNotFound
from kateway.model import HandedOff, Message, Receipt, Record
from kateway.observe import families
from kateway.observe.render import openmetrics, text
from kateway.observe.series import Series
from kateway.observe.tracing import MOST_LINKS, BatchTraces, Context, Span, Tracer, Tracing, context_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01".encode()
UNSAMPLED = PARENT[:-1] + b"0"


class Kept:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def add(self, span: Span) -> None:
        self.spans.append(span)


class Traced:
    """A tracer whose clocks stand until they are moved."""

    def __init__(self, ratio: float = 0.0) -> None:
        self.now = 1000.0
        self.kept = Kept()
        self.series = Series(lambda: self.now, max_series=1000)
        duration = self.series.histogram(families.HTTP_DURATION, ("publish",))
        self.tracing = Tracing()
        self.tracer = self.tracing.tracer = Tracer(
            ratio, self.kept, lambda: self.now, lambda: int(self.now * 1e9), {"publish": duration}
        )


def test_sound_context_is_read() -> None:
    found = context_of(PARENT, b"a=1, b=2")
    assert found == Context(int(TRACE, 16), int(SPAN, 16), True, "a=1, b=2", PARENT)
    assert context_of(UNSAMPLED) == Context(int(TRACE, 16), int(SPAN, 16), False, "", UNSAMPLED)


@pytest.mark.parametrize(
    "parent",
    [
        None,
        b"",
        PARENT + b"-x",
        PARENT.upper(),
        b"ff" + PARENT[2:],
        PARENT + b", " + PARENT,
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01",
        b"01" + PARENT[2:] + b"-" + b"x" * 1000,
        b"01" + PARENT[2:] + b"x",
    ],
)
def test_malformed_context_is_ignored(parent: bytes | None) -> None:
    assert context_of(parent, b"a=1") is None


def test_context_of_a_later_version_may_be_longer() -> None:
    found = context_of(b"01" + PARENT[2:] + b"-more")
    assert found is not None
    assert found.sampled


@pytest.mark.parametrize("state", [b"a" * 513, b"a\xff", b""])
def test_state_that_is_too_long_or_not_ascii_is_left_out(state: bytes) -> None:
    found = context_of(PARENT, state)
    assert found is not None
    assert found.state == ""


@given(st.binary(max_size=100), st.binary(max_size=600))
def test_any_bytes_are_read_or_ignored(parent: bytes, state: bytes) -> None:
    context_of(parent, state)


def test_publish_becomes_a_span_below_its_caller_with_its_steps_below_it() -> None:
    traced = Traced()
    trace = traced.tracer.begin("publish", context_of(PARENT, b"a=1"), 999.5)
    assert trace is not None
    traced.now += 0.1
    trace.phase("authorise")
    traced.now += 0.1
    trace.step()
    traced.now += 0.2
    trace.published([Receipt(0, 1), HandedOff(1)])
    publish, authorise, store = traced.kept.spans
    assert (publish.name, publish.parent_id, publish.remote) == ("publish", int(SPAN, 16), True)
    assert (publish.state, publish.error) == ("a=1", "")
    assert publish.attributes["kateway.handoff"] is True
    assert (publish.end_ns - publish.start_ns) / 1e9 == pytest.approx(0.9)
    assert [(each.name, each.parent_id, each.remote) for each in (authorise, store)] == [
        ("authorise", publish.span_id, False),
        ("store", publish.span_id, False),
    ]
    assert (authorise.end_ns - authorise.start_ns) / 1e9 == pytest.approx(0.1)
    assert (store.end_ns - store.start_ns) / 1e9 == pytest.approx(0.2)
    assert {each.trace_id for each in traced.kept.spans} == {int(TRACE, 16)}


def test_publish_that_fails_names_its_error() -> None:
    traced = Traced()
    trace = traced.tracer.begin("publish", context_of(PARENT))
    assert trace is not None
    trace.published([Receipt(0, 1), TopicNotFound("t")])
    assert traced.kept.spans[0].error == TopicNotFound.code


def test_context_that_is_not_sampled_is_handed_on_and_makes_no_span() -> None:
    traced = Traced(ratio=1.0)
    trace = traced.tracer.begin("publish", context_of(UNSAMPLED))
    assert trace is not None
    assert trace.headers == (("traceparent", UNSAMPLED),)
    trace.phase("authorise")
    trace.published([Receipt(0, 1)])
    assert traced.kept.spans == []


def test_request_without_a_context_is_traced_by_ratio() -> None:
    assert Traced(ratio=0.0).tracer.begin("publish", None) is None
    traced = Traced(ratio=1.0)
    trace = traced.tracer.begin("publish", None)
    assert trace is not None
    trace.end()
    (span,) = traced.kept.spans
    assert (span.parent_id, span.remote) == (None, False)
    ((_, value),) = trace.headers
    assert context_of(value) == Context(span.trace_id, span.span_id, True, "", value)


def test_record_that_has_a_context_keeps_it() -> None:
    trace = Traced().tracer.begin("publish", context_of(PARENT, b"a=1"))
    assert trace is not None
    own = Message(b"x", headers=(("traceparent", b"own"),))
    bare, kept = trace.carried([Message(b"y", headers=(("h", b"1"),)), own])
    assert bare.headers == (("h", b"1"), ("traceparent", PARENT), ("tracestate", b"a=1"))
    assert kept is own


def test_batches_are_spans_linked_with_their_records_up_to_a_bound() -> None:
    traced = Traced()
    context = context_of(PARENT)
    first = traced.tracer.begin("subscribe", context, 990.0)
    assert first is not None
    first.phase("authorise")
    batches = BatchTraces(traced.tracing, context, first, {"messaging.destination.name": "t"})
    records = [Record(7 + n, 0, None, b"v", (("traceparent", PARENT), ("x", b"1"))) for n in range(MOST_LINKS + 5)]
    for partition in (0, 1):
        trace = batches.began()
        assert trace is not None
        batches.sent(trace, partition, records)
    names = [(span.name, span.attributes.get("messaging.destination.partition.id")) for span in traced.kept.spans]
    assert names == [("subscribe", "0"), ("authorise", None), ("subscribe", "1")]
    assert traced.kept.spans[0].attributes["kateway.offset"] == 7
    assert len(traced.kept.spans[0].links) == MOST_LINKS
    assert traced.kept.spans[2].start_ns == traced.now * 1e9
    traced.tracing.tracer = None
    assert batches.began() is None


@pytest.mark.parametrize("seconds", [0.0, 0.02, 1000.0])
def test_traced_request_is_the_exemplar_of_its_bucket_in_openmetrics_alone(seconds: float) -> None:
    traced = Traced()
    histogram = traced.series.histogram(families.HTTP_DURATION, ("publish",))
    histogram.observe(seconds)
    trace = traced.tracer.begin("publish", context_of(PARENT), traced.now - seconds)
    assert trace is not None
    trace.end()
    samples = [(families.HTTP_DURATION, [(("publish",), histogram)])]
    (family,) = parse_openmetrics(b"".join(openmetrics(samples)).decode())
    (found,) = [sample for sample in family.samples if sample.exemplar is not None]
    assert found.exemplar is not None
    assert found.exemplar.labels == {"trace_id": TRACE}
    assert found.exemplar.value == pytest.approx(seconds)
    assert found.exemplar.value <= float(found.labels["le"])
    assert float(found.exemplar.timestamp or 0) == 1000.0
    assert b"trace_id" not in b"".join(text(samples))
