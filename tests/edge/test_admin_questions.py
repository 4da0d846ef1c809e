"""Questions to the admin listener about what is not there: refused in words that help, never an empty answer."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from administered import Administered, Make
from gateways import config


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/history?object=nope", 404, "no application nope"),
        ("/history?object=app1/nope/v1", 404, "app1/nope/v1"),
        ("/history?object=app1/foo/v9", 404, "app1/foo/v9"),
        ("/history?object=nope/app1/foo/v1/g1", 404, "no application nope"),
        ("/history?object=app2/app1/foo/v1/nope", 404, "app2/app1/foo/v1/nope has committed nothing"),
        ("/history?object=app1/foo", 400, "application/topic/version"),
        ("/history?window=9y", 400, "15m"),
        ("/groups?state=zzz", 400, "lingering"),
        ("/groups?state=zzz", 400, "keeping-up"),
        ("/groups?state=", 400, "reading"),
        ("/topics?state=zzz", 400, "deprecated"),
        ("/plugins?state=zzz", 400, "taken_out"),
        ("/elastic?state=zzz", 400, "settled"),
        ("/usage?application=nope", 404, "no application nope"),
        ("/usage?from=2026-11-30&to=2026-11-29", 400, "before"),
        ("/usage?from=2026-11-30&to=2026-11-30", 400, "before"),
        ("/producers?topic=app1/nope/v1", 404, "app1/nope/v1"),
        ("/errors?reason=zzz", 400, "topic-not-found"),
        ("/errors?application=nope", 404, "no application nope"),
        ("/errors?topic=foo", 400, "TOPIC/VERSION"),
        ("/events?kind=zzz", 400, "breaker"),
        ("/live?view=zzz", 400, "overview"),
        ("/records/app1/foo/v1?partition=99", 404, "partition"),
        ("/records/app1/foo/v1/99/0", 404, "partition"),
        ("/records/app1/foo/v1?queue=dead&group=nope/g1", 404, "no application nope"),
        ("/records/app1/foo/v1/tail?nope=1", 400, "there are none here"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_question_about_what_is_not_there_is_refused_in_words(
    hot: Administered, path: str, status: int, word: str
) -> None:
    answer = await hot.admin("GET", path)
    assert (answer.status, word in answer.json()["detail"]) == (status, True), answer.body


@pytest.mark.parametrize(
    "path",
    [
        "/history?object=app2",
        "/history?object=app1/foo/v1",
        "/groups?state=idle",
        "/groups?state=not-read-here",
        "/topics?state=retired",
        "/usage?application=app2",
        "/producers?topic=app1/foo/v1",
        "/errors?reason=too-large&application=app1&topic=app1.foo/v1",
        "/errors?reason=status-500",
        "/events?kind=drain",
    ],
)
@pytest_twisted.ensureDeferred
async def test_question_about_what_is_there_and_did_nothing_is_answered(hot: Administered, path: str) -> None:
    answer = await hot.admin("GET", path)
    assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/history?object=nope", 404),
        ("/history?object=default", 200),
        ("/history?object=default/nope/v1", 404),
        ("/history?object=default/nope/v1/g1", 404),
        ("/producers?topic=default/nope/v1", 404),
        ("/usage?application=nope", 404),
        ("/usage?application=default", 200),
        ("/errors?application=admin", 404),
    ],
)
@pytest_twisted.ensureDeferred
async def test_open_gateway_refuses_questions_about_what_is_not_there(
    administered: Make, tmp_path: Any, path: str, status: int
) -> None:
    shop = administered(registry=config(tmp_path).registry)
    await shop.start()
    answer = await shop.admin("GET", path)
    assert answer.status == status, answer.body


@pytest_twisted.ensureDeferred
async def test_group_that_has_committed_has_a_history_though_nothing_is_known_of_it(hot: Administered) -> None:
    assert (await hot.publish("app1", "foo")).status == 201
    assert (await hot.read("app2", "app1.foo/g1?limit=1")).status == 200
    for path in ("/history?object=app2/app1/foo/v1/g1", "/history?object=app2/app1/foo/v1/g1&series=lag"):
        assert (await hot.admin("GET", path)).status == 200


@pytest_twisted.ensureDeferred
async def test_failed_and_slow_requests_of_a_person_are_no_applications(hot: Administered) -> None:
    hot.service.parts.counting.slowest.floor = 0.0
    failed = await hot.admin("GET", "/topics/app1/nope/v1")
    assert failed.status == 404
    (group,) = (await hot.admin("GET", "/errors")).json()["items"]
    assert (group["application"], group["samples"][0]["actor"]) == ("", "admin")
    slow = (await hot.admin("GET", "/slow")).json()["items"]
    assert {(each["application"], each["actor"]) for each in slow} == {("", "admin")}
    wrong = await hot.request("POST", "/v1/topics/foo?partition=99", b"x", headers=hot.key("app1-pub"))
    assert wrong.status == 404
    found = (await hot.admin("GET", "/errors?reason=partition-not-found&application=app1")).json()["items"]
    assert [(each["application"], each["samples"][0]["actor"]) for each in found] == [("app1", "")]
