"""Dead letters are discarded over the admin listener: acknowledged in their queue, published nowhere."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import pytest_twisted
from administered import Administered, Make, events, prepared
from gateways import config, eventually
from test_operator_redrive import G1, REDRIVE, died, queue_lag, read

DISCARD = f"{G1}/discard"


async def discarded(shop: Administered, body: Any) -> Any:
    """Discards, and waits for the end."""
    begun = await shop.admin("POST", DISCARD, body)
    assert begun.status == 202, begun.body
    assert begun.header("location") == f"/admin/v1{DISCARD}"
    await eventually(lambda: shop.service.http.operating.redrives._running == {})
    return (await shop.admin("GET", DISCARD)).json()


async def values(shop: Administered) -> list[str]:
    return [record["value"] for record in (await shop.admin("GET", "/records/app1/foo/v1")).json()["records"]]


@pytest_twisted.ensureDeferred
async def test_all_letters_of_a_queue_that_is_not_read_are_passed_over_at_once(hot: Administered) -> None:
    await died(hot, b"a", b"b")
    found = await discarded(hot, {"all": True})
    assert (found["state"], found["asked"], found["total"], found["discarded"], found["failed"]) == (
        "done",
        "all",
        2,
        2,
        0,
    )
    assert await queue_lag(hot) == 0
    assert await values(hot) == ["a", "b"]
    await died(hot, b"c")
    assert await queue_lag(hot) == 1


@pytest_twisted.ensureDeferred
async def test_letters_that_are_chosen_go_and_the_others_stay(hot: Administered) -> None:
    await died(hot, b"a", b"b", b"c")
    found = await discarded(hot, {"records": [{"partition": 0, "offset": 1}, {"partition": 0, "offset": 9}]})
    assert (found["state"], found["discarded"]) == ("done", 1)
    assert found["missing"] == [{"partition": 0, "offset": 9}]
    assert await values(hot) == ["a", "b", "c"]
    assert [record["value"] for record in await read(hot, "?queue=dead&limit=5")] == ["a", "c"]


@pytest_twisted.ensureDeferred
async def test_letter_that_a_client_has_leased_is_left_to_it(hot: Administered) -> None:
    await died(hot, b"a", b"b")
    reading = hot.spawn(
        hot.read("app2", "app1.foo/g1?queue=dead&limit=1&ack=explicit&ack_timeout=30&idle=0.2&timeout=0.5")
    )
    (await reading)
    waiting = hot.spawn(hot.read("app2", "app1.foo/g1?queue=dead&limit=9&ack=explicit&timeout=4&idle=3"))
    await eventually(
        lambda: any(member.readers for key, member in hot.service.parts.groups.live.items() if "dead" in key[2])
    )
    assert (await hot.admin("POST", DISCARD, {"all": True})).status == 202
    await eventually(lambda: hot.service.http.operating.redrives._running == {})
    found = (await hot.admin("GET", DISCARD)).json()
    assert (found["state"], found["total"]) == ("done", 2)
    assert found["discarded"] < 2
    await waiting


@pytest_twisted.ensureDeferred
async def test_all_letters_beyond_the_window_go_too(administered: Make, tmp_path: Any) -> None:
    delivery = attrs.evolve(config(tmp_path).delivery, max_unacknowledged_records=1)
    shop = await prepared(administered(delivery=delivery))
    for value in (b"a", b"b", b"c"):
        await died(shop, value)
    assert (await discarded(shop, {"all": True}))["discarded"] == 3
    assert await queue_lag(shop) == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 400), ({"all": False}, 400), ({"records": []}, 400), ({"all": True, "per_second": 5}, 400)],
)
@pytest_twisted.ensureDeferred
async def test_discard_with_a_fault_is_refused(hot: Administered, body: Any, status: int) -> None:
    await died(hot, b"a")
    assert (await hot.admin("POST", DISCARD, body)).status == status
    assert (await hot.admin("GET", DISCARD)).status == 404
    assert await queue_lag(hot) == 1


@pytest_twisted.ensureDeferred
async def test_discard_is_audited_and_not_begun_beside_a_redrive(hot: Administered) -> None:
    await died(hot, b"a", b"b")
    assert (await hot.admin("POST", REDRIVE, {"all": True, "per_second": 1})).status == 202
    assert (await hot.admin("POST", DISCARD, {"all": True})).status == 409
    await eventually(lambda: hot.service.http.operating.redrives._running == {})
    await died(hot, b"c")
    await discarded(hot, {"all": True})
    await eventually(lambda: len(events(hot, "group.discard-end")) == 1)
    # one that is done at once may be in the audit before it is told that it began
    await eventually(lambda: len(events(hot, "group.discard")) == 2)
    begun = events(hot, "group.discard")
    assert [(event["object"], event["outcome"]) for event in begun] == [
        ("app2/app1/foo/v1/g1 all", "conflict"),
        ("app2/app1/foo/v1/g1 all", "ok"),
    ]
    (over,) = events(hot, "group.discard-end")
    assert over["object"].startswith("app2/app1/foo/v1/g1 all: done, ")


@pytest_twisted.ensureDeferred
async def test_letter_that_was_leased_by_a_poll_is_left_though_nobody_reads_just_now(hot: Administered) -> None:
    await died(hot, b"a", b"b")
    (leased,) = await read(hot, "?queue=dead&limit=1&ack_timeout=30")
    found = await discarded(hot, {"all": True})
    assert (found["state"], found["discarded"]) == ("done", 1)
    again = [{"partition": leased["partition"], "offset": leased["offset"], "outcome": "retry"}]
    told = await hot.request("POST", "/v1/topics/app1.foo/g1/acks?queue=dead", json=again, headers=hot.key("app2-sub"))
    assert [each["status"] for each in told.json()["results"]] == [200]
    (back,) = await read(hot, "?queue=dead&limit=1")
    assert back["value"] == leased["value"]


@pytest_twisted.ensureDeferred
async def test_discard_of_all_counts_no_letter_that_had_been_discarded_before(hot: Administered) -> None:
    await died(hot, b"a", b"b", b"c")
    assert (await discarded(hot, {"records": [{"partition": 0, "offset": 1}]}))["discarded"] == 1
    again = await discarded(hot, {"records": [{"partition": 0, "offset": 1}]})
    assert (again["discarded"], again["missing"]) == (0, [{"partition": 0, "offset": 1}])
    rest = await discarded(hot, {"all": True})
    assert (rest["total"], rest["discarded"], rest["left"]) == (2, 2, 0)
    none = await discarded(hot, {"all": True})
    assert (none["total"], none["discarded"], none["left"]) == (0, 0, 0)
