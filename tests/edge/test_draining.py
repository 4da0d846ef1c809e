"""A shutdown, as connected clients see it."""

from __future__ import annotations

import os
from pathlib import Path
from socket import socket as Socket
from typing import Any

import attrs
import pytest_twisted
from gateways import Client, RunningGateway, config, eventually
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


class Broken:
    """A publisher that cannot be drained."""

    def drain(self) -> None:
        raise ZeroDivisionError


@pytest_twisted.ensureDeferred
async def test_fault_in_one_connection_keeps_no_step_of_a_stop_from_being_taken(
    gateway: RunningGateway, logged_errors: list[dict[str, Any]]
) -> None:
    assert (await gateway.request("POST", T, b"a")).status == 201
    assert (await gateway.request("GET", f"{T}/group1")).status == 200
    parts = gateway.service.parts
    broken: Any = Broken()
    parts.edges.pub_sockets._sockets.add(broken)
    assert parts.groups.groups == 1
    await gateway.stop()
    assert parts.groups.groups == 0
    assert len(logged_errors) == 1
    logged_errors.clear()


@pytest_twisted.ensureDeferred
async def test_reader_that_comes_when_its_group_was_passed_on_is_ended_as_those_before_it(
    gateway: RunningGateway,
) -> None:
    assert (await gateway.request("POST", T, b"a")).status == 201
    parts = gateway.service.parts
    parts.edges.drain()
    await parts.groups.stop(0)
    polled = await gateway.request("GET", f"{T}/group1")
    followed = await gateway.request("GET", f"{T}/group1?follow=1")
    assert [(each.status, each.body) for each in (polled, followed)] == [(204, b""), (200, b"")]


@pytest_twisted.ensureDeferred
async def test_next_request_of_a_client_settles_what_it_was_sent_before_its_connection_is_passed_on(
    tmp_path: Path,
) -> None:
    settings = config(tmp_path / "data")
    gateway = RunningGateway(
        attrs.evolve(settings, delivery=attrs.evolve(settings.delivery, settle_seconds=50.0)), "hot"
    )
    await gateway.start()
    assert (await gateway.request("POST", T, b"a")).status == 201
    client = await Client.connect(gateway.port)
    client.send(f"GET {T}/group1?limit=1&timeout=5 HTTP/1.1\r\nHost: x\r\n\r\n")
    await client.until(b"\r\n\r\na")
    taken: list[int] = []
    gateway.service.http.listening.public.drain(lambda descriptor: taken.append(os.dup(descriptor)) or True)
    (membership,) = gateway.service.parts.groups.members()
    assert not membership.idle()
    following = f"GET {T}/group1?timeout=0 HTTP/1.1\r\nHost: x\r\n\r\n"
    client.send(following)
    # the publisher's connection went at once
    await eventually(lambda: len(taken) == 2)
    assert membership.idle()
    publisher, reader = (Socket(fileno=each) for each in taken)
    with publisher, reader:
        # it is the successor's to read
        assert reader.recv(1000) == following.encode()
    client.close()
    await gateway.stop()


@pytest_twisted.ensureDeferred
async def test_websocket_that_begins_to_publish_during_the_drain_is_closed_at_once(gateway: RunningGateway) -> None:
    gateway.service.parts.edges.drain()
    writing = await SocketClient.open(gateway, T)
    await eventually(lambda: writing.first(CloseConnection) is not None)
    closing = writing.first(CloseConnection)
    assert isinstance(closing, CloseConnection)
    assert int(closing.code) == 1001
    writing.client.close()
