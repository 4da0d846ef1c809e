"""``/metrics``: who may read it, its forms, and what requests count."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import attrs
import pytest_twisted
from administered import Administered
from gateways import Client, RunningGateway, config, eventually
from metrics import Metrics, metrics, scrape
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from wsclient import SocketClient
from wsproto.events import Message

from kateway.config.schema import AdminConfig, MetricsConfig
from kateway.errors import Unavailable
from kateway.observe.families import FAMILIES, REACTOR_LAG

LIKE_PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest_twisted.ensureDeferred
async def test_metrics_are_prometheus_text_unless_openmetrics_is_asked_for(gateway: RunningGateway) -> None:
    plain = await scrape(gateway)
    assert plain.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    assert plain.header("cache-control") == "no-store"
    asked = await scrape(gateway, headers={"Accept": LIKE_PROMETHEUS})
    assert asked.header("content-type") == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert asked.body.endswith(b"# EOF\n")
    assert [family.name for family in parse_openmetrics(asked.body.decode())] == [
        family.stem for family in FAMILIES.values()
    ]


@pytest_twisted.ensureDeferred
async def test_metrics_come_compressed_where_gzip_is_accepted(gateway: RunningGateway) -> None:
    client = await Client.connect(gateway.service.ports[-1].getHost().port)
    client.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n")
    await eventually(lambda: client.lost)
    head, _, body = client.received.partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip\r\n" in head + b"\r\n"
    assert b"# HELP kateway_http_requests_total " in gzip.decompress(body)


@pytest_twisted.ensureDeferred
async def test_metrics_of_named_families_are_those_alone(gateway: RunningGateway) -> None:
    answer = await scrape(gateway, "?family=kateway_draining,kateway_http_requests")
    names = [line.split()[2] for line in answer.body.decode().splitlines() if line.startswith("# TYPE")]
    assert names == ["kateway_http_requests_total", "kateway_draining"]
    refused = await scrape(gateway, "?family=kateway_nothing")
    assert (refused.status, refused.code) == (400, "invalid-parameter")
    assert (await scrape(gateway, "?format=xml")).code == "invalid-parameter"


@pytest_twisted.ensureDeferred
async def test_metrics_as_lines_for_influxdb_name_the_gateway(gateway: RunningGateway) -> None:
    answer = await scrape(gateway, "?format=influx&family=kateway_draining")
    assert answer.body.startswith(b"kateway,gateway=gateway-")
    assert b" draining=0i " in answer.body


@pytest_twisted.ensureDeferred
async def test_metrics_are_not_there_where_they_are_switched_off(tmp_path: Path) -> None:
    settings = attrs.evolve(config(tmp_path / "data"), metrics=MetricsConfig(enabled=False))
    gateway = RunningGateway(settings, "hot")
    await gateway.start()
    try:
        assert (await gateway.request("POST", "/v1/topics/foo", b"x")).status == 201
        assert (await scrape(gateway)).status == 404
    finally:
        await gateway.stop()


@pytest_twisted.ensureDeferred
async def test_metrics_need_the_admin_token_where_one_is_set(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-long-enough-token")
    settings = attrs.evolve(config(tmp_path / "data"), admin=AdminConfig(token_file=str(token)))
    gateway = RunningGateway(settings, "hot")
    await gateway.start()
    try:
        assert (await scrape(gateway)).code == "unauthorized"
        allowed = await scrape(gateway, headers={"Authorization": "Bearer a-long-enough-token"})
        assert allowed.status == 200
        assert (await scrape(gateway, headers={"Host": "evil.example"})).status == 421
    finally:
        await gateway.stop()


@pytest_twisted.ensureDeferred
async def test_requests_are_counted_by_operation_and_code_with_their_durations(hot: Administered) -> None:
    for _ in range(3):
        assert (await hot.publish("app1", "foo")).status == 201
    await hot.publish("app1", "nothing")
    await hot.read("app2", "app1.foo/g1?limit=3")
    await hot.read("app2", "app1.foo/g1/lag")
    await hot.read("app2", "app1.foo/g1/offsets")
    await hot.read("app1", "foo")
    await hot.read("app1", "foo?offset=0&partition=0&timeout=0")
    await hot.request("POST", "/v1/topics/app1.foo/g1/acks", b"[]", headers=hot.key("app2-sub"))
    await hot.request("GET", "/live")
    await hot.request("GET", "/nothing")
    found = await metrics(hot)
    counted = {
        (labels["operation"], labels["code"]): found.get("http_requests_total", **labels)
        for labels in found.labels("http_requests_total")
        if labels["operation"] != "admin"
    }
    assert counted == {
        ("publish", "201"): 3,
        ("publish", "404"): 1,
        ("subscribe", "200"): 1,
        ("lag", "200"): 1,
        ("offsets", "200"): 1,
        ("topic", "200"): 1,
        ("read", "200"): 1,
        ("acknowledge", "200"): 1,
        ("health", "200"): 1,
        ("other", "404"): 1,
    }
    assert found.get("http_request_duration_seconds_count", operation="publish") == 4
    assert found.get("http_requests_in_flight", operation="metrics") == 1
    assert found.get("http_connections", listener="admin") == 1
    assert found.get("http_requests_total", operation="admin", code="201")


@pytest_twisted.ensureDeferred
async def test_stream_is_in_flight_until_it_ends_and_its_duration_is_to_the_first_byte(gateway: RunningGateway) -> None:
    client = await Client.connect(gateway.port)
    client.send("GET /v1/topics/foo/g?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await client.until(b"200 OK")
    found = await metrics(gateway)
    assert found.get("http_requests_in_flight", operation="subscribe") == 1
    assert found.get("http_request_duration_seconds_count", operation="subscribe") == 1
    assert found.get("http_requests_total", operation="subscribe", code="200") is None
    client.reset()
    await eventually(lambda: gateway.service.http.listening.public.connections == 0)
    found = await metrics(gateway)
    assert found.get("http_requests_in_flight", operation="subscribe") == 0
    assert found.get("http_requests_total", operation="subscribe", code="200") == 1


@pytest_twisted.ensureDeferred
async def test_requests_refused_by_the_wire_are_counted_by_reason(tmp_path: Path) -> None:
    settings = config(
        tmp_path / "data", header_timeout_seconds=0.2, max_header_bytes=512, max_connections_per_address=2
    )
    gateway = RunningGateway(settings, "hot")
    await gateway.start()
    try:
        for request in ("NONSENSE\r\n\r\n", f"GET / HTTP/1.1\r\nHost: x\r\nA: {'a' * 600}\r\n\r\n", "GET / HT"):
            client = await Client.connect(gateway.port)
            client.send(request)
            await eventually(lambda client=client: client.lost)
        clients = [await Client.connect(gateway.port) for _ in range(3)]
        await eventually(lambda: clients[-1].lost)
        found = await metrics(gateway)
        for client in clients:
            client.close()
    finally:
        await gateway.stop()
    counted = {
        labels["reason"]: found.get("http_rejected_total", **labels) for labels in found.labels("http_rejected_total")
    }
    assert counted == {"parse": 1, "too_large": 1, "header_timeout": 1, "address_connections": 1, "overload": 0}


@pytest_twisted.ensureDeferred
async def test_state_of_the_process_the_configuration_and_the_stores_is_shown(hot: Administered) -> None:
    await hot.change("POST", "/reload")
    found = await metrics(hot)
    assert found.get("configuration_generation") == 2
    assert found.get("configuration_last_reload_success") == 1
    assert found.get("draining") == 0
    assert found.get("store_up", cluster="default") == 1
    assert found.get("store_bytes_in_flight", cluster="default") == 0
    assert found.get("breaker_state", cluster="default", state="closed") == 1
    assert found.get("breaker_state", cluster="default", state="open") == 0
    assert found.get("registry_up", driver="embedded") == 1
    assert found.get("audit_dropped_total", sink="file") == 0
    assert found.get("ui_sessions") == 0
    assert hot.service.parts.counting.series is not None
    lag = hot.service.parts.counting.series.histogram(REACTOR_LAG)
    await eventually(lambda: sum(lag.counts) > 0)
    (build,) = found.labels("build_info")
    assert set(build) == {"version", "python", "twisted"}
    assert ("process_resident_memory_bytes", frozenset()) in found.series


@pytest_twisted.ensureDeferred
async def test_publishes_are_counted_by_their_registered_topic(hot: Administered) -> None:
    for _ in range(3):
        assert (await hot.publish("app1", "foo", b"12345")).status == 201
    batch = b'[{"value":"a"},{"value":"bc","key":"k"}]'
    headers = {**hot.key("app1-pub"), "Content-Type": "application/json"}
    assert (await hot.request("POST", "/v1/topics/foo?batch=1", batch, headers=headers)).status == 201
    assert (await hot.request("POST", "/v1/topics/foo?batch=1", b"[{", headers=headers)).status == 400
    assert (await hot.request("POST", "/v1/topics/foo", b"x", headers={"Pubkey": "no"})).status == 401
    found = await metrics(hot)
    topic = {"application": "app1", "topic": "foo", "version": "v1"}
    assert found.get("publish_records_total", **topic) == 5
    assert found.get("publish_bytes_total", **topic) == 19
    assert found.get("publish_errors_total", **topic, reason="malformed-batch") == 1
    other = dict.fromkeys(topic, "(other)")
    assert found.get("publish_errors_total", **other, reason="unauthorized") == 1
    assert found.get("publish_batch_records_count", cluster="default") == 4
    assert found.get("publish_batch_records_sum", cluster="default") == 5


@pytest_twisted.ensureDeferred
async def test_repeat_under_an_idempotency_key_is_counted_as_a_duplicate_and_not_as_a_record(
    gateway: RunningGateway,
) -> None:
    for _ in range(3):
        answer = await gateway.request("POST", "/v1/topics/foo", b"x", headers={"Idempotency-Key": "one"})
        assert answer.status == 201
    found = await metrics(gateway)
    assert found.get("publish_records_total", application="default", topic="foo", version="v1") == 1
    assert found.get("publish_duplicates_total", cluster="default") == 2


@pytest_twisted.ensureDeferred
async def test_messages_of_a_websocket_are_counted_one_by_one(gateway: RunningGateway) -> None:
    socket = await SocketClient.open(gateway, "/v1/topics/foo")
    for message in ("{", '{"value":"abc"}', '{"value":"de"}'):
        socket.send(Message(data=message))
    await eventually(lambda: len(socket.messages()) == 3)
    found = await metrics(gateway)
    topic = {"application": "default", "topic": "foo", "version": "v1"}
    assert found.get("publish_records_total", **topic) == 2
    assert found.get("publish_bytes_total", **topic) == 5
    assert [labels["reason"] for labels in found.labels("publish_errors_total")] == ["malformed-batch"]
    assert found.get("http_requests_total", operation="publish", code="101") == 1
    socket.client.close()


GROUP = {"application": "app1", "topic": "foo", "version": "v1", "group": "g1", "reader_application": "app2"}


def shown(found: Metrics, **labels: str) -> dict[str, float | None]:
    """Returns the acknowledged records of a group by their outcome."""
    name = "subscribe_acknowledged_records_total"
    return {each: found.get(name, **labels, outcome=each) for each in ("ok", "retry", "dead", "expired")}


@pytest_twisted.ensureDeferred
async def test_stream_counts_its_records_and_what_is_settled_of_them(hot: Administered) -> None:
    for number in range(5):
        await hot.publish("app1", "foo", b"%d" % number)
    assert (await hot.read("app2", "app1.foo/g1?limit=5")).status == 200
    await eventually(
        lambda: (
            hot.service.parts.counting.series is not None
            and hot.service.parts.counting.series.group(*GROUP.values()).ok.value == 5
        )
    )
    found = await metrics(hot)
    assert found.get("subscribe_records_total", **GROUP) == 5
    assert found.get("subscribe_bytes_total", **GROUP) == 10
    assert found.get("subscribe_redelivered_records_total", **GROUP) == 0
    assert shown(found, **GROUP) == {"ok": 5, "retry": 0, "dead": 0, "expired": 0}
    assert found.get("subscribe_record_age_seconds_count", cluster="default") == 5
    assert found.get("subscribe_settle_seconds_count", cluster="default") == 5
    assert found.get("subscribe_record_age_seconds_bucket", cluster="default", le="5.0") == 5
    assert found.get("group_commit_failures_total", **GROUP) == 0


@pytest_twisted.ensureDeferred
async def test_acknowledgements_are_counted_by_outcome_and_redeliveries_as_such(hot: Administered) -> None:
    for number in range(4):
        await hot.publish("app1", "foo", b"%d" % number)
    client = await Client.connect(hot.port)
    client.send(f"GET /v1/topics/app1.foo/g1?ack=explicit&follow=1 HTTP/1.1\r\nHost: x\r\n{hot.head('app2-sub')}\r\n")
    await client.until(b"3\n")
    acks = b"""[{"partition":0,"offset":0},{"partition":0,"offset":1,"outcome":"retry","delay":0},
        {"partition":0,"offset":2,"outcome":"dead"}]"""
    answer = await hot.request("POST", "/v1/topics/app1.foo/g1/acks", acks, headers=hot.key("app2-sub"))
    assert answer.status == 200, answer.body
    found = await metrics(hot)
    assert shown(found, **GROUP) == {"ok": 1, "retry": 1, "dead": 1, "expired": 0}
    assert found.get("subscribe_readers", **GROUP) == 1
    assert found.get("subscribe_settle_seconds_count", cluster="default") == 1
    assert found.get("subscribe_record_age_seconds_count", cluster="default") == 1
    cells = hot.service.parts.counting.series
    await eventually(lambda: cells is not None and cells.group(*GROUP.values()).redelivered.value == 1)
    found = await metrics(hot)
    assert found.get("subscribe_records_total", **GROUP) == 5
    assert found.get("group_unacknowledged_records", **GROUP) in {2, 3}
    assert found.get("group_lag_records", **GROUP) == 3
    oldest = found.get("group_oldest_seconds", **GROUP)
    held = found.get("group_oldest_unacknowledged_seconds", **GROUP)
    assert oldest is not None
    assert held is not None
    assert 0 < held <= oldest < 60
    client.reset()


@pytest_twisted.ensureDeferred
async def test_group_that_has_read_all_has_no_lag(hot: Administered) -> None:
    await hot.publish("app1", "foo")
    client = await Client.connect(hot.port)
    client.send(f"GET /v1/topics/app1.foo/g1?follow=1 HTTP/1.1\r\nHost: x\r\n{hot.head('app2-sub')}\r\n")
    await client.until(b"x\n")
    cells = hot.service.parts.counting.series
    await eventually(lambda: cells is not None and cells.group(*GROUP.values()).ok.value == 1)
    found = await metrics(hot)
    assert found.get("group_lag_records", **GROUP) == 0
    assert found.get("group_oldest_seconds", **GROUP) == 0
    assert found.get("group_unacknowledged_records", **GROUP) == 0
    client.reset()


@pytest_twisted.ensureDeferred
async def test_dead_letters_are_a_topic_of_their_own_and_the_groups_count_of_them(hot: Administered) -> None:
    await hot.publish("app1", "foo")
    await hot.read("app2", "app1.foo/g1?ack=explicit&limit=1")
    dead = b'[{"partition":0,"offset":0,"outcome":"dead"}]'
    await hot.request("POST", "/v1/topics/app1.foo/g1/acks?sync=1", dead, headers=hot.key("app2-sub"))
    client = await Client.connect(hot.port)
    path = "/v1/topics/app1.foo/g1?queue=dead&ack=explicit&follow=1"
    client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{hot.head('app2-sub')}\r\n")
    await client.until(b"x\n")
    found = await metrics(hot)
    assert found.get("group_dead_letter_records", **GROUP) == 1
    letters = {**GROUP, "topic": "foo.g1.dead"}
    assert found.get("subscribe_records_total", **letters) == 1
    client.reset()


@pytest_twisted.ensureDeferred
async def test_lag_of_a_group_goes_on_behind_its_last_reader_until_it_may_not_read(hot: Administered) -> None:
    for _ in range(3):
        await hot.publish("app1", "foo")
    await hot.read("app2", "app1.foo/g1?limit=1")
    observing = hot.service.http.observing
    assert observing is not None
    await observing.looking.look_at_objects()
    await hot.service.parts.groups.let_go("default", "app2.g1", "app1.foo.v1")
    for lag in (2, 3):
        await observing._ask()
        found = await metrics(hot)
        assert (found.get("group_lag_records", **GROUP), found.get("subscribe_readers", **GROUP)) == (lag, None)
        await hot.publish("app1", "foo")
    await hot.change("DELETE", "/bindings/app2/app1/foo/v1")
    assert (await metrics(hot)).get("group_lag_records", **GROUP) is None


@pytest_twisted.ensureDeferred
async def test_unregistered_topic_and_unbound_reader_are_shown_no_more(hot: Administered) -> None:
    await hot.publish("app1", "foo")
    await hot.read("app2", "app1.foo/g1?limit=1")
    await hot.change("DELETE", "/bindings/app2/app1/foo/v1")
    found = await metrics(hot)
    assert found.get("subscribe_records_total", **GROUP) is None
    assert found.get("publish_records_total", application="app1", topic="foo", version="v1") == 1
    await hot.change("DELETE", "/topics/app1/foo/v1")
    assert not (await metrics(hot)).labels("publish_records_total")


@pytest_twisted.ensureDeferred
async def test_gauges_of_a_group_go_with_its_topic_though_the_group_is_not_left_yet(hot: Administered) -> None:
    await hot.publish("app1", "foo")
    await hot.read("app2", "app1.foo/g1?limit=1&ack=explicit")
    assert (await metrics(hot)).get("subscribe_readers", **GROUP) is not None
    await hot.change("DELETE", "/bindings/app2/app1/foo/v1")
    await hot.change("DELETE", "/topics/app1/foo/v1")
    assert hot.service.parts.groups.groups == 1
    found = await metrics(hot)
    assert [name for name, labels in found.series if ("group", "g1") in labels] == []


FOO = {"application": "app1", "topic": "foo", "version": "v1"}


@pytest_twisted.ensureDeferred
async def test_records_that_an_operator_publishes_are_counted_as_published_to_their_topic(hot: Administered) -> None:
    path = "/admin/v1/records/app1/foo/v1"
    for _ in range(2):
        answer = await hot.ask_admin("POST", path, data=b"abc", headers={"Idempotency-Key": "k"})
        assert answer.status == 201
    batch = b'[{"value":"a"},{"value":"b"}]'
    headers = {"Content-Type": "application/json"}
    assert (await hot.ask_admin("POST", f"{path}?batch=1", data=batch, headers=headers)).status == 201
    found = await metrics(hot)
    assert found.get("publish_records_total", **FOO) == 3
    assert found.get("publish_bytes_total", **FOO) == 5
    assert found.get("publish_batch_records_sum", cluster="default") == 3
    assert found.get("publish_duplicates_total", cluster="default") == 1
    await hot.ask_admin("POST", f"{path}?partition=7", data=b"abc")
    assert (await metrics(hot)).get("publish_errors_total", **FOO, reason="partition-not-found") == 1


@pytest_twisted.ensureDeferred
async def test_dead_letters_that_are_redriven_are_counted_as_published_to_their_topic(hot: Administered) -> None:
    await hot.publish("app1", "foo", b"12345")
    await hot.read("app2", "app1.foo/g1?limit=1&ack=explicit")
    dead = [{"partition": 0, "offset": 0, "outcome": "dead"}]
    path = "/v1/topics/app1.foo/g1/acks?sync=1"
    assert (await hot.request("POST", path, headers=hot.key("app2-sub"), json=dead)).status == 200
    assert (await hot.admin("POST", "/groups/app2/app1/foo/v1/g1/redrive", {"all": True})).status == 202
    await eventually(lambda: hot.service.http.operating.redrives._running == {})
    found = await metrics(hot)
    assert found.get("publish_records_total", **FOO) == 2
    assert found.get("publish_bytes_total", **FOO) == 10


@pytest_twisted.ensureDeferred
async def test_sizes_of_publishes_leave_out_those_of_which_nothing_reached_the_store(hot: Administered) -> None:
    await hot.change("PUT", "/transforms/app1/foo/v1", {"in": [{"require": "record.value != 'no'"}]})
    assert (await hot.publish("app1", "foo", b"no")).status == 422
    await hot.change("POST", "/breakers/default", {"state": "open"})
    assert (await hot.publish("app1", "foo", b"yes")).status == 503
    assert (await metrics(hot)).get("publish_batch_records_count", cluster="default") == 0
    await hot.change("POST", "/breakers/default", {"state": "closed"})
    assert (await hot.publish("app1", "foo", b"yes")).status == 201
    assert (await metrics(hot)).get("publish_batch_records_count", cluster="default") == 1


@pytest_twisted.ensureDeferred
async def test_requests_to_the_store_are_timed_and_its_errors_counted(hot: Administered) -> None:
    await hot.publish("app1", "foo")
    await hot.read("app2", "app1.foo/g1?limit=1")
    found = await metrics(hot)
    for request in ("write", "read", "committed"):
        assert found.get("store_request_duration_seconds_count", cluster="default", request=request)
    assert found.get("store_queue_seconds_count", cluster="default", request="write")
    assert not found.labels("store_errors_total")
    store: Any = hot.service.parts.storing.stores["default"]
    store._refusal = Unavailable("switched off")
    assert (await hot.publish("app1", "foo")).status == 503
    store._refusal = None
    found = await metrics(hot)
    answered = found.get("store_errors_total", cluster="default", error="unavailable")
    assert answered is not None
    assert answered >= 1, "each try is counted"
    topic = {"application": "app1", "topic": "foo", "version": "v1"}
    assert found.get("publish_errors_total", **topic, reason="unavailable") == 1


@pytest_twisted.ensureDeferred
async def test_breaker_counts_its_changes_and_shows_its_state(hot: Administered) -> None:
    await hot.change("POST", "/breakers/default", {"state": "open"})
    found = await metrics(hot)
    assert found.get("breaker_state", cluster="default", state="open") == 1
    assert found.get("breaker_state", cluster="default", state="closed") == 0
    assert found.get("store_up", cluster="default") == 0
    await hot.change("POST", "/breakers/default", {"state": "closed"})
    found = await metrics(hot)
    assert found.get("breaker_transitions_total", cluster="default", state="open") == 1
    assert found.get("breaker_transitions_total", cluster="default", state="closed") == 1


@pytest_twisted.ensureDeferred
async def test_changes_of_the_registry_are_timed(hot: Administered) -> None:
    before = (await metrics(hot)).get("registry_apply_delay_seconds_count", driver="embedded")
    await hot.topic("app1/bar/v1")
    after = (await metrics(hot)).get("registry_apply_delay_seconds_count", driver="embedded")
    assert before is not None
    assert after == before + 1


@pytest_twisted.ensureDeferred
async def test_quota_in_use_and_what_it_refuses_are_counted_for_the_application(hot: Administered) -> None:
    await hot.quota("app1", publish_records_per_second=2, readers=1)
    await hot.quota("app2", subscribe_bytes_per_second=1, readers=1)
    answers = [(await hot.publish("app1", "foo", b"12345")).status for _ in range(4)]
    assert answers.count(429) in {1, 2}
    client = await Client.connect(hot.port)
    client.send(f"GET /v1/topics/app1.foo/g1?follow=1 HTTP/1.1\r\nHost: x\r\n{hot.head('app2-sub')}\r\n")
    await client.until(b"12345")
    assert (await hot.read("app2", "app1.foo/g2?timeout=0")).status == 429
    found = await metrics(hot)
    assert found.get("quota_throttled_total", application="app1", quota="publish_records") == answers.count(429)
    assert found.get("quota_throttled_total", application="app2", quota="readers") == 1
    throttled = found.get("quota_throttled_total", application="app2", quota="subscribe_bytes")
    assert throttled is not None
    assert throttled >= 1
    used = found.get("quota_used_ratio", application="app1", quota="publish_records")
    assert used is not None
    assert 0.2 < used <= 1
    assert found.get("quota_used_ratio", application="app2", quota="readers") == 1
    debt = found.get("quota_used_ratio", application="app2", quota="subscribe_bytes")
    assert debt is not None
    assert debt > 1
    topic = {"application": "app1", "topic": "foo", "version": "v1"}
    assert found.get("publish_errors_total", **topic, reason="quota-exceeded") == answers.count(429)
    client.reset()


@pytest_twisted.ensureDeferred
async def test_callers_without_the_right_are_counted_by_reason(hot: Administered) -> None:
    wrong = {"Pubkey": "app1-pub", "Secret": "nonsense"}
    assert (await hot.request("POST", "/v1/topics/foo", b"x", headers=wrong)).status == 401
    assert (await hot.request("POST", "/v1/topics/foo", b"x")).status == 401
    assert (await hot.request("GET", "/v1/topics")).status == 401
    assert (await hot.request("POST", "/v1/topics/app1.foo", b"x", headers=hot.key("app2-pub"))).status == 403
    found = await metrics(hot)
    assert found.get("auth_failures_total", reason="unauthorized") == 3
    assert found.get("auth_failures_total", reason="denied") == 1


@pytest_twisted.ensureDeferred
async def test_wrong_admin_tokens_are_counted_with_the_other_refusals(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-long-enough-token")
    settings = attrs.evolve(config(tmp_path / "data"), admin=AdminConfig(token_file=str(token)))
    gateway = RunningGateway(settings, "hot")
    await gateway.start()
    try:
        for _ in range(2):
            assert (await scrape(gateway, headers={"Authorization": "Bearer wrong"})).status == 401
        answer = await scrape(gateway, headers={"Authorization": "Bearer a-long-enough-token"})
        assert Metrics(answer.body.decode()).get("auth_failures_total", reason="unauthorized") == 2
    finally:
        await gateway.stop()
