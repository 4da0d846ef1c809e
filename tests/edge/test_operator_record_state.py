"""One record and what has become of it for a group, over the admin listener of a whole gateway."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
import pytest_twisted
from administered import Administered, Make, events, prepared
from gateways import Client, eventually

from kateway.config.schema import AdminConfig, RegistryConfig


async def published(shop: Administered, *values: bytes) -> None:
    for value in values:
        assert (await shop.publish("app1", "foo", value)).status == 201


async def lease(shop: Administered, limit: int) -> None:
    path = f"app1.foo/g1?ack=explicit&limit={limit}&idle=0.2&ack_timeout=60"
    assert (await shop.read("app2", path)).status == 200


async def acknowledge(shop: Administered, *items: dict[str, Any]) -> None:
    answer = await shop.request(
        "POST",
        "/v1/topics/app1.foo/g1/acks?sync=1",
        headers=shop.key("app2-sub"),
        json=[{"partition": 0, **item} for item in items],
    )
    assert [result["status"] for result in answer.json()["results"]] == [200] * len(items)


async def state(shop: Administered, offset: int, query: str = "?group=app2/g1") -> Any:
    answer = await shop.admin("GET", f"/records/app1/foo/v1/0/{offset}{query}")
    assert answer.status == 200, answer.body
    return answer.json()


@pytest_twisted.ensureDeferred
async def test_record_alone_is_shown_without_a_group(hot: Administered) -> None:
    await published(hot, b"a", b"y" * 5000)
    assert (await state(hot, 0, ""))["record"]["value"] == "a"
    assert (await state(hot, 1, "")).keys() == {"record"}
    assert len((await state(hot, 1, ""))["record"]["value"]) == 4096
    assert len((await state(hot, 1, "?full=1"))["record"]["value"]) == 5000


@pytest_twisted.ensureDeferred
async def test_record_that_no_reader_has_taken_is_not_read(hot: Administered) -> None:
    await published(hot, b"a", b"b")
    found = await state(hot, 1)
    assert (found["state"], found["read_here"], found["committed"], found["group"]) == (
        "not-read",
        False,
        None,
        "app2/g1",
    )
    await lease(hot, 1)
    found = await state(hot, 1)
    assert (found["state"], found["read_here"]) == ("not-read", True)


@pytest_twisted.ensureDeferred
async def test_leased_record_says_to_whom_until_when_and_which_attempt(hot: Administered) -> None:
    await published(hot, b"a")
    await lease(hot, 1)
    found = await state(hot, 0)
    assert (found["state"], found["attempt"]) == ("leased", 1)
    assert found["client"] == {"caller": "app2/app2-sub", "address": "127.0.0.1"}
    assert found["lease"]
    left = datetime.fromisoformat(found["until"]) - datetime.now().astimezone()
    assert 50 < left.total_seconds() < 62
    await acknowledge(hot, {"offset": 0, "outcome": "retry", "delay": 30})
    found = await state(hot, 0)
    assert (found["state"], found["attempt"], bool(found["until"])) == ("waiting", 1, True)
    await acknowledge(hot, {"offset": 0, "outcome": "retry", "delay": 0})
    await eventually(lambda: any(owned.delivery.leases.has_ready() for owned in member(hot).dispatch.all))
    found = await state(hot, 0)
    assert (found["state"], found["until"]) == ("returned", None)
    await lease(hot, 1)
    assert (await state(hot, 0))["attempt"] == 2


def member(shop: Administered) -> Any:
    return next(iter(shop.service.parts.groups.live.values()))


@pytest_twisted.ensureDeferred
async def test_acknowledged_record_is_committed_as_soon_as_those_before_it_are(hot: Administered) -> None:
    await published(hot, b"a", b"b")
    await lease(hot, 2)
    await acknowledge(hot, {"offset": 1})
    found = await state(hot, 1)
    assert (found["state"], found["dead"], found["unknown"]) == ("acknowledged", None, [])
    await acknowledge(hot, {"offset": 0})
    found = await state(hot, 1)
    assert (found["state"], found["committed"]) == ("committed", 2)


@pytest_twisted.ensureDeferred
async def test_group_that_was_left_is_answered_from_its_commits(administered: Make) -> None:
    first = await prepared(administered())
    await published(first, b"a", b"b", b"c", b"d")
    await lease(first, 3)
    await acknowledge(first, {"offset": 0}, {"offset": 2})
    await first.stop()
    second = administered()
    await second.start()
    assert [(await state(second, offset))["state"] for offset in range(4)] == [
        "committed",
        "not-read",
        "acknowledged",
        "not-read",
    ]


@pytest_twisted.ensureDeferred
async def test_record_on_its_way_to_a_follower_is_in_flight(hot: Administered) -> None:
    await published(hot, b"a")
    client = await Client.connect(hot.port)
    client.send(f"GET /v1/topics/app1.foo/g1?follow=1 HTTP/1.1\r\nHost: x\r\n{hot.head('app2-sub')}\r\n")
    await client.until(b"a\n")
    found = await state(hot, 0)
    assert (found["state"], found["attempt"], found["client"]["caller"]) == ("in-flight", 1, "app2/app2-sub")
    client.close()


@pytest_twisted.ensureDeferred
async def test_dead_record_says_why_and_where_it_lies(hot: Administered) -> None:
    await published(hot, b"a", b"b")
    await lease(hot, 2)
    await acknowledge(hot, {"offset": 1, "outcome": "dead"}, {"offset": 0})
    found = await state(hot, 1)
    assert (found["state"], found["reason"], found["attempt"]) == ("dead", "rejected", 1)
    assert {**found["dead"], "timestamp": 0} == {
        "partition": 0,
        "offset": 0,
        "timestamp": 0,
        "reason": "rejected",
        "attempts": 1,
    }
    assert (await state(hot, 0))["state"] == "committed"


@pytest_twisted.ensureDeferred
async def test_more_dead_letters_than_are_looked_through_are_said_to_be_unknown(administered: Make) -> None:
    shop = administered(admin=AdminConfig(peek_max_records=1))
    await shop.start()
    for app in ("app1", "app2"):
        await shop.application(app)
    await shop.topic("app1/foo/v1")
    await shop.binding("app2/app1/foo/v1")
    await published(shop, b"a", b"b", b"c")
    await lease(shop, 3)
    await acknowledge(shop, {"offset": 1, "outcome": "dead"})
    await acknowledge(shop, {"offset": 2, "outcome": "dead"})
    await acknowledge(shop, {"offset": 0})
    assert (await state(shop, 2))["state"] == "dead"
    found = await state(shop, 1)
    assert (found["state"], found["unknown"]) == ("committed", ["dead"])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/records/app1/foo/v1/0/1", 404),
        ("/records/app1/foo/v1/0/9", 416),
        ("/records/app1/foo/v1/7/0", 404),
        ("/records/app1/foo/v1/0/x", 400),
        ("/records/app1/foo/v1/-1/0", 400),
        ("/records/app1/bar/v1/0/0", 404),
        ("/records/app1/foo/v1/0/0?group=g1", 400),
        ("/records/app1/foo/v1/0/0?group=app9/g1", 404),
        ("/records/app1/foo/v1/0/0?other=1", 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_record_that_is_not_there_is_refused(hot: Administered, path: str, status: int) -> None:
    await published(hot, b"a")
    assert (await hot.admin("GET", path)).status == status


@pytest_twisted.ensureDeferred
async def test_look_at_one_record_is_audited_with_its_offset(hot: Administered) -> None:
    await published(hot, b"a")
    await state(hot, 0)
    await eventually(lambda: len(events(hot, "records.peek")) == 1)
    (event,) = events(hot, "records.peek")
    assert (event["object"], event["outcome"]) == ("app1/foo/v1 0:0", "ok")


@pytest_twisted.ensureDeferred
async def test_open_group_needs_no_reader(administered: Make) -> None:
    shop = administered(registry=RegistryConfig(driver="open"))
    await shop.start()
    await shop.request("POST", "/v1/topics/foo?partition=0", b"x")
    await shop.request("GET", "/v1/topics/foo/g?ack=explicit")
    for name in ("g", "default/g"):
        found = (await shop.admin("GET", f"/records/default/foo/v1/0/0?group={name}")).json()
        assert (found["state"], found["group"], found["client"]["caller"]) == ("leased", "g", "default")
