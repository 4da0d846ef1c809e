"""Subscribing as HTTP-API.md says it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import attrs
import cramjam
import pytest
import pytest_twisted
from gateways import Client, RunningGateway, config, eventually, settled

from kateway.config.schema import DeliveryConfig

T = "/v1/topics/foobar"
G = f"{T}/group1"


async def publish(gateway: RunningGateway, *values: str, partition: int = 0) -> None:
    for value in values:
        answer = await gateway.request("POST", f"{T}?partition={partition}", value.encode())
        assert answer.status == 201


async def committed(gateway: RunningGateway, partition: int = 0) -> int | None:
    answer = await gateway.request("GET", f"{G}/offsets")
    found: int | None = answer.json()["partitions"][partition]["committed"]
    return found


@pytest_twisted.ensureDeferred
async def test_one_record_is_its_value_with_its_facts_in_headers(gateway: RunningGateway) -> None:
    await gateway.request(
        "POST", f"{T}?partition=1&key=k", b"\x00x", headers={"Content-Type": "image/png", "Kateway-Header-N": "v"}
    )
    answer = await gateway.request("GET", G)
    assert (answer.status, answer.body) == (200, b"\x00x")
    facts = {
        name: answer.header(name)
        for name in ("content-type", "x-partition", "x-offset", "x-key", "x-attempt", "kateway-header-n")
    }
    assert facts == {
        "content-type": "image/png",
        "x-partition": "1",
        "x-offset": "0",
        "x-key": "k",
        "x-attempt": "1",
        "kateway-header-n": "v",
    }
    assert answer.header("x-timestamp")


@pytest_twisted.ensureDeferred
async def test_an_empty_topic_answers_204_after_the_timeout(gateway: RunningGateway) -> None:
    answer = await gateway.request("GET", f"{G}?timeout=0.1")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.header("x-request-id")


@pytest_twisted.ensureDeferred
async def test_a_poll_that_does_not_wait_finds_what_is_there(gateway: RunningGateway) -> None:
    gateway.service.parts.edges.subscriptions.least_look_seconds = 10.0  # a busy machine
    await publish(gateway, "a")
    assert (await gateway.request("GET", f"{G}?timeout=0")).body == b"a"
    assert (await gateway.request("GET", f"{G}?timeout=0")).status == 204


@pytest_twisted.ensureDeferred
async def test_values_come_in_order_each_with_a_newline(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b", "c")
    answer = await gateway.request("GET", f"{G}?limit=10&idle=0.1")
    assert (answer.status, answer.body) == (200, b"a\nb\nc\n")


@pytest_twisted.ensureDeferred
async def test_ndjson_and_json_tell_everything(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b")
    lines = await gateway.request("GET", f"{G}?limit=2", headers={"Accept": "application/x-ndjson"})
    first, second = map(json.loads, lines.body.splitlines())
    assert (first["partition"], first["offset"], first["value"], first["key"]) == (0, 0, "a", None)
    assert second["offset"] == 1
    array = await gateway.request("GET", f"{T}/group2?limit=2", headers={"Accept": "application/json"})
    assert [record["value"] for record in array.json()] == ["a", "b"]


@pytest_twisted.ensureDeferred
async def test_an_accept_that_names_none_is_refused(gateway: RunningGateway) -> None:
    answer = await gateway.request("GET", G, headers={"Accept": "text/html"})
    assert (answer.status, answer.code) == (406, "not-acceptable")


@pytest_twisted.ensureDeferred
async def test_read_records_are_not_read_again(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b", "c")
    first = await gateway.request("GET", f"{G}?limit=2")
    second = await gateway.request("GET", f"{G}?limit=2&idle=0.1&timeout=5")
    assert (first.body, second.body) == (b"a\nb\n", b"c\n")


@pytest_twisted.ensureDeferred
async def test_a_new_group_starts_where_it_says(gateway: RunningGateway) -> None:
    await publish(gateway, "a")
    latest = gateway.request("GET", f"{T}/late?offset=latest&timeout=5")
    earliest = await gateway.request("GET", f"{T}/early?timeout=5")
    assert earliest.body == b"a"
    waiting = gateway.spawn(latest)
    await eventually(lambda: gateway.service.parts.groups.readers == 1)
    await settled()
    await publish(gateway, "b")
    assert (await waiting).body == b"b"


@pytest_twisted.ensureDeferred
async def test_max_bytes_ends_a_response_but_one_record_always_comes(gateway: RunningGateway) -> None:
    await publish(gateway, "x" * 100, "y" * 100)
    answer = await gateway.request("GET", f"{G}?limit=10&max_bytes=10")
    assert answer.body == b"x" * 100 + b"\n"


@pytest.mark.parametrize("path", [f"{G}?timeout=5&", f"{T}?partition=0&offset=0&"])
@pytest_twisted.ensureDeferred
async def test_a_record_larger_than_max_bytes_comes_alone(gateway: RunningGateway, path: str) -> None:
    await publish(gateway, "a", "b", "x" * 100, "c")
    first = await gateway.request("GET", f"{path}limit=10&max_bytes=50")
    assert first.body == b"a\nb\n"
    path = path.replace("offset=0", "offset=2")
    assert (await gateway.request("GET", f"{path}limit=10&max_bytes=50")).body == b"x" * 100 + b"\n"
    path = path.replace("offset=2", "offset=3")
    assert (await gateway.request("GET", f"{path}limit=10&max_bytes=50")).body == b"c\n"


@pytest_twisted.ensureDeferred
async def test_a_waiting_reader_hears_at_once(gateway: RunningGateway) -> None:
    await publish(gateway, "old")
    await gateway.request("GET", G)
    waiting = gateway.spawn(gateway.request("GET", f"{G}?timeout=10"))
    await publish(gateway, "new")
    assert (await waiting).body == b"new"


@pytest_twisted.ensureDeferred
async def test_a_follower_gets_its_head_at_once_and_records_as_they_come(gateway: RunningGateway) -> None:
    await publish(gateway, "a")
    client = await Client.connect(gateway.port)
    client.send(f"GET {G}?follow=1 HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
    await client.until(b'"value":"a"')
    assert client.received.startswith(b"HTTP/1.1 200 ")
    await publish(gateway, "b", partition=3)
    await client.until(b'"value":"b"')
    client.close()


@pytest_twisted.ensureDeferred
async def test_two_readers_share_the_partitions(gateway: RunningGateway) -> None:
    clients = [await Client.connect(gateway.port) for _ in range(2)]
    for client in clients:
        client.send(f"GET {G}?follow=1 HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
        await client.until(b"\r\n\r\n")
    for partition in range(4):
        await publish(gateway, f"p{partition}", partition=partition)

    def values(client: Client) -> set[int]:
        return {partition for partition in range(4) if f'"p{partition}"'.encode() in client.received}

    await eventually(lambda: values(clients[0]) | values(clients[1]) == {0, 1, 2, 3})
    assert len(values(clients[0])) == len(values(clients[1])) == 2
    for client in clients:
        client.close()


@pytest_twisted.ensureDeferred
async def test_follower_has_no_limit(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b", "c")
    client = await Client.connect(gateway.port)
    client.send(f"GET {G}?follow=1&limit=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    await client.until(b"c\n")
    assert b"\r\n0\r\n" not in client.received
    client.close()


@pytest.mark.parametrize("warm", [True, False])
@pytest_twisted.ensureDeferred
async def test_one_follower_more_than_partitions_is_refused(gateway: RunningGateway, warm: bool) -> None:
    await publish(gateway, "a")
    clients = [await Client.connect(gateway.port) for _ in range(4)]
    for client in clients:
        client.send(f"GET {G}?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        if warm:
            await client.until(b"a\n" if client is clients[0] else b"\r\n\r\n")
    await eventually(lambda: gateway.service.parts.groups.readers == 4)
    answer = await gateway.request("GET", f"{G}?timeout=5")
    assert (answer.status, answer.code) == (409, "too-many-consumers")
    for client in clients:
        client.close()
    await eventually(lambda: gateway.service.parts.groups.readers == 0)


@pytest_twisted.ensureDeferred
async def test_offsets_are_shown_and_moved(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b", "c")
    await gateway.request("GET", f"{G}?limit=3")
    answer: Any = None
    for body, expected in [
        ({"to": "latest"}, 3),
        ({"to": "earliest"}, 0),
        ({"offsets": {"0": 2}}, 2),
        ({"timestamp": 0}, 0),
        ({"timestamp": 99999999999999}, 3),
    ]:
        answer = await gateway.request("PUT", f"{G}/offsets", json.dumps(body).encode())
        assert (answer.status, answer.json()["partitions"][0]) == (200, {"partition": 0, "committed": expected})
    await gateway.request("PUT", f"{G}/offsets", b'{"offsets":{"0":1}}')
    again = await gateway.request("GET", f"{G}?limit=2&timeout=5")
    assert again.body == b"b\nc\n"


@pytest_twisted.ensureDeferred
async def test_plain_values_are_compressed_as_text_only_where_they_are_called_that(gateway: RunningGateway) -> None:
    await publish(gateway, *("x" * 300 for _ in range(5)))
    for accept, encoding in (("text/plain", "gzip"), ("*/*", None)):
        client = await Client.connect(gateway.port)
        client.send(
            f"GET {T}/{accept[:1].replace('*', 'w')}?limit=5 HTTP/1.0\r\nHost: x\r\n"
            f"Accept: text/nothing\r\nAccept: {accept}\r\nAccept-Encoding: gzip\r\n\r\n"
        )
        await eventually(lambda client=client: client.lost)
        head, _, body = client.received.partition(b"\r\n\r\n")
        assert (b"content-encoding: gzip" in head.lower()) == (encoding is not None)
        assert (gzip.decompress(body) if encoding else body) == (b"x" * 300 + b"\n") * 5


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"timestamp": 1 << 63}, "invalid-parameter"),
        ({"timestamp": -1}, "invalid-parameter"),
        ({"timestamp": True}, "bad-request"),
        ({"offsets": {"0": 1 << 63}}, "invalid-parameter"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_place_that_cannot_be_is_refused(gateway: RunningGateway, body: dict[str, Any], code: str) -> None:
    await publish(gateway, "a")
    answer = await gateway.request("PUT", f"{G}/offsets", json.dumps(body).encode())
    assert (answer.status, answer.code) == (400, code)


@pytest_twisted.ensureDeferred
async def test_a_group_that_lingers_on_other_topics_can_be_moved(tmp_path: Path) -> None:
    delivery = DeliveryConfig(settle_seconds=0.3, linger_seconds=30.0)
    gateway = RunningGateway(attrs.evolve(config(tmp_path), delivery=delivery), "hot")
    await gateway.start()
    try:
        await publish(gateway, "a")
        await gateway.request("GET", f"{G}?timeout=5")
        await gateway.request("GET", f"{G}?queue=dead&timeout=0")
        assert gateway.service.parts.groups.groups == 2
        moved = await gateway.request("PUT", f"{G}/offsets", b'{"to":"earliest"}')
        assert moved.status == 200
        assert gateway.service.parts.groups.groups == 0
    finally:
        await gateway.stop()


@pytest_twisted.ensureDeferred
async def test_a_group_with_a_reader_cannot_be_moved(gateway: RunningGateway) -> None:
    await publish(gateway, "a")
    client = await Client.connect(gateway.port)
    client.send(f"GET {G}?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
    await client.until(b"a\n")
    answer = await gateway.request("PUT", f"{G}/offsets", b'{"to":"earliest"}')
    assert (answer.status, answer.code) == (409, "group-busy")
    client.close()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad-request"),
        (b'{"to":"middle"}', 400, "bad-request"),
        (b'{"offsets":{"x":1}}', 400, "invalid-parameter"),
        (b'{"offsets":{"0":-1}}', 400, "invalid-parameter"),
        (b'{"offsets":{"77":1}}', 404, "partition-not-found"),
        (b'{"offsets":{"0":77}}', 416, "offset-out-of-range"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_move_that_cannot_be_is_refused(gateway: RunningGateway, body: bytes, status: int, code: str) -> None:
    await publish(gateway, "a")
    answer = await gateway.request("PUT", f"{G}/offsets", body)
    assert (answer.status, answer.code) == (status, code)


@pytest_twisted.ensureDeferred
async def test_lag_counts_what_is_behind(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b", "c")
    answer = await gateway.request("GET", f"{G}/lag")
    assert answer.json()["lag"] == 3
    assert answer.json()["partitions"][0] == {
        "partition": 0,
        "end": 3,
        "committed": None,
        "lag": 3,
        "unacked": 0,
        "oldest_unacked_seconds": 0.0,
    }


@pytest_twisted.ensureDeferred
async def test_a_topic_tells_its_partitions(gateway: RunningGateway) -> None:
    assert (await gateway.request("GET", T)).code == "topic-not-found"
    await publish(gateway, "a", partition=2)
    answer = await gateway.request("GET", T)
    assert answer.json() == {
        "topic": "foobar",
        "version": "v1",
        "partitions": [{"partition": p, "earliest": 0, "end": 1 if p == 2 else 0} for p in range(4)],
    }


@pytest_twisted.ensureDeferred
async def test_records_are_read_without_a_group(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b", "c")
    answer = await gateway.request("GET", f"{T}?partition=0&offset=1&limit=10")
    assert (answer.status, answer.body) == (200, b"b\nc\n")
    single = await gateway.request("GET", f"{T}?partition=0&offset=1")
    assert (single.body, single.header("x-offset")) == (b"b", "1")
    assert (await gateway.request("GET", f"{T}?partition=0&offset=3&timeout=0.1")).status == 204
    assert (await gateway.request("GET", f"{T}?partition=0&offset=4")).code == "offset-out-of-range"
    assert (await gateway.request("GET", f"{T}?partition=9&offset=0")).code == "partition-not-found"
    waiting = gateway.spawn(gateway.request("GET", f"{T}?partition=0&offset=3&timeout=10"))
    await publish(gateway, "d")
    assert (await waiting).body == b"d"


@pytest.mark.parametrize(("limit", "read"), [(1000, 4), (1001, 5)])
@pytest_twisted.ensureDeferred
async def test_a_read_of_many_records_has_no_size_limit_of_its_own(
    gateway: RunningGateway, limit: int, read: int
) -> None:
    await publish(gateway, *["x" * 300_000] * 5)
    answer = await gateway.request("GET", f"{T}?partition=0&offset=0&limit={limit}")
    assert answer.body.count(b"\n") == read


@pytest_twisted.ensureDeferred
async def test_explicit_records_come_back_until_they_are_acknowledged(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b", "c")
    E = f"{G}?ack=explicit&limit=3&idle=0.1&timeout=5"
    taken = await gateway.request("GET", E, headers={"Accept": "application/x-ndjson"})
    leases = [json.loads(line)["lease"] for line in taken.body.splitlines()]
    assert len(leases) == 3
    acks = [
        {"partition": 0, "offset": 0, "lease": leases[0]},
        {"partition": 0, "offset": 1, "outcome": "retry"},
        {"partition": 0, "offset": 2, "lease": "nobody's"},
        {"partition": 0, "offset": 9},
    ]
    answer = await gateway.request("POST", f"{G}/acks?sync=1", json.dumps(acks).encode())
    assert [result["status"] for result in answer.json()["results"]] == [200, 200, 409, 404]
    assert await committed(gateway) == 1
    again = await gateway.request("GET", E, headers={"Accept": "application/x-ndjson"})
    (repeated,) = map(json.loads, again.body.splitlines())
    assert (repeated["value"], repeated["attempt"]) == ("b", 2)
    done = await gateway.request("POST", f"{G}/acks?sync=1", b'[{"partition":0,"upto":2}]')
    assert done.json()["results"] == [{"partition": 0, "upto": 2, "status": 200}]
    assert await committed(gateway) == 3


@pytest_twisted.ensureDeferred
async def test_dead_letters_are_read_from_their_queue(gateway: RunningGateway) -> None:
    await publish(gateway, "poison")
    await gateway.request("GET", f"{G}?ack=explicit")
    answer = await gateway.request("POST", f"{G}/acks?sync=1", b'[{"partition":0,"offset":0,"outcome":"dead"}]')
    assert answer.json()["results"][0]["status"] == 200
    store = gateway.service.parts.storing.stores["default"]
    assert store.partitions("foobar.group1.dead") == store.partitions("foobar")
    dead = await gateway.request("GET", f"{G}?queue=dead&timeout=5")
    assert dead.body == b"poison"


@pytest_twisted.ensureDeferred
async def test_a_dead_letter_queue_is_empty_before_its_first_letter(gateway: RunningGateway) -> None:
    await publish(gateway, "a")
    assert (await gateway.request("GET", f"{G}?queue=dead&timeout=0.1")).status == 204
    missing = await gateway.request("GET", "/v1/topics/unknown/group1?queue=dead&timeout=0.1")
    assert (missing.status, missing.code) == (404, "topic-not-found")


@pytest_twisted.ensureDeferred
async def test_dead_letters_are_acknowledged_and_moved_over_in_their_own_queue(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b")
    await gateway.request("GET", f"{G}?ack=explicit&limit=2&idle=0.1")
    both = b'[{"partition":0,"offset":0,"outcome":"dead"},{"partition":0,"offset":1,"outcome":"dead"}]'
    await gateway.request("POST", f"{G}/acks?sync=1", both)
    letter = await gateway.request("GET", f"{G}?queue=dead&ack=explicit&timeout=5")
    lease = letter.header("x-lease")
    ack = json.dumps([{"partition": 0, "offset": 0, "lease": lease}]).encode()
    lag = (await gateway.request("GET", f"{G}/lag?queue=dead")).json()["partitions"][0]
    assert (lag["lag"], lag["unacked"]) == (2, 1)
    for sync in ("", "&sync=1"):
        answer = await gateway.request("POST", f"{G}/acks?queue=dead{sync}", ack)
        assert [result["status"] for result in answer.json()["results"]] == [200]
    offsets = (await gateway.request("GET", f"{G}/offsets?queue=dead")).json()["partitions"][0]
    assert offsets["committed"] == 1
    moved = await gateway.request("PUT", f"{G}/offsets?queue=dead", b'{"to":"earliest"}')
    assert (moved.status, moved.json()["partitions"][0]["committed"]) == (200, 0)
    assert (await gateway.request("GET", f"{G}?queue=dead&timeout=5")).body == b"a"
    wrong = await gateway.request("GET", f"{G}/lag?queue=alive")
    assert (wrong.status, wrong.code) == (400, "invalid-parameter")


@pytest_twisted.ensureDeferred
async def test_a_dead_letter_stays_where_it_is_however_often_it_is_delivered(tmp_path: Path) -> None:
    gateway = RunningGateway(attrs.evolve(config(tmp_path), delivery=DeliveryConfig(max_deliveries=1)), "hot")
    await gateway.start()
    try:
        await publish(gateway, "a")
        await gateway.request("GET", f"{G}?ack=explicit")
        await gateway.request("POST", f"{G}/acks?sync=1", b'[{"partition":0,"offset":0,"outcome":"dead"}]')
        retry = b'[{"partition":0,"offset":0,"outcome":"retry"}]'
        for attempt in ("1", "2", "3"):
            letter = await gateway.request("GET", f"{G}?queue=dead&ack=explicit&timeout=5")
            assert (letter.body, letter.header("x-attempt")) == (b"a", attempt)
            assert (await gateway.request("POST", f"{G}/acks?queue=dead", retry)).status == 200
    finally:
        await gateway.stop()


@pytest_twisted.ensureDeferred
async def test_record_just_rejected_is_found_among_the_dead_letters(gateway: RunningGateway) -> None:
    await publish(gateway, "poison")
    await gateway.request("GET", f"{G}?ack=explicit")
    rejected = gateway.request("POST", f"{G}/acks", b'[{"partition":0,"offset":0,"outcome":"dead"}]')
    assert (await rejected).status == 200
    assert (await gateway.request("GET", f"{G}?queue=dead&timeout=5")).body == b"poison"


@pytest_twisted.ensureDeferred
async def test_events_tell_how_far_each_partition_was_read(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b")
    answer = await gateway.request("GET", f"{G}?limit=2", headers={"Accept": "text/event-stream"})
    assert answer.header("content-type") == "text/event-stream"
    events = answer.body.decode().split("\n\n")
    assert [event.split("\n")[0] for event in events[:2]] == ["id: 0:0", "id: 0:1"]
    assert json.loads(events[1].split("\n")[1].removeprefix("data: "))["value"] == "b"


@pytest_twisted.ensureDeferred
async def test_a_last_event_id_acknowledges_up_to_and_with_it(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b", "c")
    client = await Client.connect(gateway.port)
    client.send(f"GET {G}?follow=1 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
    await client.until(b'"value":"c"')
    client.reset()
    answer = await gateway.request(
        "GET", f"{G}?limit=2&idle=0.5&timeout=9", headers={"Accept": "text/event-stream", "Last-Event-ID": "0:1"}
    )
    assert answer.body.startswith(b"id: 0:2\n")
    bad = await gateway.request("GET", G, headers={"Accept": "text/event-stream", "Last-Event-ID": "x"})
    assert (bad.status, bad.code) == (400, "invalid-parameter")
    none = await gateway.request("GET", f"{G}?timeout=0", headers={"Accept": "text/event-stream", "Last-Event-ID": " "})
    assert none.status in {200, 204}
    bad = await gateway.request("GET", f"{G}?follow=1&idle=x")
    assert (bad.status, bad.code) == (400, "invalid-parameter")


@pytest_twisted.ensureDeferred
async def test_a_last_event_id_counts_where_nothing_was_committed(gateway: RunningGateway) -> None:
    await publish(gateway, "a", "b", "c")
    # no client is believed beyond the end, and the news of a write may be a moment late
    assert (await gateway.request("GET", f"{T}?partition=0&offset=2")).body == b"c"
    answer = await gateway.request(
        "GET", f"{G}?limit=2&idle=0.5&timeout=9", headers={"Accept": "text/event-stream", "Last-Event-ID": "0:1"}
    )
    assert answer.body.startswith(b"id: 0:2\n")
    await eventually(lambda: gateway.service.parts.groups.groups == 0, 20)
    assert await committed(gateway) == 3


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("path", [f"{G}?limit=5", f"{T}?partition=0&offset=0&limit=5"])
@pytest_twisted.ensureDeferred
async def test_text_of_some_size_is_compressed_where_the_client_takes_it(
    gateway: RunningGateway, path: str, encoding: str
) -> None:
    await publish(gateway, *("x" * 300 for _ in range(5)))
    client = await Client.connect(gateway.port)
    client.send(
        f"GET {path} HTTP/1.0\r\nHost: x\r\nAccept: application/json\r\n"
        f"Accept-Encoding: br\r\nAccept-Encoding: {encoding}\r\n\r\n"
    )
    await eventually(lambda: client.lost)
    head, _, body = client.received.partition(b"\r\n\r\n")
    assert f"content-encoding: {encoding}".encode() in head.lower()
    assert len(body) < 800
    plain = gzip.decompress(body) if encoding == "gzip" else bytes(cramjam.zstd.decompress(body))
    assert [record["value"] for record in json.loads(plain)] == ["x" * 300] * 5
