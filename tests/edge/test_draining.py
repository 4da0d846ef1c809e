"""A shutdown, as connected clients see it."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest_twisted
from gateways import RunningGateway, config, eventually
from wsclient import SocketClient
from wsproto.events import CloseConnection

T = "/v1/topics/foobar"


@pytest_twisted.ensureDeferred
async def test_draining_says_that_the_gateway_is_going_away(gateway: RunningGateway) -> None:
    assert (await gateway.request("POST", T, b"a")).status == 201
    reading = await SocketClient.open(gateway, f"{T}/group1")
    writing = await SocketClient.open(gateway, T)
    await eventually(lambda: len(reading.messages()) == 1)
    stopping = gateway.spawn(gateway.stop())  # type: ignore[arg-type]
    for socket in (reading, writing):
        await eventually(lambda socket=socket: socket.first(CloseConnection) is not None)  # type: ignore[misc]
        closing = socket.first(CloseConnection)
        assert isinstance(closing, CloseConnection)
        assert int(closing.code) == 1001
        socket.client.close()
    await stopping


@pytest_twisted.ensureDeferred
async def test_publishing_websocket_whose_client_answers_the_close_holds_no_stop_up(tmp_path: Path) -> None:
    gateway = RunningGateway(attrs.evolve(config(tmp_path / "data", lingering_close_seconds=50.0)), "hot")
    await gateway.start()
    writing = await SocketClient.open(gateway, T)
    stopping = gateway.spawn(gateway.stop())  # type: ignore[arg-type]
    await eventually(lambda: writing.first(CloseConnection) is not None)
    closing = writing.first(CloseConnection)
    assert isinstance(closing, CloseConnection)
    writing.send(closing.response())
    await eventually(lambda: bool(stopping.called))
    assert writing.client.lost


@pytest_twisted.ensureDeferred
async def test_draining_ends_a_read_that_waits_at_the_end(gateway: RunningGateway) -> None:
    await gateway.request("POST", f"{T}?partition=0", b"a")
    waiting = gateway.spawn(gateway.request("GET", f"{T}?partition=0&offset=1&timeout=19"))
    await eventually(lambda: bool(gateway.service.parts.edges.topics._waiting))
    stopping = gateway.spawn(gateway.stop())  # type: ignore[arg-type]
    assert (await waiting).status == 204
    await stopping


@pytest_twisted.ensureDeferred
async def test_websocket_that_begins_to_publish_during_the_drain_is_closed_at_once(gateway: RunningGateway) -> None:
    gateway.service.parts.edges.drain()
    writing = await SocketClient.open(gateway, T)
    await eventually(lambda: writing.first(CloseConnection) is not None)
    closing = writing.first(CloseConnection)
    assert isinstance(closing, CloseConnection)
    assert int(closing.code) == 1001
    writing.client.close()
