"""Publishes whose body comes with a Content-Encoding are written as they were before it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import cramjam
import pytest
import pytest_twisted
from gateways import RunningGateway

from kateway.model import Record
from kateway.web.formats.frames import frame

T = "/v1/topics/foobar"
ENCODED = pytest.mark.parametrize(
    ("coding", "encode"), [("gzip", gzip.compress), ("zstd", lambda data: bytes(cramjam.zstd.compress(data)))]
)
Encode = Callable[[bytes], bytes]


async def values(gateway: RunningGateway) -> list[str]:
    answer = await gateway.request(
        "GET", f"{T}?partition=0&offset=0&limit=100&timeout=0", headers={"Accept": "application/json"}
    )
    return [record["value"] for record in answer.json()] if answer.status == 200 else []


@ENCODED
@pytest.mark.parametrize("gateway", ["hot", "klein", "stock"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_encoded_record_is_stored_decoded(gateway: RunningGateway, coding: str, encode: Encode) -> None:
    for _ in range(2):  # the second time its head is known
        answer = await gateway.request(
            "POST", f"{T}?partition=0", encode(b"hello") + encode(b" world"), headers={"Content-Encoding": coding}
        )
        assert answer.status == 201, answer
    assert await values(gateway) == ["hello world"] * 2


BATCHES = [
    ("application/json", json.dumps(["a", {"value": "b"}]).encode()),
    ("application/x-ndjson", b"a\nb\n"),
    ("application/vnd.kateway.frames", frame(0, Record(0, -1, None, b"a")) + frame(-1, Record(0, -1, None, b"b"))),
]


@ENCODED
@pytest.mark.parametrize(("content_type", "batch"), BATCHES, ids=["json", "ndjson", "frames"])
@pytest_twisted.ensureDeferred
async def test_encoded_batch_is_stored_decoded(
    gateway: RunningGateway, coding: str, encode: Encode, content_type: str, batch: bytes
) -> None:
    headers = {"Content-Type": content_type, "Content-Encoding": coding}
    answer = await gateway.request("POST", f"{T}?batch=1&partition=0", encode(batch), headers=headers)
    assert (answer.status, len(answer.json()["results"])) == (201, 2)
    assert await values(gateway) == ["a", "b"]


@pytest.mark.parametrize(
    ("coding", "body", "status", "code"),
    [
        ("gzip", gzip.compress(b"x")[:-1], 400, "bad-request"),
        ("zstd", b"not zstd", 400, "bad-request"),
        ("gzip", gzip.compress(bytes(50_000_000)), 413, "too-large"),
        ("zstd", bytes(cramjam.zstd.compress(bytes(50_000_000))), 413, "too-large"),
        ("br", b"x", 415, "unsupported-media-type"),
        ("gzip, gzip", b"x", 415, "unsupported-media-type"),
    ],
)
@pytest.mark.parametrize("query", ["partition=0", "partition=0&batch=1"])
@pytest_twisted.ensureDeferred
async def test_body_that_cannot_be_decoded_is_refused_and_nothing_written(
    gateway: RunningGateway, coding: str, body: bytes, status: int, code: str, query: str
) -> None:
    headers = {"Content-Encoding": coding, "Content-Type": "application/x-ndjson"}
    answer = await gateway.request("POST", f"{T}?{query}", body, headers=headers)
    assert (answer.status, answer.code) == (status, code)
    if status == 415:
        assert answer.header("accept-encoding") == "gzip, zstd"
    # the connection goes on
    assert (await gateway.request("POST", f"{T}?partition=0", b"after")).json()["offset"] == 0
