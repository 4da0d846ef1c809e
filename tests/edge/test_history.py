"""The history in the box and the verdicts of groups, over the admin listener of a whole gateway."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from administered import Administered, Make, prepared
from gateways import Client, eventually
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from kateway.daemon.observing import Observing

GROUP = "app2/app1/foo/v1/g1"
G1 = f"/groups/{GROUP}"


def observing(shop: Administered) -> Observing:
    found = shop.service.http.observing
    assert found is not None
    return found


async def looked(shop: Administered) -> None:
    """A look is taken, later than the last one."""
    clock: IReactorTime = shop.service._reactor
    await deferLater(clock, 0.02)
    await observing(shop).looking.look_at_gateway()
    await observing(shop).looking.look_at_objects()


async def published(shop: Administered, count: int) -> None:
    for number in range(count):
        assert (await shop.publish("app1", "foo", b"%d" % number)).status == 201


async def read(shop: Administered, limit: int, ack: str = "auto") -> None:
    query = f"limit={limit}&ack={ack}&idle=0.1&timeout=5"
    assert (await shop.read("app2", f"app1.foo/g1?{query}")).status == 200


async def history(shop: Administered, query: str) -> Any:
    answer = await shop.admin("GET", f"/history?{query}")
    assert answer.status == 200, answer.body
    return answer.json()


async def row(shop: Administered, query: str = "") -> dict[str, Any]:
    found = (await shop.admin("GET", f"/groups{query}")).json()
    (only,) = found["items"]
    assert isinstance(only, dict)
    return only


@pytest_twisted.ensureDeferred
async def test_group_that_the_last_snapshot_lacks_is_listed_after_a_start(administered: Make) -> None:
    shop = await prepared(administered())
    await published(shop, 3)
    await read(shop, 1)
    await read(shop, 1)
    await shop.stop()
    (Path(shop.service.settings.storage["default"].path) / "history").unlink()  # as where it was killed before
    again = Administered(shop.service.settings)
    again.secrets = shop.secrets
    await again.start()
    try:
        await observing(again)._ask()
        found = await row(again)
        assert (found["name"], found["state"], found["lag"], found["readers"]) == (GROUP, "not-read-here", 1, 0)
        assert found["verdict"]["state"] == "abandoned"
        assert list(observing(again).left()) == [], "no alert at each start for what was left long ago"
        await read(again, 1)
        await looked(again)
        assert [labels[3] for labels, _watch in observing(again).left()] == ["g1"]
    finally:
        await again.stop()


# --- series ----------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_traffic_is_seen_of_gateway_application_topic_and_group(hot: Administered) -> None:
    await published(hot, 5)
    await read(hot, 3)
    await looked(hot)
    whole = await history(hot, "series=in_records,requests_publish,publish_seconds_p99,registry_up&window=1h")
    assert whole["step_seconds"] == 5
    assert [len(figures) for figures in whole["series"].values()] == [720] * 4
    assert all(figures[-1] for figures in whole["series"].values()), whole["series"]
    assert whole["series"]["in_records"][0] is None
    owner = await history(hot, "object=app1&window=15m")
    assert (owner["step_seconds"], len(owner["series"]["in_records"])) == (10, 90)
    assert owner["series"]["in_records"][-1] > 0
    topic = await history(hot, "object=app1/foo/v1&window=3h")
    assert topic["step_seconds"] == 60
    assert topic["series"]["out_records"][-1] > 0
    group = await history(hot, f"object={GROUP}&window=2d&series=lag,lag_max,out_records")
    assert group["step_seconds"] == 900
    assert group["series"]["out_records"][-1] > 0


@pytest_twisted.ensureDeferred
async def test_object_without_history_has_no_figures(hot: Administered) -> None:
    found = await history(hot, "object=app2&window=15m")
    assert set(found["series"]["in_records"]) == {None}


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("window=5m", "window must be one of 15m"),
        ("series=other", "only in_records"),
        ("series=lag_max", "there is no"),
        ("series=other&object=app1/foo/v1/g1", "only out_records"),
        ("object=app1/foo", "object must be"),
        ("object=a//b", "object must be"),
        ("other=1", "other"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_question_that_cannot_be_answered_is_refused(hot: Administered, query: str, words: str) -> None:
    answer = await hot.admin("GET", f"/history?{query}")
    assert answer.status == 400
    assert words in answer.json()["detail"]


@pytest_twisted.ensureDeferred
async def test_history_is_there_again_after_a_restart(administered: Make) -> None:
    shop = await prepared(administered())
    observing(shop).history.record("topic", ("app1", "foo", "v1"), time.time() - 30, (7.0, 70.0, 0.0, 0.0))
    await published(shop, 5)
    await read(shop, 2)
    await looked(shop)
    await shop.stop()
    again = Administered(shop.service.settings)
    await again.start()
    try:
        found = await history(again, "object=app1/foo/v1&window=15m&series=in_records")
        assert 7.0 in found["series"]["in_records"]
        watched = observing(again).situations.watches.by_labels
        assert ("app1", "foo", "v1", "g1", "app2") in watched, "a group that was read is still watched"
    finally:
        await again.stop()


# --- verdicts --------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_group_that_was_left_behind_is_abandoned_with_its_exact_lag(hot: Administered) -> None:
    await published(hot, 3)
    await read(hot, 3)
    await looked(hot)
    await eventually(lambda: not hot.service.parts.groups.live)
    await published(hot, 50)
    await looked(hot)
    await observing(hot)._ask()
    found = await row(hot)
    assert (found["state"], found["lag"], found["readers"]) == ("not-read-here", 50, 0)
    assert found["verdict"]["state"] == "abandoned"
    assert found["verdict"]["reason"].startswith("50 records behind, and no reader")
    assert found["severity"] == 9
    assert found["lag_age_seconds"] < 5
    assert (await row(hot, "?state=abandoned"))["group"] == "g1"
    assert (await row(hot, "?sort=severity&desc=1&state=not-read-here"))["group"] == "g1"
    assert (await hot.admin("GET", "/groups?state=idle")).json()["items"] == []
    shown = (await hot.admin("GET", G1)).json()
    assert (shown["lag"], shown["verdict"]["state"]) == (50, "abandoned")


@pytest_twisted.ensureDeferred
async def test_group_that_is_read_tells_its_rates(hot: Administered) -> None:
    await published(hot, 4)
    await read(hot, 4)
    await looked(hot)
    found = await row(hot)
    # within the time since the look before, not within the moment since it was found
    assert 0 < found["rates"]["out_records"] < 400
    assert found["verdict"]["state"] == "keeping-up"


@pytest_twisted.ensureDeferred
async def test_record_that_comes_again_and_again_poisons_its_group(hot: Administered) -> None:
    await published(hot, 1)
    for _ in range(3):
        await read(hot, 1, "explicit")
        path, again = "/v1/topics/app1.foo/g1/acks", [{"partition": 0, "offset": 0, "outcome": "retry"}]
        assert (await hot.request("POST", path, headers=hot.key("app2-sub"), json=again)).status == 200
    await looked(hot)
    found = await row(hot)
    assert found["verdict"]["state"] == "poisoned", found["verdict"]
    assert "partition 0 offset 0" in found["verdict"]["reason"]


@pytest_twisted.ensureDeferred
async def test_group_whose_store_has_an_open_breaker_says_so(hot: Administered) -> None:
    await published(hot, 3)
    await read(hot, 1, "explicit")
    await looked(hot)
    await hot.change("POST", "/breakers/default", {"state": "open"})
    assert (await row(hot))["verdict"] == {"state": "store", "reason": "the breaker of its store is open"}


@pytest_twisted.ensureDeferred
async def test_looks_at_once_and_a_request_do_not_wait_for_a_store(hot: Administered) -> None:
    looking = Deferred.fromCoroutine(observing(hot).looking.look_at_objects())
    assert (await hot.admin("GET", "/groups")).status == 200
    await looking


@pytest_twisted.ensureDeferred
async def test_application_over_its_quota_has_throttled_groups(hot: Administered) -> None:
    await published(hot, 3)
    await read(hot, 1, "explicit")
    await hot.quota("app2", requests_per_second=1)
    answers = [await hot.read("app2", "app1.foo/g1?ack=explicit&limit=1&idle=0.1") for _ in range(5)]
    assert 429 in {answer.status for answer in answers}
    await looked(hot)
    assert (await row(hot))["verdict"]["state"] == "throttled"
    found = await history(hot, "object=app2&window=15m&series=throttled")
    assert found["series"]["throttled"][-1] > 0


@pytest_twisted.ensureDeferred
async def test_leases_that_run_out_are_named(hot: Administered) -> None:
    await published(hot, 2)
    assert (await hot.read("app2", "app1.foo/g1?ack=explicit&limit=2&idle=0.1&ack_timeout=1")).status == 200
    await deferLater(hot.service._reactor, 1.6)
    await looked(hot)
    found = await row(hot)
    assert found["verdict"]["state"] == "leases-run-out", found


@pytest_twisted.ensureDeferred
async def test_group_whose_reader_stops_reading_is_blocked(hot: Administered) -> None:
    client = await Client.connect(hot.port)
    client.send(f"GET /v1/topics/app1.foo/g1?follow=1 HTTP/1.1\r\nHost: x\r\n{hot.head('app2-sub')}\r\n")
    await client.until(b"200 OK")
    assert client.transport is not None
    client.transport.pauseProducing()
    # more than the sockets' buffers hold
    for _ in range(24):
        assert (await hot.publish("app1", "foo", bytes(900_000))).status == 201
    await looked(hot)
    for _ in range(6):
        await deferLater(hot.service._reactor, 0.5)
        await looked(hot)
    found = await row(hot)
    assert found["blocked_share"] > 0
    (reader,) = (await hot.admin("GET", G1)).json()["readers"]
    assert reader["blocked_share"] > 0
    assert found["verdict"]["state"] == "blocked", found
    client.reset()
