"""Reads without a group: by words, by the last n, by time; and one that breaks counts as failed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from gateways import Client, RunningGateway, eventually
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import formatEvent, globalLogPublisher

here = pytest_twisted.ensureDeferred
T = "/v1/topics/t"


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    lines: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if event["log_level"].name == "warn":
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


async def values(gateway: RunningGateway, query: str) -> list[str]:
    found = await gateway.request(
        "GET", f"{T}?partition=0&limit=10&timeout=0&{query}", headers={"Accept": "application/json"}
    )
    return [record["value"] for record in found.json()] if found.status == 200 else [str(found.status)]


@here
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("offset=earliest", ["a", "b", "c"]),
        ("offset=latest", ["204"]),
        ("offset=-2", ["b", "c"]),
        ("offset=-100", ["a", "b", "c"]),
        ("timestamp=2000", ["b", "c"]),
        ("timestamp=2001", ["c"]),
        ("timestamp=9000", ["204"]),
        ("offset=3", ["204"]),
        ("offset=4", ["416"]),
    ],
)
async def test_read_begins_where_it_is_asked_to(gateway: RunningGateway, query: str, expected: list[str]) -> None:
    for value, timestamp in ((b"a", 1000), (b"b", 2000), (b"c", 3000)):
        written = await gateway.request("POST", f"{T}?partition=0&timestamp={timestamp}", value)
        assert written.status == 201
    assert await values(gateway, query) == expected


@here
async def test_read_from_latest_waits_for_what_comes(gateway: RunningGateway) -> None:
    assert (await gateway.request("POST", f"{T}?partition=0", b"old")).status == 201
    waiting = gateway.spawn(gateway.request("GET", f"{T}?partition=0&offset=latest&timeout=10"))
    await gateway.request("GET", f"{T}?partition=0&offset=latest&timeout=0.2")
    assert (await gateway.request("POST", f"{T}?partition=0", b"new")).status == 201
    assert (await waiting).body == b"new"


@here
async def test_read_of_a_partition_that_is_not_there_is_404(gateway: RunningGateway) -> None:
    assert (await gateway.request("POST", f"{T}?partition=0", b"x")).status == 201
    for query in ("offset=earliest", "offset=-1", "timestamp=1"):
        assert (await gateway.request("GET", f"{T}?partition=999&{query}")).status == 404


async def merged(gateway: RunningGateway, query: str) -> list[str]:
    found = await gateway.request("GET", f"{T}?{query}", headers={"Accept": "application/x-ndjson"})
    return (
        [json.loads(line)["value"] for line in found.body.splitlines()] if found.status == 200 else [str(found.status)]
    )


@here
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("last=3", ["d", "e", "f"]),
        ("last=100", ["a", "b", "c", "d", "e", "f"]),
        ("last=3&limit=2", ["d", "e"]),
        ("last=2&partition=0", ["d", "e"]),
        ("timestamp=3000&limit=10", ["c", "d", "e", "f"]),
        ("timestamp=3000&limit=2", ["c", "d"]),
        ("timestamp=9000&limit=10&timeout=0.1", ["204"]),
        ("last=10001", ["400"]),
        ("offset=1", ["400"]),
        ("limit=1", ["400"]),
    ],
)
async def test_all_partitions_are_read_merged_by_time(gateway: RunningGateway, query: str, expected: list[str]) -> None:
    for partition, value, timestamp in (
        (0, b"a", 1000),
        (1, b"b", 2000),
        (2, b"c", 3000),
        (0, b"d", 4000),
        (0, b"e", 5000),
        (1, b"f", 6000),
    ):
        written = await gateway.request("POST", f"{T}?partition={partition}&timestamp={timestamp}", value)
        assert written.status == 201
    assert await merged(gateway, query) == expected


@here
async def test_last_of_a_topic_without_records_waits_for_the_first(gateway: RunningGateway) -> None:
    await gateway.request("GET", f"{T}/g?timeout=0")
    waiting = gateway.spawn(gateway.request("GET", f"{T}?last=1&timeout=10"))
    await gateway.request("GET", f"{T}?last=1&timeout=0.1")
    assert (await gateway.request("POST", f"{T}?partition=1", b"new")).status == 201
    assert (await waiting).body == b"new"


@here
async def test_read_that_breaks_after_it_began_is_cut_and_in_the_log(
    gateway: RunningGateway, warnings: list[str]
) -> None:
    for _ in range(12):
        assert (await gateway.request("POST", f"{T}?partition=0", b"x" * 900_000)).status == 201
    client = await Client.connect(gateway.port)
    client.transport.pauseProducing()  # type: ignore[union-attr]
    client.send(f"GET {T}?partition=0&offset=0&limit=12&max_bytes=100000000 HTTP/1.1\r\nHost: x\r\n\r\n")
    await deferLater(reactor, 0.3)
    store = gateway.service.parts.storing.stores["default"]
    await store._reader.call(lambda connection: connection.set_authorizer(lambda *_: sqlite3.SQLITE_DENY))  # type: ignore[attr-defined]
    client.transport.resumeProducing()  # type: ignore[union-attr]
    await eventually(lambda: client.lost)
    assert not client.received.endswith(b"0\r\n\r\n")
    assert [line for line in warnings if "was cut" in line]
