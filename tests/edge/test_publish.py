"""Publishing as HTTP-API.md says it."""

from __future__ import annotations

import json

import pytest
import pytest_twisted
from gateways import RunningGateway, plain

from kateway.model import Record
from kateway.web.formats.frames import frame

T = "/v1/topics/foobar"
NDJSON = {"Content-Type": "application/x-ndjson"}
JSON = {"Content-Type": "application/json"}
FRAMES = {"Content-Type": "application/vnd.kateway.frames"}


async def stored(gateway: RunningGateway, partition: int, offset: int = 0, limit: int = 100) -> list[dict]:
    answer = await gateway.request(
        "GET",
        f"{T}?partition={partition}&offset={offset}&limit={limit}&timeout=5",
        headers={"Accept": "application/json"},
    )
    assert answer.status == 200, answer
    return answer.json()


@pytest_twisted.ensureDeferred
async def test_a_record_is_written_and_its_place_told(gateway: RunningGateway) -> None:
    answer = await gateway.request("POST", f"{T}?partition=2&ack=2&timeout=1&retry=3", b"m=hello world")
    assert answer.status == 201
    assert answer.json() == {"partition": 2, "offset": 0}
    assert answer.header("x-partition") == "2"
    assert answer.header("x-offset") == "0"
    assert answer.header("location") == f"{T}?partition=2&offset=0"
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-request-id")
    again = await gateway.request("GET", answer.header("location") or "")
    assert (again.status, again.body) == (200, b"m=hello world")


@pytest_twisted.ensureDeferred
async def test_keys_headers_and_content_type_are_kept(gateway: RunningGateway) -> None:
    answer = await gateway.request(
        "POST",
        f"{T}?key=a%20%2Bb&partition=1",
        b"\x00\xff",
        headers={"Content-Type": "image/png", "Kateway-Header-Trace": "x%20y", "X-Request-Id": "mine-1"},
    )
    assert answer.status == 201
    assert answer.header("x-request-id") == "mine-1"
    (record,) = await stored(gateway, 1)
    assert record["key"] == "a +b"
    assert record["value_base64"] == "AP8="
    assert {"name": "content-type", "value": "image/png"} in record["headers"]
    assert {"name": "trace", "value": "x%20y"} in record["headers"]


@pytest_twisted.ensureDeferred
async def test_one_key_always_finds_the_same_partition(gateway: RunningGateway) -> None:
    places = {
        (await gateway.request("POST", T, b"x", headers={"Key": "account-7"})).json()["partition"] for _ in range(4)
    }
    assert len(places) == 1


@pytest_twisted.ensureDeferred
async def test_without_acks_nothing_is_acknowledged(gateway: RunningGateway) -> None:
    answer = await gateway.request("POST", f"{T}?ack=0", b"x")
    assert answer.status == 202
    assert answer.json()["offset"] is None
    assert answer.header("x-offset") is None
    assert (await gateway.request("POST", T, b"x", headers={"Acks": "0"})).status == 202


@pytest_twisted.ensureDeferred
async def test_an_empty_record_is_a_record(gateway: RunningGateway) -> None:
    answer = await plain(gateway.port, f"POST {T}?partition=0 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert (await stored(gateway, 0))[0]["value"] == ""


REFUSED = [
    ("POST", "/v1/topics/foo%2Fbar", 400, "invalid-name"),
    ("POST", "/v1/topics/f%C3%B6%C3%B6", 400, "invalid-name"),
    ("POST", "/x1/topics/foobar", 400, "invalid-name"),
    ("POST", "/v1/topics/" + "x" * 250, 400, "invalid-name"),
    ("POST", f"{T}?colour=red", 400, "unknown-parameter"),
    ("POST", f"{T}?ack=maybe", 400, "invalid-parameter"),
    ("POST", f"{T}?timeout=0", 400, "invalid-parameter"),
    ("POST", f"{T}?timeout=-1", 400, "invalid-parameter"),
    ("POST", f"{T}?timeout=60.5", 400, "invalid-parameter"),
    ("POST", f"{T}?partition=-1", 400, "invalid-parameter"),
    ("POST", f"{T}?partition=99", 404, "partition-not-found"),
    ("POST", f"{T}?key=a&key_base64=YQ==", 400, "contradiction"),
    ("POST", f"{T}?batch=1", 415, "unsupported-media-type"),
    ("DELETE", T, 405, "method-not-allowed"),
    ("PUT", f"{T}/group1", 405, "method-not-allowed"),
    ("POST", f"{T}/group1/nothing", 404, "not-found"),
    ("POST", "/v1/topics", 405, "method-not-allowed"),
    ("POST", "/v1/topics/foobar/g/lag/more", 404, "not-found"),
    ("GET", "/nothing/here", 404, "not-found"),
    ("GET", "/nothing/%ff", 400, "bad-request"),
    ("POST", "/live", 405, "method-not-allowed"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), REFUSED)
@pytest_twisted.ensureDeferred
async def test_impossible_option_is_refused_with_its_name(
    gateway: RunningGateway, method: str, path: str, status: int, code: str
) -> None:
    await gateway.request("POST", T, b"first")
    answer = await gateway.request(method, path, b"x")
    assert (answer.status, answer.code) == (status, code)
    if status == 405:
        assert answer.header("allow")


@pytest_twisted.ensureDeferred
async def test_a_query_and_a_header_that_differ_are_refused(gateway: RunningGateway) -> None:
    for path, headers in [(f"{T}?key=a", {"Key": "b"}), (f"{T}?ack=1", {"Acks": "all"})]:
        answer = await gateway.request("POST", path, b"x", headers=headers)
        assert (answer.status, answer.code) == (400, "contradiction")
    agreeing = await gateway.request("POST", f"{T}?key=a", b"x", headers={"Key": "a"})
    assert agreeing.status == 201


@pytest_twisted.ensureDeferred
async def test_a_publish_without_a_length_is_refused(gateway: RunningGateway) -> None:
    answer = await plain(gateway.port, f"POST {T} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 411 ")
    assert b"urn:kateway:error:length-required" in answer


@pytest_twisted.ensureDeferred
async def test_a_json_batch_is_answered_in_its_order(gateway: RunningGateway) -> None:
    batch = [
        "text",
        {"value": "v", "key": "k", "partition": 3, "headers": {"h": "1"}},
        {"value": None, "key": "gone", "partition": 3},
        {"value_json": {"a": [1]}, "partition": 3},
    ]
    answer = await gateway.request("POST", f"{T}?batch=1&partition=1", json.dumps(batch).encode(), headers=JSON)
    assert answer.status == 201
    assert answer.json() == {
        "results": [
            {"partition": 1, "offset": 0},
            {"partition": 3, "offset": 0},
            {"partition": 3, "offset": 1},
            {"partition": 3, "offset": 2},
        ]
    }
    first, second, third = await stored(gateway, 3)
    assert (first["key"], first["value"], first["headers"]) == ("k", "v", [{"name": "h", "value": "1"}])
    assert (second["key"], second["value"]) == ("gone", None)
    assert third["value"] == '{"a":[1]}'


@pytest_twisted.ensureDeferred
async def test_ndjson_lines_are_values(gateway: RunningGateway) -> None:
    answer = await gateway.request("POST", f"{T}?batch=1&partition=0&key=k", b'{"a":1}\r\n\nplain\n', headers=NDJSON)
    assert answer.json() == {"results": [{"partition": 0, "offset": 0}, {"partition": 0, "offset": 1}]}
    assert [(r["key"], r["value"]) for r in await stored(gateway, 0)] == [("k", '{"a":1}'), ("k", "plain")]


@pytest_twisted.ensureDeferred
async def test_frames_carry_their_own_partition_and_time(gateway: RunningGateway) -> None:
    body = frame(2, Record(0, 1732269600000, b"k", None)) + frame(-1, Record(0, -1, None, b"v"))
    answer = await gateway.request("POST", f"{T}?batch=1&partition=0", body, headers=FRAMES)
    assert answer.json() == {"results": [{"partition": 2, "offset": 0}, {"partition": 0, "offset": 0}]}
    assert (await stored(gateway, 2))[0]["timestamp"] == 1732269600000


MALFORMED = [
    (b"[", JSON),
    (b"[]", JSON),
    (b'["fine", 3]', JSON),
    (b"\n\n", NDJSON),
    (frame(0, Record(0, 0, None, b"v"))[:-1], FRAMES),
    (b'["fine", {"value":"x","partition":99}]', JSON),
]


@pytest.mark.parametrize(("body", "headers"), MALFORMED)
@pytest_twisted.ensureDeferred
async def test_a_malformed_batch_writes_nothing(gateway: RunningGateway, body: bytes, headers: dict[str, str]) -> None:
    answer = await gateway.request("POST", f"{T}?batch=1", body, headers=headers)
    assert (answer.status, answer.code) == (400, "malformed-batch")
    topic = await gateway.request("GET", T)
    if topic.status == 200:
        assert all(partition["end"] == 0 for partition in topic.json()["partitions"])


@pytest_twisted.ensureDeferred
async def test_options_and_health_answer(gateway: RunningGateway) -> None:
    answer = await gateway.request("OPTIONS", T)
    assert (answer.status, answer.header("allow")) == (204, "GET, HEAD, OPTIONS, POST")
    assert (await gateway.request("GET", "/live")).status == 200
    ready = await gateway.request("GET", "/ready")
    assert (ready.status, ready.json()["ready"]) == (200, True)
    assert ready.json()["parts"]["storage.default"] == {"healthy": True}


@pytest_twisted.ensureDeferred
async def test_large_batch_that_is_refused_as_a_whole_gets_one_problem(gateway: RunningGateway) -> None:
    assert (await gateway.request("POST", T, b"x")).status == 201
    gateway.service.parts.storing.breakers.set_by_hand("default", "open")
    ndjson = {"Content-Type": "application/x-ndjson"}
    few = await gateway.request("POST", f"{T}?batch=1", b"a\n" * 1000, headers=ndjson)
    assert (few.status, len(few.json()["results"])) == (503, 1000)
    many = await gateway.request("POST", f"{T}?batch=1", b"a\n" * 1001, headers=ndjson)
    assert (many.status, many.code) == (503, "store-unavailable")
    assert many.header("retry-after")
