"""Dead letters are redriven to their topic over the admin listener: none is lost, each is acknowledged in its queue."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from administered import Administered, Make, events, prepared
from gateways import eventually
from twisted.internet import reactor

from kateway.core.operator.redrive import revived
from kateway.model import Message, Record

G1 = "/groups/app2/app1/foo/v1/g1"
REDRIVE = f"{G1}/redrive"


async def died(shop: Administered, *values: bytes) -> None:
    """Publishes values, and lets g1 reject all that there is."""
    for value in values:
        headers = {**shop.key("app1-pub"), "Kateway-Header-Own": "x"}
        assert (await shop.request("POST", "/v1/topics/foo?key=k", value, headers=headers)).status == 201
    records = await read(shop, "?limit=10")
    assert len(records) >= len(values)
    items = [{"partition": 0, "offset": record["offset"], "outcome": "dead"} for record in records]
    path = "/v1/topics/app1.foo/g1/acks?sync=1"
    answer = await shop.request("POST", path, headers=shop.key("app2-sub"), json=items)
    assert answer.status == 200, answer.body


async def read(shop: Administered, query: str) -> list[dict[str, Any]]:
    """Leases records, or dead letters, of g1."""
    headers = {**shop.key("app2-sub"), "Accept": "application/x-ndjson"}
    path = f"/v1/topics/app1.foo/g1{query}&ack=explicit&idle=0.2&timeout=0.5"
    answer = await shop.request("GET", path, headers=headers)
    assert answer.status in {200, 204}, answer.body
    return [json.loads(line) for line in answer.body.splitlines()]


async def redriven(shop: Administered, body: Any) -> Any:
    """Redrives, and waits for the end."""
    begun = await shop.admin("POST", REDRIVE, body)
    assert begun.status == 202, begun.body
    assert begun.header("location") == f"/admin/v1{REDRIVE}"
    return await ended(shop)


async def ended(shop: Administered) -> Any:
    await eventually(lambda: shop.service.http.operating.redrives._running == {})
    return (await shop.admin("GET", REDRIVE)).json()


async def queue_lag(shop: Administered) -> int:
    answer = await shop.read("app2", "app1.foo/g1/lag?queue=dead")
    lag: int = answer.json()["lag"]
    return lag


@pytest_twisted.ensureDeferred
async def test_all_dead_letters_go_back_as_they_were_and_are_acknowledged(hot: Administered) -> None:
    await died(hot, b"a", b"b")
    found = await redriven(hot, {"all": True})
    assert (found["state"], found["asked"], found["total"], found["redriven"], found["failed"]) == (
        "done",
        "all",
        2,
        2,
        0,
    )
    assert found["ended"] >= found["began"]
    assert await queue_lag(hot) == 0
    records = await read(hot, "?limit=5")
    assert [(record["offset"], record["key"], record["value"]) for record in records] == [(2, "k", "a"), (3, "k", "b")]
    assert [header["name"] for header in records[0]["headers"]] == ["own"]


@pytest_twisted.ensureDeferred
async def test_some_dead_letters_go_back_and_the_others_stay_as_they_were(hot: Administered) -> None:
    await died(hot, b"a", b"b", b"c")
    found = await redriven(hot, {"records": [{"partition": 0, "offset": 1}, {"partition": 0, "offset": 9}]})
    assert (found["state"], found["asked"], found["redriven"]) == ("done", 2, 1)
    assert found["missing"] == [{"partition": 0, "offset": 9}]
    assert [record["value"] for record in await read(hot, "?limit=5")] == ["b"]
    left = await read(hot, "?queue=dead&limit=5")
    assert [record["value"] for record in left] == ["a", "c"]
    assert all("attempt" not in record for record in left)


@pytest_twisted.ensureDeferred
async def test_letter_that_dies_again_is_left_for_the_next_redrive(hot: Administered) -> None:
    await died(hot, b"a")
    assert (await redriven(hot, {"all": True}))["redriven"] == 1
    await died(hot, b"b")
    assert await queue_lag(hot) == 2
    assert (await redriven(hot, {"all": True}))["redriven"] == 2
    assert (await redriven(hot, {"all": True}))["redriven"] == 0


@pytest_twisted.ensureDeferred
async def test_redrive_goes_no_faster_than_it_is_told_and_is_alone(hot: Administered) -> None:
    await died(hot, b"a", b"b", b"c")
    began = reactor.seconds()  # type: ignore[attr-defined]
    assert (await hot.admin("POST", REDRIVE, {"all": True, "per_second": 5})).status == 202
    again = await hot.admin("POST", REDRIVE, {"all": True})
    assert (again.status, again.code) == (409, "conflict")
    assert (await hot.admin("GET", REDRIVE)).json()["state"] == "running"
    found = await ended(hot)
    assert (found["redriven"], found["state"]) == (3, "done")
    assert reactor.seconds() - began >= 0.4  # type: ignore[attr-defined]


@pytest_twisted.ensureDeferred
async def test_letters_whose_topic_is_gone_stay_in_the_queue(hot: Administered) -> None:
    await died(hot, b"a", b"b")
    await eventually(lambda: not hot.service.parts.groups.live)
    await hot.service.parts.storing.stores["default"].delete_topic("app1.foo.v1")
    found = await redriven(hot, {"all": True})
    assert (found["state"], found["redriven"], found["error"]["code"]) == ("failed", 0, "topic-not-found")
    assert await queue_lag(hot) == 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"all": False}, 400),
        ({"all": True, "records": []}, 400),
        ({"records": []}, 400),
        ({"records": [{"partition": 0}]}, 400),
        ({"records": [{"partition": True, "offset": 0}]}, 400),
        ({"all": True, "per_second": 0}, 400),
        ({"all": True, "per_second": "1"}, 400),
        ({"all": True, "other": 1}, 400),
        ({"all": True}, 404),
    ],
)
@pytest_twisted.ensureDeferred
async def test_redrive_with_a_fault_or_without_letters_is_refused(hot: Administered, body: Any, status: int) -> None:
    assert (await hot.admin("POST", REDRIVE, body)).status == status
    assert (await hot.admin("GET", REDRIVE)).status == 404


@pytest_twisted.ensureDeferred
async def test_queue_that_is_read_with_automatic_acknowledgement_is_left_alone(hot: Administered) -> None:
    await died(hot, b"a")
    reading = hot.spawn(hot.read("app2", "app1.foo/g1?queue=dead&limit=5&idle=3"))
    await eventually(
        lambda: any(member.readers for key, member in hot.service.parts.groups.live.items() if "dead" in key[2])
    )
    assert (await hot.admin("POST", REDRIVE, {"all": True})).status == 409
    assert (await reading).body == b"a\n"


@pytest_twisted.ensureDeferred
async def test_redrive_is_audited_at_its_beginning_and_its_end(hot: Administered) -> None:
    await died(hot, b"a")
    await redriven(hot, {"records": [{"partition": 0, "offset": 0}]})
    await eventually(lambda: len(events(hot, "group.redrive-end")) == len(events(hot, "group.redrive")) == 1)
    (begun,) = events(hot, "group.redrive")
    (over,) = events(hot, "group.redrive-end")
    assert (begun["object"], begun["outcome"]) == ("app2/app1/foo/v1/g1 0:0", "ok")
    assert over["object"] == "app2/app1/foo/v1/g1 0:0: done, 1 redriven, 0 failed"
    assert begun["request_id"] == over["request_id"]


@pytest_twisted.ensureDeferred
async def test_gateway_that_stops_ends_a_redrive_and_keeps_the_rest_in_the_queue(administered: Make) -> None:
    first = await prepared(administered())
    await died(first, b"a", b"b", b"c")
    await first.admin("POST", REDRIVE, {"all": True, "per_second": 0.5})
    await eventually(lambda: next(iter(first.service.http.operating.redrives._last.values())).done == 1)
    await first.stop()
    second = administered()
    second.secrets = first.secrets
    await second.start()
    assert await queue_lag(second) == 2
    found = (await second.admin("GET", "/records/app1/foo/v1")).json()["records"]
    assert [record["value"] for record in found] == ["a", "b", "c", "a"]


def test_revived_letter_goes_to_its_partition_where_that_exists() -> None:
    dead = (("own", b"x"), ("kateway-dead-partition", b"3"), ("kateway-dead-reason", b"rejected"))
    letter = Record(7, 5, b"k", b"v", dead)
    assert revived(letter, 4) == Message(b"v", b"k", (("own", b"x"),), 3, None)
    assert revived(letter, 3) == Message(b"v", b"k", (("own", b"x"),), None, None)
    assert revived(letter._replace(headers=()), 3).partition is None


@pytest_twisted.ensureDeferred
async def test_redrive_of_all_counts_no_letter_that_was_acknowledged_before(hot: Administered) -> None:
    await died(hot, b"a", b"b", b"c")
    assert (await redriven(hot, {"records": [{"partition": 0, "offset": 1}]}))["redriven"] == 1
    rest = await redriven(hot, {"all": True})
    assert (rest["total"], rest["redriven"], rest["left"]) == (2, 2, 0)
