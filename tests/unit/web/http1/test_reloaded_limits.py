"""Other limits while connections are open: each option of ``[http]`` is in force on old connections too."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from test_channel import GET, Wire, answer, statuses

from kateway.config.schema import HttpConfig
from kateway.daemon.reload import FIXED
from kateway.web.exchange import Exchange, Response

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
OF_REQUESTS = {
    "max_body_bytes": (POST + b"Content-Length: 50\r\n\r\n" + b"x" * 50, {"max_body_bytes": 10}, 413),
    "max_body_bytes of chunks": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n14\r\n" + b"x" * 20 + b"\r\n0\r\n\r\n",
        {"max_body_bytes": 10},
        413,
    ),
    "max_request_line_bytes": (GET % (b"a" * 100), {"max_request_line_bytes": 64}, 414),
    "max_header_bytes": (b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"y" * 300), {"max_header_bytes": 256}, 431),
    "max_header_count": (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n", {"max_header_count": 1}, 431),
    "max_inflight_body_bytes": (
        POST + b"Content-Length: 1048577\r\n\r\n" + b"x" * 1048577,
        {"max_inflight_body_bytes": 1048576},
        503,
    ),
}
ELSEWHERE = {"max_pipelined_requests", "max_connections", "max_connections_per_address", "header_timeout_seconds",
    "body_idle_timeout_seconds", "keepalive_idle_seconds", "lingering_close_seconds", "half_close_seconds",
    "max_queue_seconds", "refused_pause_seconds", "write_stall_timeout_seconds", "max_unsent_bytes",
    # outside this package: what a stop waits for, and what each request or stream is given when it begins
    "drain_seconds", "drain_delay_seconds", "heartbeat_seconds", "cors_origins",
    # of proxies: tests/edge/test_proxies.py
    "proxies"}  # fmt: skip


@pytest.fixture
def wire() -> Wire:
    made = Wire(max_body_bytes=1 << 21)
    made.handler = answer
    return made


def change(wire: Wire, **options: Any) -> None:
    wire.factory.configure(attrs.evolve(wire.factory.state.config, **options))


def test_each_option_that_can_change_has_a_test_here() -> None:
    reloadable = {option.name for option in attrs.fields(HttpConfig)} - {path.partition(".")[2] for path in FIXED}
    assert reloadable == {name.partition(" ")[0] for name in OF_REQUESTS} | ELSEWHERE


@pytest.mark.parametrize("option", OF_REQUESTS)
def test_lowered_limit_refuses_the_next_request_of_an_old_connection(wire: Wire, option: str) -> None:
    request, lowered, status = OF_REQUESTS[option]
    for _ in range(3):
        assert statuses(wire.send(request)) == [200]
    change(wire, **lowered)
    assert statuses(wire.send(request)) == [status]


@pytest.mark.parametrize("option", OF_REQUESTS)
def test_lowered_limit_is_not_undone_by_old_connections_that_refill_the_head_cache(wire: Wire, option: str) -> None:
    request, lowered, status = OF_REQUESTS[option]
    assert statuses(wire.send(request)) == [200]
    half, half_transport = wire.connect()
    half.dataReceived(request[:-1])
    change(wire, **lowered)
    half.dataReceived(request[-1:])
    # a request that has begun keeps its limits; but for the bytes of all bodies together
    assert statuses(half_transport.value()) == [503 if status == 503 else 200]
    assert statuses(wire.send(request)) == [status]
    fresh, transport = wire.connect()
    fresh.dataReceived(request)
    assert statuses(transport.value()) == [status]
    assert len(wire.factory.heads) == 0


@pytest.mark.parametrize("option", OF_REQUESTS)
def test_raised_limit_lets_the_next_request_of_an_old_connection_pass(option: str) -> None:
    request, lowered, _status = OF_REQUESTS[option]
    wire = Wire(**{"max_body_bytes": 1 << 21} | lowered)
    wire.handler = answer
    wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    change(wire, **{name: getattr(Wire(max_body_bytes=1 << 21).factory.state.config, name) for name in lowered})
    assert statuses(wire.send(request)) == [200]


def test_lowered_pipeline_limit_holds_on_an_old_connection(wire: Wire) -> None:
    wire.send(GET % b"")
    change(wire, max_pipelined_requests=1)
    wire.handler = wire.exchanges.append
    wire.send((GET % b"") * 300)
    parser = wire.channel.connection.parser
    assert parser is not None
    assert parser.rest
    assert wire.transport.producerState == "paused"


@pytest.mark.parametrize(
    ("sent", "option"),
    [
        (b"GET / HTTP/1.1\r\nHo", "header_timeout_seconds"),
        (POST + b"Content-Length: 5\r\n\r\nab", "body_idle_timeout_seconds"),
        (b"", "keepalive_idle_seconds"),
    ],
)
def test_shorter_timeout_ends_an_old_connection_that_waits_already(wire: Wire, sent: bytes, option: str) -> None:
    wire.send(GET % b"")
    wire.send(sent)
    wire.clock.pump([0.5] * 4)
    change(wire, **{option: 1.0})
    wire.clock.pump([0.5] * 4)
    assert wire.transport.disconnecting


def test_longer_timeout_holds_from_the_next_request_on(wire: Wire) -> None:
    change(wire, keepalive_idle_seconds=1.0)
    wire.send(GET % b"")
    change(wire, keepalive_idle_seconds=100.0)
    wire.send(GET % b"")
    wire.clock.pump([0.5] * 20)
    assert not wire.transport.disconnecting


def test_request_under_way_has_no_deadline_after_a_change_either(wire: Wire) -> None:
    wire.handler = wire.exchanges.append
    wire.send(GET % b"")
    change(wire, keepalive_idle_seconds=1.0)
    wire.clock.pump([0.5] * 20)
    assert not wire.transport.disconnecting


def test_connection_limits_count_old_connections(wire: Wire) -> None:
    change(wire, max_connections=1)
    assert statuses(wire.connect()[1].value()) == [503]
    change(wire, max_connections=10, max_connections_per_address=1)
    assert statuses(wire.connect()[1].value()) == [429]


def test_pause_for_the_refused_changes_on_an_old_connection(wire: Wire) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.connection.told_to_wait(5)
        exchange.respond(Response(429, (), b""))

    wire.handler = refuse
    change(wire, refused_pause_seconds=0.0)
    for _ in range(3):
        assert statuses(wire.send(GET % b"")) == [429]
    assert wire.transport.producerState == "producing"


def test_lingering_close_lasts_as_it_is_configured_last_also_behind_a_head_that_came_before(wire: Wire) -> None:
    for _ in range(2):
        wire.send(GET % b"")
    change(wire, lingering_close_seconds=7.0)
    wire.send(GET % b"")
    wire.factory.state.draining = True
    wire.send(GET % b"")  # known by now
    assert wire.transport.disconnecting
    assert wire.channel.connection.deadline - wire.factory.state.tick == 7.0
