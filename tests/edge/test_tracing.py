"""Traces through a whole gateway: spans at a real receiver of OTLP, contexts in records, a receiver that is away."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from administered import Administered, Make, prepared
from gateways import Client, RunningGateway, config, eventually, settled
from metrics import metrics, scrape
from otlp import Receiver, attributes
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from test_idempotency_key import records
from test_metrics import LIKE_PROMETHEUS
from twisted.internet import reactor
from twisted.logger import globalLogPublisher
from wsclient import SocketClient
from wsproto.events import Message

from kateway.config.schema import Config, TracingConfig
from kateway.daemon.service import GatewayService
from kateway.daemon.spans import Spans, build_spans
from kateway.errors import ConfigError
from kateway.observe.families import HTTP_DURATION

here = pytest_twisted.ensureDeferred
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
OTHER = f"00-{TRACE[::-1]}-{SPAN}-01"
T = "/v1/topics/t"


@pytest_twisted.async_yield_fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    made.start()
    yield made
    await made.port.stopListening()


def quick(receiver: Receiver, **options: Any) -> TracingConfig:
    given = {"sample_ratio": 0.0, "interval_seconds": 0.05, "timeout_seconds": 1.0} | options
    return TracingConfig(otlp_endpoint=receiver.endpoint, **given)


@pytest_twisted.async_yield_fixture
async def gateway(tmp_path: Path, receiver: Receiver) -> AsyncIterator[RunningGateway]:
    running = RunningGateway(attrs.evolve(config(tmp_path / "data"), tracing=quick(receiver)), "hot")
    await running.start()
    yield running
    await running.stop()


def ids(span: Any) -> tuple[str, str]:
    return span.trace_id.hex(), span.parent_span_id.hex()


async def publish(gateway: RunningGateway, body: bytes = b"a", query: str = "", **headers: str) -> None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await gateway.request("POST", T + query, body, headers=named)
    assert answer.status in {201, 202}, answer.body


@here
async def test_publish_is_a_span_below_its_caller_and_its_record_has_the_context(
    gateway: RunningGateway, receiver: Receiver
) -> None:
    await publish(gateway, traceparent=PARENT, tracestate="v=1", X_Request_Id="r1")
    (span,) = await receiver.until("publish")
    assert ids(span) == (TRACE, SPAN)
    assert span.trace_state == "v=1"
    assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
    about = attributes(span)
    assert (about["messaging.destination.name"], about["kateway.request_id"]) == ("t", "r1")
    children = await receiver.until("store") + await receiver.until("authorise")
    assert {ids(child) for child in children} == {(TRACE, span.span_id.hex())}
    assert receiver.paths[0] == b"/v1/traces"
    assert receiver.resources[0]["service.name"] == "kateway"
    (record,) = await records(gateway)
    assert {"name": "traceparent", "value": PARENT} in record["headers"]
    assert {"name": "tracestate", "value": "v=1"} in record["headers"]


@here
async def test_single_raw_record_has_its_context_as_response_headers(gateway: RunningGateway) -> None:
    await publish(gateway, traceparent=PARENT)
    answer = await gateway.request("GET", f"{T}/g?limit=1")
    assert answer.header("traceparent") == PARENT
    assert answer.header("kateway-header-traceparent") == PARENT


@here
async def test_batch_of_records_is_one_span_and_each_has_the_context_unless_it_has_its_own(
    gateway: RunningGateway, receiver: Receiver
) -> None:
    body = json.dumps([{"value": "a"}, {"value": "b", "headers": [{"name": "traceparent", "value": OTHER}]}]).encode()
    await publish(gateway, body, "?batch=1", traceparent=PARENT, Content_Type="application/json")
    assert len(await receiver.until("publish")) == 1
    found = [[each["value"] for each in record["headers"]] for record in await records(gateway)]
    assert found == [[PARENT], [OTHER]]


@here
async def test_batches_of_a_subscription_are_spans_below_its_caller_linked_with_their_records(
    gateway: RunningGateway, receiver: Receiver
) -> None:
    await publish(gateway, traceparent=OTHER)
    answer = await gateway.request("GET", f"{T}/g?limit=1", headers={"traceparent": PARENT})
    assert answer.status == 200
    (span,) = await receiver.until("subscribe")
    assert ids(span) == (TRACE, SPAN)
    assert attributes(span)["messaging.consumer.group.name"] == "g"
    assert [link.trace_id.hex() for link in span.links] == [TRACE[::-1]]
    authorise = [each for each in await receiver.until("authorise", 2) if each.trace_id.hex() == TRACE]
    assert [ids(each) for each in authorise] == [(TRACE, span.span_id.hex())]


@pytest.mark.parametrize("sync", ["", "?sync=1"])
@here
async def test_acknowledgement_is_a_span_below_its_caller(
    gateway: RunningGateway, receiver: Receiver, sync: str
) -> None:
    await publish(gateway)
    leased = await gateway.request("GET", f"{T}/g?limit=1&ack=explicit")
    item = {"partition": int(leased.header("x-partition") or ""), "offset": int(leased.header("x-offset") or "")}
    answer = await gateway.request("POST", f"{T}/g/acks{sync}", json=[item], headers={"traceparent": PARENT})
    assert answer.json()["results"][0]["status"] == 200
    (span,) = await receiver.until("acknowledge")
    assert ids(span) == (TRACE, SPAN)
    assert {ids(each) for each in receiver.named("store")} == {(TRACE, span.span_id.hex())}


@here
async def test_messages_and_acknowledgements_of_websockets_are_spans_below_the_upgrade(
    gateway: RunningGateway, receiver: Receiver
) -> None:
    publisher = await SocketClient.open(gateway, T, headers={"traceparent": PARENT})
    for text in ('{"value": "a"}', '{"value": "b"}', "no record"):
        publisher.send(Message(text))
    await eventually(lambda: len(publisher.messages()) == 3)
    assert {ids(span) for span in await receiver.until("publish", 2)} == {(TRACE, SPAN)}
    assert len({span.span_id for span in receiver.named("publish")}) == 2
    reader = await SocketClient.open(gateway, f"{T}/g?ack=explicit", headers={"traceparent": PARENT})
    await eventually(lambda: len(reader.messages()) == 2)
    first = json.loads(reader.messages()[0])
    assert first["headers"] == [{"name": "traceparent", "value": PARENT}]
    reader.send(Message(json.dumps([{"partition": first["partition"], "offset": first["offset"]}])))
    (span,) = await receiver.until("acknowledge")
    assert ids(span) == (TRACE, SPAN)
    assert {ids(span) for span in await receiver.until("subscribe")} == {(TRACE, SPAN)}
    publisher.client.close()
    reader.client.close()


@here
async def test_repeat_under_an_idempotency_key_may_be_of_another_trace(
    gateway: RunningGateway, receiver: Receiver
) -> None:
    for parent in (PARENT, OTHER):
        headers = {"Idempotency-Key": "k1", "traceparent": parent}
        answer = await gateway.request("POST", T, b"a", headers=headers)
        assert answer.status == 201
    assert answer.header("idempotency-replayed") == "true"
    (record,) = await records(gateway)
    assert {"name": "traceparent", "value": PARENT} in record["headers"]
    assert {span.trace_id.hex() for span in await receiver.until("publish", 2)} == {TRACE, TRACE[::-1]}


@pytest.mark.parametrize("parent", ["x", f"00-{'0' * 32}-{SPAN}-01", PARENT + "-x"])
@here
async def test_malformed_context_is_ignored(gateway: RunningGateway, receiver: Receiver, parent: str) -> None:
    await publish(gateway, traceparent=parent)
    await publish(gateway, b"b", traceparent=PARENT)
    assert len(await receiver.until("publish")) == 1
    assert [record["headers"] for record in await records(gateway) if record["value"] == "a"] == [[]]


@here
async def test_refused_request_is_a_span_with_its_error(gateway: RunningGateway, receiver: Receiver) -> None:
    answer = await gateway.request("POST", f"{T}?what=1", b"a", headers={"traceparent": PARENT})
    assert answer.status == 400
    (span,) = await receiver.until("publish")
    assert attributes(span)["error.type"] == "unknown-parameter"
    assert receiver.named("store") == []


@here
async def test_refused_subscription_is_a_span_with_its_error(gateway: RunningGateway, receiver: Receiver) -> None:
    await publish(gateway)
    path = f"{T}/g?filter=record.nothing"
    assert (await gateway.request("GET", path, headers={"traceparent": PARENT})).status == 400
    (span,) = await receiver.until("subscribe")
    assert attributes(span)["error.type"] == "invalid-expression"


@here
async def test_durations_have_traces_as_exemplars(gateway: RunningGateway, receiver: Receiver) -> None:
    await publish(gateway, traceparent=PARENT)
    answer = await scrape(gateway, headers={"Accept": LIKE_PROMETHEUS})
    families = {family.name: family for family in parse_openmetrics(answer.body.decode())}
    found = [each for each in families[HTTP_DURATION.name].samples if each.exemplar is not None]
    assert [(each.labels["operation"], each.exemplar.labels) for each in found] == [("publish", {"trace_id": TRACE})]
    assert b"trace_id" not in (await scrape(gateway)).body
    # a message of a socket takes less time than its request, and a stream more
    stream = await Client.connect(gateway.port)
    stream.send(f"GET {T}/g?follow=1 HTTP/1.1\r\nHost: localhost\r\ntraceparent: {OTHER}\r\n\r\n")
    await receiver.until("subscribe")
    assert TRACE[::-1].encode() not in (await scrape(gateway, headers={"Accept": LIKE_PROMETHEUS})).body
    stream.close()


@here
async def test_traces_begin_here_by_ratio_and_name_the_application(make_traced: Any, receiver: Receiver) -> None:
    hot: Administered = await make_traced(sample_ratio=1.0)
    answer = await hot.request("POST", "/v1/topics/foo", b"a", headers=hot.key("app1-pub"))
    assert answer.status == 201
    (span,) = await receiver.until("publish")
    about = attributes(span)
    assert (span.parent_span_id, about["kateway.application"], about["kateway.owner"]) == (b"", "app1", "app1")
    assert "first-secret" not in str(receiver.spans)


@pytest.fixture
def make_traced(administered: Make, receiver: Receiver) -> Any:
    async def make(**options: Any) -> Administered:
        return await prepared(administered(tracing=quick(receiver, **options)))

    return make


# --- the receiver is away, slow, back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["away", "silent", "refusing"])
@here
async def test_receiver_that_takes_nothing_disturbs_no_publish_and_what_waits_is_bounded(
    tmp_path: Path, receiver: Receiver, way: str
) -> None:
    receiver.silent = way == "silent"
    receiver.status = 400
    tracing = quick(receiver, max_queued_spans=20, max_request_spans=5, timeout_seconds=0.3)
    if way == "away":
        await receiver.port.stopListening()
    told: list[Any] = []
    globalLogPublisher.addObserver(told.append)
    running = RunningGateway(attrs.evolve(config(tmp_path / "data"), tracing=tracing), "hot")
    await running.start()
    try:
        for _ in range(100):
            await publish(running, traceparent=PARENT)

        async def lost() -> float:
            found = await metrics(running)
            return sum(found.get("tracing_dropped_total", reason=each) or 0 for each in ("queue", "export"))

        # three spans a publish, and at most 20 wait beside the 5 on their way
        while await lost() < 300 - 25:
            await settled()
    finally:
        await running.stop()
        globalLogPublisher.removeObserver(told.append)
        if way == "away":
            receiver.start()
    # the last request ends in its thread
    await eventually(lambda: sum(running.service.parts.spans.tracing.dropped.values()) == 300)
    warnings = [event for event in told if "spans are dropped" in (event.get("log_format") or "")]
    assert len(warnings) == 1


@here
async def test_spans_that_wait_are_sent_at_the_end(tmp_path: Path, receiver: Receiver) -> None:
    tracing = quick(receiver, interval_seconds=60.0, timeout_seconds=5.0)
    running = RunningGateway(attrs.evolve(config(tmp_path / "data"), tracing=tracing), "hot")
    await running.start()
    await publish(running, traceparent=PARENT)
    assert receiver.spans == []
    await running.stop()
    assert len(receiver.named("publish")) == 1


@here
async def test_end_waits_no_longer_than_it_may_for_what_a_reload_ended(receiver: Receiver) -> None:
    receiver.silent = True
    spans = Spans(reactor, None, {})
    patient = Config(tracing=quick(receiver, timeout_seconds=60.0))
    for settings in (patient, attrs.evolve(patient, tracing=quick(receiver, timeout_seconds=50.0))):
        spans.configure(build_spans(settings), 1.0)
        assert spans.tracing.tracer is not None
        trace = spans.tracing.tracer.begin("publish", None)
        assert trace is not None
        trace.end()
    await eventually(lambda: receiver.requests == 2)
    began = reactor.seconds()
    await spans.stop(0.1)
    assert reactor.seconds() - began < 5.0
    assert spans.tracing.tracer is None


# --- configuration ----------------------------------------------------------------------------------------------------


@here
async def test_reload_switches_tracing_on_and_off_and_over(tmp_path: Path, receiver: Receiver) -> None:
    now = [config(tmp_path / "data")]
    running = RunningGateway(now[0], "hot")
    running.service = GatewayService(now[0], reactor, lambda: now[0])
    await running.start()
    other = Receiver()
    other.start()

    async def reload(**tracing: Any) -> None:
        now[0] = attrs.evolve(now[0], tracing=TracingConfig(**tracing))
        await running.service.reload()

    try:
        await publish(running, b"off", traceparent=PARENT)
        await reload(otlp_endpoint=receiver.endpoint, interval_seconds=0.05)
        await publish(running, b"on", traceparent=PARENT)
        await receiver.until("publish")
        await publish(running, b"before", traceparent=PARENT)
        await reload(otlp_endpoint=f"{other.endpoint}/v1/traces", interval_seconds=0.05, service_name="other")
        await receiver.until("publish", 2)
        await publish(running, b"over", traceparent=PARENT)
        await other.until("publish")
        assert (other.paths[0], other.resources[0]["service.name"]) == (b"/v1/traces", "other")
        await reload()
        await publish(running, b"off", traceparent=PARENT)
        with_context = [record["value"] for record in await records(running) if record["headers"]]
        assert with_context == ["on", "before", "over"]
        with pytest.raises(ConfigError, match=r"tracing\.otlp_endpoint"):
            await reload(otlp_endpoint="ftp://x")
    finally:
        await running.stop()
        await other.port.stopListening()
    assert (len(receiver.named("publish")), len(other.named("publish"))) == (2, 1)


def test_error_names_what_to_install_where_the_sdk_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "kateway.observe.otlp", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'kateway\[tracing\]'"):
        build_spans(Config(tracing=TracingConfig(otlp_endpoint="http://127.0.0.1:4318")))


def test_gateway_that_does_not_trace_loads_no_sdk() -> None:
    assert build_spans(Config()) is None


@pytest.mark.parametrize("query", ["?partition=0&offset=0&limit=1", "?last=5", "?last=5&limit=9"])
@here
async def test_read_without_a_group_is_a_span_below_its_caller_linked_with_its_records(
    gateway: RunningGateway, receiver: Receiver, query: str
) -> None:
    await publish(gateway, query="?partition=0", traceparent=OTHER)
    answer = await gateway.request("GET", f"{T}{query}", headers={"traceparent": PARENT})
    assert (answer.status, answer.body.strip()) == (200, b"a")
    (span,) = await receiver.until("read")
    assert ids(span) == (TRACE, SPAN)
    about = attributes(span)
    assert (about["messaging.destination.name"], about["messaging.batch.message_count"]) == ("t", 1)
    assert [link.trace_id.hex() for link in span.links] == [TRACE[::-1]]
    children = {
        each.name for each in receiver.spans if each.trace_id.hex() == TRACE and each.parent_span_id == span.span_id
    }
    assert children == {"authorise", "store"}


@here
async def test_refused_read_without_a_group_is_a_span_with_its_error(
    gateway: RunningGateway, receiver: Receiver
) -> None:
    await publish(gateway)
    answer = await gateway.request("GET", f"{T}?partition=99&offset=0", headers={"traceparent": PARENT})
    assert answer.status == 404
    (span,) = await receiver.until("read")
    assert (ids(span), attributes(span)["error.type"]) == ((TRACE, SPAN), "partition-not-found")
