"""What failed, what was slow, what changed and what was done, over the admin listener of a whole gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from administered import Administered, Make, prepared
from gateways import Answer


async def asked(shop: Administered, path: str) -> Any:
    answer = await shop.admin("GET", path)
    assert answer.status == 200, answer.body
    return answer.json()


async def refused(shop: Administered, times: int = 1) -> Answer:
    """app1 publishes to a partition that its topic lacks."""
    for _ in range(times):
        answer = await shop.request("POST", "/v1/topics/foo?partition=99", b"x", headers=shop.key("app1-pub"))
        assert answer.status == 404
    return answer


@pytest_twisted.ensureDeferred
async def test_failed_requests_are_grouped_with_their_newest_samples(hot: Administered) -> None:
    last = await refused(hot, 7)
    (group,) = (await asked(hot, "/errors?application=app1"))["items"]
    assert (group["reason"], group["application"], group["topic"], group["count"]) == (
        "partition-not-found",
        "app1",
        "foo/v1",
        7,
    )
    assert len(group["samples"]) == 5
    assert group["samples"][0]["request_id"] == last.header("x-request-id")
    assert (group["samples"][0]["status"], group["samples"][0]["operation"]) == (404, "publish")
    assert group["samples"][0]["detail"] == last.json()["detail"]
    assert group["first"] <= group["last"]


@pytest_twisted.ensureDeferred
async def test_unknown_caller_and_unknown_topic_name_no_topic(hot: Administered) -> None:
    await hot.request("POST", "/v1/topics/secret-name", b"x")
    await hot.request("POST", "/v1/topics/none", b"x", headers=hot.key("app1-pub"))
    found = (await asked(hot, "/errors?sort=reason"))["items"]
    assert [(each["reason"], each["application"], each["topic"]) for each in found] == [
        ("topic-not-found", found[0]["application"], ""),
        ("unauthorized", "", ""),
    ]


@pytest_twisted.ensureDeferred
async def test_errors_are_sorted_filtered_and_paged(hot: Administered) -> None:
    await refused(hot, 3)
    await hot.request("POST", "/v1/topics/foo", b"x")
    assert [each["count"] for each in (await asked(hot, "/errors?sort=count&desc=1"))["items"]] == [3, 1]
    assert len((await asked(hot, "/errors?contains=partition"))["items"]) == 1
    assert len((await asked(hot, "/errors?reason=unauthorized"))["items"]) == 1
    first = await asked(hot, "/errors?limit=1")
    second = await asked(hot, f"/errors?limit=1&after={first['next'].replace(' ', '%20')}")
    assert first["items"] != second["items"]
    assert second["next"] is None


@pytest_twisted.ensureDeferred
async def test_slow_request_is_shown_with_its_phases(hot: Administered) -> None:
    slowest = hot.service.parts.counting.slowest
    slowest.floor = 0.0
    answer = await hot.publish("app1", "foo")
    (mine,) = [
        each for each in (await asked(hot, "/slow"))["items"] if each["request_id"] == answer.header("x-request-id")
    ]
    assert (mine["operation"], mine["application"], mine["topic"], mine["status"]) == ("publish", "app1", "foo/v1", 201)
    assert set(mine["phases"]) == {"turn", "work", "store"}
    assert sum(mine["phases"].values()) == pytest.approx(mine["seconds"], abs=0.0003)
    assert mine["phases"]["store"] > 0
    assert slowest.floor > 0, "what is quick does not come again"


@pytest_twisted.ensureDeferred
async def test_events_tell_starts_reloads_and_breakers(hot: Administered) -> None:
    await hot.change("POST", "/breakers/default", {"state": "open"})
    await hot.service.reload()
    found = (await asked(hot, "/events"))["items"]
    assert [(each["kind"], each["object"]) for each in found] == [
        ("reload", "configuration"),
        ("breaker", "default"),
        ("start", "gateway"),
    ]
    assert [each["outcome"] for each in (await asked(hot, "/events?kind=breaker"))["items"]] == ["open"]
    assert len((await asked(hot, "/events?limit=2"))["items"]) == 2


@pytest_twisted.ensureDeferred
async def test_events_are_there_again_after_a_restart_before_those_since(administered: Make) -> None:
    first = await prepared(administered())
    await first.change("POST", "/breakers/default", {"state": "open"})
    await first.stop()
    again = Administered(first.service.settings)
    await again.start()
    try:
        found = (await asked(again, "/events"))["items"]
        assert [(each["kind"], each["object"]) for each in found] == [
            ("start", "gateway"),
            ("drain", "gateway"),
            ("breaker", "default"),
            ("start", "gateway"),
        ]
        times = [each["at"] for each in found]
        assert times == sorted(times, reverse=True)
    finally:
        await again.stop()


def damage(file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_text("{")


@pytest_twisted.ensureDeferred
async def test_file_of_events_that_is_damaged_costs_them_alone(administered: Make) -> None:
    shop = administered()
    damage(Path(shop.service.settings.storage["default"].path) / "changes.jsonl")
    await shop.start()
    assert [each["kind"] for each in (await asked(shop, "/events"))["items"]] == ["start"]


@pytest_twisted.ensureDeferred
async def test_audit_is_filtered_and_paged_the_newest_first(hot: Administered) -> None:
    await hot.quota("app1", requests_per_second=10)
    whole = (await asked(hot, "/audit"))["items"]
    assert (whole[0]["action"], whole[0]["object"]) == ("application.put", "app1")
    made = (await asked(hot, "/audit?action=key.make&object=app1"))["items"]
    assert len(made) == 2
    paged: list[Any] = []
    after = ""
    while after is not None:
        page = await asked(hot, f"/audit?limit=2{after and f'&after={after}'}")
        paged += page["items"]
        after = page["next"]
    assert paged == whole


@pytest_twisted.ensureDeferred
async def test_audit_is_given_as_lines(hot: Administered) -> None:
    answer = await hot.admin("GET", "/audit?action=topic.put", headers={"Accept": "application/x-ndjson"})
    assert answer.header("content-type") == "application/x-ndjson"
    assert [json.loads(line)["action"] for line in answer.body.splitlines()] == ["topic.put"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/audit?after=7", 400), ("/errors?sort=samples", 400), ("/slow?limit=0", 400), ("/events?other=1", 400)],
)
@pytest_twisted.ensureDeferred
async def test_question_that_cannot_be_answered_is_refused(hot: Administered, path: str, status: int) -> None:
    assert (await hot.admin("GET", path)).status == status
