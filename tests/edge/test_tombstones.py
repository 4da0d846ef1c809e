"""Tombstones and timestamps: single publishes, batches and WebSockets, and how they come back."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from gateways import RunningGateway, eventually
from wsclient import SocketClient
from wsproto.events import TextMessage

here = pytest_twisted.ensureDeferred
T = "/v1/topics/t"


async def records(gateway: RunningGateway) -> list[dict[str, Any]]:
    found = await gateway.request(
        "GET", f"{T}?partition=0&offset=0&limit=100&timeout=0", headers={"Accept": "application/json"}
    )
    listed: list[dict[str, Any]] = found.json()
    return listed


@here
async def test_tombstone_is_a_null_value_under_its_key(gateway: RunningGateway) -> None:
    assert (await gateway.request("POST", f"{T}?tombstone=1&key=k&partition=0", b"")).status == 201
    (record,) = await records(gateway)
    assert record["key"] == "k"
    assert record["value"] is None
    raw = await gateway.request("GET", f"{T}/g")
    assert (raw.header("x-tombstone"), raw.body, raw.header("x-key")) == ("true", b"", "k")


@here
@pytest.mark.parametrize(
    ("query", "body"),
    [("tombstone=1&key=k", b"x"), ("tombstone=1", b""), ("tombstone=1&key=k&batch=1", b""), ("tombstone=2&key=k", b"")],
)
async def test_tombstone_with_a_body_without_a_key_or_in_a_batch_is_refused(
    gateway: RunningGateway, query: str, body: bytes
) -> None:
    assert (await gateway.request("POST", f"{T}?{query}", body)).status == 400


@here
async def test_timestamp_comes_from_the_query_or_the_header(gateway: RunningGateway) -> None:
    assert (await gateway.request("POST", f"{T}?partition=0&timestamp=1000", b"a")).status == 201
    by_header = await gateway.request("POST", f"{T}?partition=0", b"b", headers={"Kateway-Timestamp": "2000"})
    assert by_header.status == 201
    both = await gateway.request("POST", f"{T}?partition=0&timestamp=1", b"c", headers={"Kateway-Timestamp": "2"})
    assert both.status == 400
    for wrong in ("-1", "x", "9223372036854775808"):
        assert (await gateway.request("POST", f"{T}?timestamp={wrong}", b"d")).status == 400
        refused = await gateway.request("POST", T, b"d", headers={"Kateway-Timestamp": wrong})
        assert refused.status == 400
    found = await records(gateway)
    assert [record["timestamp"] for record in found] == [1000, 2000]
    assert all(header["name"] != "kateway-timestamp" for record in found for header in record.get("headers", []))


@here
async def test_batch_has_a_timestamp_for_each_record_or_one_for_those_without(gateway: RunningGateway) -> None:
    batch = [{"value": "a", "timestamp": 1000}, {"value": None, "key": "k"}, "c"]
    headers = {"Content-Type": "application/json"}
    sent = await gateway.request(
        "POST", f"{T}?batch=1&partition=0&timestamp=3000", json.dumps(batch).encode(), headers=headers
    )
    assert sent.status == 201
    assert [(record["value"], record["timestamp"]) for record in await records(gateway)] == [
        ("a", 1000),
        (None, 3000),
        ("c", 3000),
    ]
    for wrong in (-1, 1.5, "1", None, True):
        refused = await gateway.request(
            "POST", f"{T}?batch=1", json.dumps([{"value": "a", "timestamp": wrong}]).encode(), headers=headers
        )
        assert refused.status == 400


@here
async def test_websocket_publishes_timestamps_and_tombstones(gateway: RunningGateway) -> None:
    socket = await SocketClient.open(gateway, f"{T}?partition=0&timestamp=5000")
    socket.send(TextMessage(json.dumps({"value": "a", "timestamp": 4000})))
    socket.send(TextMessage(json.dumps({"key": "k", "value": None})))
    await eventually(lambda: len(socket.messages()) == 2)
    socket.client.close()
    assert [(record["value"], record["timestamp"]) for record in await records(gateway)] == [("a", 4000), (None, 5000)]
