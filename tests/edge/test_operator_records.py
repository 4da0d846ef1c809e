"""An operator's look at records, and publishes, over the admin listener of a whole gateway."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from administered import Administered, Make, events
from gateways import Answer, eventually

from kateway.config.schema import AdminConfig, RegistryConfig

RECORDS = "/records/app1/foo/v1"


async def published(shop: Administered, *values: bytes, query: str = "") -> None:
    for value in values:
        assert (await shop.publish("app1", f"foo{query}", value)).status == 201


async def peek(shop: Administered, query: str = "", path: str = RECORDS) -> Any:
    answer = await shop.admin("GET", path + query)
    assert answer.status == 200, answer.body
    return answer.json()


def values(found: Any) -> list[str]:
    return [record["value"] for record in found["records"]]


@pytest_twisted.ensureDeferred
async def test_peek_gives_records_as_ndjson_does_and_moves_no_group(hot: Administered) -> None:
    await published(hot, b"one", b"two", query="?key=k")
    found = await peek(hot)
    assert values(found) == ["one", "two"]
    accept = {**hot.key("app2-sub"), "Accept": "application/x-ndjson"}
    lines = await hot.request("GET", "/v1/topics/app1.foo/g1?limit=2", headers=accept)
    assert [json.loads(line) for line in lines.body.splitlines()] == found["records"]
    assert found["scanned"]["partitions"] == [{"partition": 0, "first": 0, "last": 1}]
    assert (found["scanned"]["records"], found["scanned"]["bytes"], found["scanned"]["stopped"]) == (2, 8, "end")


@pytest.mark.parametrize(
    ("query", "expected", "stopped"),
    [
        ("?last=2", ["c3", "d4"], "limit"),
        ("?last=9", ["a1", "b2", "c3", "d4"], "end"),
        ("?partition=0&offset=1", ["b2", "c3", "d4"], "end"),
        ("?partition=0&offset=earliest&limit=1", ["a1"], "limit"),
        ("?partition=0&offset=-1", ["d4"], "end"),
        ("?timestamp=0&limit=3", ["a1", "b2", "c3"], "limit"),
        ("?contains=c3", ["c3"], "end"),
        ("?contains=%33", ["c3"], "end"),
        ("?contains=nothing", [], "end"),
        ("?partition=0&last=4&contains=b&limit=1", ["b2"], "limit"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_peek_begins_where_it_is_told(hot: Administered, query: str, expected: list[str], stopped: str) -> None:
    await published(hot, b"a1", b"b2", b"c3", b"d4")
    found = await peek(hot, query)
    assert (values(found), found["scanned"]["stopped"]) == (expected, stopped)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("?offset=1", 400),
        ("?partition=0&offset=1&last=1", 400),
        ("?limit=0", 400),
        ("?limit=1001", 400),
        ("?last=10001", 400),
        ("?full=2", 400),
        ("?other=1", 400),
        ("?queue=dead", 400),
        ("?group=app2/g1", 400),
        ("?queue=dead&group=g1", 400),
        ("?queue=dead&group=app9/g1", 404),
        ("?queue=dead&group=app2/g1", 404),
        ("?partition=1&last=1", 404),
        ("?partition=0&offset=9", 416),
    ],
)
@pytest_twisted.ensureDeferred
async def test_peek_with_a_fault_is_refused(hot: Administered, query: str, status: int) -> None:
    answer = await hot.admin("GET", RECORDS + query)
    assert (answer.status, bool(answer.code)) == (status, True)


@pytest_twisted.ensureDeferred
async def test_peek_at_an_unknown_topic_is_not_found(hot: Administered) -> None:
    for path in ("/records/app1/bar/v1", "/records/app9/foo/v1", "/records/app1/foo/v2"):
        assert (await hot.admin("GET", path)).status == 404


@pytest_twisted.ensureDeferred
async def test_long_value_is_cut_to_whole_characters_unless_full(hot: Administered) -> None:
    text, binary = "ü" * 3000, b"\xff" * 5000
    await published(hot, b"x" + text.encode(), binary)
    one, two = (await peek(hot))["records"]
    assert (one["value"], one["value_bytes"], one["truncated"]) == ("x" + text[:2047], 6001, True)
    assert (len(two["value_base64"]), two["value_bytes"], two["truncated"]) == (5464, 5000, True)
    one, two = (await peek(hot, "?full=1"))["records"]
    assert one["value"] == "x" + text
    assert not {"truncated", "value_bytes"} & one.keys()


@pytest_twisted.ensureDeferred
async def test_peek_stops_at_the_configured_bounds(administered: Make) -> None:
    shop = administered(admin=AdminConfig(peek_max_records=2))
    await shop.start()
    await shop.application("app1")
    await shop.topic("app1/foo/v1")
    await published(shop, b"a", b"b", b"c")
    found = await peek(shop, "?timestamp=0&contains=zzz")
    assert (found["scanned"]["records"], found["scanned"]["stopped"], found["records"]) == (2, "records", [])


@pytest_twisted.ensureDeferred
async def test_peek_is_audited_with_the_offsets_that_were_shown(hot: Administered) -> None:
    await published(hot, b"a", b"b", b"c")
    await peek(hot, "?partition=0&offset=1")
    await hot.admin("GET", RECORDS + "?partition=0&offset=9")
    await eventually(lambda: len(events(hot, "records.peek")) == 2)
    shown, refused = events(hot, "records.peek")
    assert (shown["object"], shown["outcome"], shown["actor"]) == ("app1/foo/v1 0:1-2", "ok", "admin")
    assert (refused["object"], refused["outcome"]) == ("app1/foo/v1", "offset-out-of-range")


@pytest_twisted.ensureDeferred
async def test_open_gateway_calls_its_application_default(administered: Make) -> None:
    shop = administered(registry=RegistryConfig(driver="open"))
    await shop.start()
    answer: Answer = await shop.request("POST", "/v2/topics/a.b", b"x")
    assert answer.status == 201
    assert values(await peek(shop, path="/records/default/a.b/v2")) == ["x"]
    assert (await shop.admin("GET", "/records/app1/a.b/v2")).status == 404
    assert (await shop.admin("GET", "/records/default/a.b/2")).status == 400
    assert (await shop.admin("GET", "/records/default/none/v1")).status == 404


# --- publishing ------------------------------------------------------------------------------------------------


async def post(shop: Administered, body: bytes, query: str = "", path: str = RECORDS, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await shop.ask_admin("POST", f"/admin/v1{path}{query}", data=body, headers=named)


@pytest_twisted.ensureDeferred
async def test_operator_publishes_a_record_as_a_client_does(hot: Administered) -> None:
    answer = await post(hot, b"hello", "?key=k", Content_Type="text/plain", Kateway_Header_a="b", Acks="1")
    assert (answer.status, answer.json()) == (201, {"partition": 0, "offset": 0})
    assert answer.header("location") == "/admin/v1/records/app1/foo/v1/0/0"
    assert (answer.header("x-partition"), answer.header("x-offset")) == ("0", "0")
    (record,) = (await peek(hot))["records"]
    assert (record["key"], record["value"]) == ("k", "hello")
    named = {header["name"]: header["value"] for header in record["headers"]}
    assert named == {"a": "b", "content-type": "text/plain"}
    assert (await hot.read("app2", "app1.foo/g1")).body == b"hello"


@pytest_twisted.ensureDeferred
async def test_operator_publishes_batches_tombstones_and_without_acknowledgement(hot: Administered) -> None:
    answer = await post(hot, b'["a",{"key":"k","value_json":[1]}]', "?batch=1", Content_Type="application/json")
    assert (answer.status, [result["offset"] for result in answer.json()["results"]]) == (201, [0, 1])
    answer = await post(hot, b"c\nd\n", "?batch=1&timestamp=5", Content_Type="application/x-ndjson")
    assert answer.status == 201
    assert (await post(hot, b"", "?tombstone=1&key=k")).status == 201
    answer = await post(hot, b"z", "?ack=0")
    assert (answer.status, answer.json()["offset"]) == (202, None)
    found = (await peek(hot, "?partition=0&offset=0&limit=5"))["records"]
    assert [record["value"] for record in found] == ["a", "[1]", "c", "d", None]
    assert [record["timestamp"] for record in found[2:4]] == [5, 5]


@pytest.mark.parametrize(
    ("body", "query", "path", "status"),
    [
        (b"x", "?other=1", RECORDS, 400),
        (b"[", "?batch=1", RECORDS, 415),
        (b"x", "?partition=7", RECORDS, 404),
        (b"x", "?tombstone=1&key=k", RECORDS, 400),
        (b"x", "", "/records/app1/bar/v1", 404),
        (b"x", "", "/records/app9/foo/v1", 404),
        (b"x" * 1_100_000, "", RECORDS, 413),
    ],
)
@pytest_twisted.ensureDeferred
async def test_publish_with_a_fault_writes_nothing(
    hot: Administered, body: bytes, query: str, path: str, status: int
) -> None:
    assert (await post(hot, body, query, path)).status == status
    assert (await peek(hot))["records"] == []


@pytest_twisted.ensureDeferred
async def test_publish_to_a_retired_topic_is_gone(hot: Administered) -> None:
    await hot.topic("app1/foo/v1", state="retired")
    assert (await post(hot, b"x")).status == 410
    assert (await peek(hot))["records"] == []


@pytest_twisted.ensureDeferred
async def test_publish_under_an_idempotency_key_is_written_once(hot: Administered) -> None:
    first = await post(hot, b"x", Idempotency_Key="once")
    again = await post(hot, b"x", Idempotency_Key="once")
    assert first.json() == again.json() == {"partition": 0, "offset": 0}
    assert (first.header("idempotency-replayed"), again.header("idempotency-replayed")) == (None, "true")
    assert (await post(hot, b"y", Idempotency_Key="once")).status == 422


@pytest_twisted.ensureDeferred
async def test_publish_is_audited_with_the_offsets_that_were_written(hot: Administered) -> None:
    await post(hot, b"a\nb", "?batch=1", Content_Type="application/x-ndjson")
    await post(hot, b"x", "?partition=7")
    await eventually(lambda: len(events(hot, "records.publish")) == 2)
    written, refused = events(hot, "records.publish")
    assert (written["object"], written["outcome"]) == ("app1/foo/v1 0:0-1", "ok")
    assert (refused["object"], refused["outcome"]) == ("app1/foo/v1", "partition-not-found")


@pytest_twisted.ensureDeferred
async def test_page_of_another_origin_publishes_nothing(hot: Administered) -> None:
    assert (await post(hot, b"x", Origin="http://evil.example")).status == 403
    assert (await peek(hot))["records"] == []
