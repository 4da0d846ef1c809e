"""An installed daemon's ``/metrics`` after known traffic: exact counts."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from contextlib import closing

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from servers.daemon import Daemon

pytestmark = pytest.mark.system

Daemons = Callable[..., Daemon]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
SECONDS = 20.0


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as made:
        made.request(method, path, body, headers)
        response = made.getresponse()
        return response.status, response.read()


def scraped(gateway: Daemon) -> Samples:
    status, text = ask(gateway.admin_port, "GET", "/metrics", Accept="application/openmetrics-text")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_daemon_counts_what_was_published_and_read_exactly(daemon: Daemons) -> None:
    gateway = daemon().start()
    port = gateway.public_port
    for number in range(20):
        assert ask(port, "POST", "/v1/topics/foobar?partition=0", b"%03d" % number)[0] == 201
    batch = b"".join(b"%d\n" % (number % 10) for number in range(30))
    kind = {"Content-Type": "application/x-ndjson"}
    assert ask(port, "POST", "/v1/topics/foobar?batch=1&partition=0", batch, **kind)[0] == 201
    assert ask(port, "POST", "/v1/topics/foobar?partition=99", b"x")[0] == 404
    assert ask(port, "GET", "/v1/topics/foobar/g?limit=50")[0] == 200
    topic = {"application": "default", "topic": "foobar", "version": "v1"}
    group = {**topic, "group": "g", "reader_application": "default"}
    settled = ("kateway_subscribe_acknowledged_records_total", frozenset({**group, "outcome": "ok"}.items()))
    deadline = time.monotonic() + SECONDS
    while (found := scraped(gateway)).get(settled) != 50:
        assert time.monotonic() < deadline, found.get(settled)
        time.sleep(0.2)

    def value(name: str, **labels: str) -> float | None:
        return found.get((f"kateway_{name}", frozenset(labels.items())))

    assert value("publish_records_total", **topic) == 50
    assert value("publish_bytes_total", **topic) == 20 * 3 + 30
    # without the one to a partition that there is not: nothing of it reached a store
    assert value("publish_batch_records_count", cluster="default") == 21
    assert value("http_requests_total", operation="publish", code="201") == 21
    assert value("http_requests_total", operation="publish", code="404") == 1
    assert value("http_requests_total", operation="subscribe", code="200") == 1
    assert value("subscribe_records_total", **group) == 50
    assert value("subscribe_bytes_total", **group) == 20 * 4 + 30 * 2
    assert value("subscribe_record_age_seconds_count", cluster="default") == 50
    assert value("subscribe_settle_seconds_count", cluster="default") == 50
    assert value("group_lag_records", **group) in {0, None}, "nothing is left; a group that was left shows nothing"
    assert value("store_up", cluster="default") == 1
    assert value("configuration_generation") == 1
    assert value("metrics_overflow_total", family="kateway_publish_records_total") is None
    assert ask(gateway.public_port, "GET", "/metrics")[0] == 404, "the public listener does not show them"
    gateway.terminate()
