"""The usage of applications, over the admin listener of a whole gateway."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
import pytest_twisted
from administered import Administered
from twisted.internet.task import deferLater


async def used(shop: Administered) -> None:
    """app1 publishes four records, app2 reads three of them; a look is taken."""
    for _ in range(4):
        assert (await shop.publish("app1", "foo", b"12345")).status == 201
    assert (await shop.read("app2", "app1.foo/g1?limit=3&idle=0.1")).status == 200
    assert shop.service.http.observing is not None
    await deferLater(shop.service._reactor, 0.05)
    await shop.service.http.observing.looking.look_at_objects()


async def usage(shop: Administered, query: str = "") -> Any:
    answer = await shop.admin("GET", f"/usage{query}")
    assert answer.status == 200, answer.body
    return answer.json()


@pytest_twisted.ensureDeferred
async def test_row_says_what_an_application_published_and_read(hot: Administered) -> None:
    await used(hot)
    rows = {row["application"]: row for row in (await usage(hot))["items"]}
    assert set(rows) == {"app1", "app2"}
    assert (rows["app1"]["in_records"], rows["app1"]["in_bytes"], rows["app1"]["out_records"]) == (4, 20, 0)
    assert (rows["app2"]["in_records"], rows["app2"]["out_records"]) == (0, 3)
    assert rows["app2"]["out_bytes"] >= 15
    assert rows["app1"]["seconds"] == 3600
    assert rows["app1"]["from"].endswith(":00:00Z")
    assert [row["application"] for row in (await usage(hot, "?application=app2"))["items"]] == ["app2"]
    assert (await usage(hot, "?to=2020-01-02"))["items"] == []


@pytest_twisted.ensureDeferred
async def test_csv_has_the_same_rows(hot: Administered) -> None:
    await used(hot)
    answer = await hot.admin("GET", "/usage?format=csv")
    assert answer.header("content-type") == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
    assert [(row["application"], row["in_records"], row["out_records"]) for row in rows] == [
        ("app1", "4", "0"),
        ("app2", "0", "3"),
    ]


@pytest_twisted.ensureDeferred
async def test_usage_is_there_after_a_restart(hot: Administered) -> None:
    await used(hot)
    assert (await hot.publish("app1", "foo", b"12345")).status == 201
    await hot.stop()
    again = Administered(hot.service.settings)
    await again.start()
    try:
        rows = {row["application"]: row for row in (await usage(again))["items"]}
        assert rows["app1"]["in_records"] == 5, "the last look is taken at the end"
    finally:
        await again.stop()


@pytest.mark.parametrize("query", ["?format=xml", "?from=yesterday", "?to=2026-13-01", "?other=1"])
@pytest_twisted.ensureDeferred
async def test_question_that_cannot_be_answered_is_refused(hot: Administered, query: str) -> None:
    assert (await hot.admin("GET", f"/usage{query}")).status == 400
