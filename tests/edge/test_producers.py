"""The producers of a topic, over the admin listener of a whole gateway."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from administered import Administered
from twisted.internet.task import deferLater


async def producers(shop: Administered, query: str = "") -> list[dict[str, Any]]:
    answer = await shop.admin("GET", f"/producers?topic=app1/foo/v1{query}")
    assert answer.status == 200, answer.body
    items = answer.json()["items"]
    assert isinstance(items, list)
    return items


async def looked(shop: Administered) -> None:
    assert shop.service.http.observing is not None
    await deferLater(shop.service._reactor, 0.05)
    await shop.service.http.observing.looking.look_at_objects()


@pytest_twisted.ensureDeferred
async def test_each_key_is_shown_with_its_rate_and_last_use(hot: Administered) -> None:
    made = await hot.change("POST", "/applications/app1/keys", {"kind": "pub", "key": "second-pub"})
    hot.secrets["second-pub"] = made["secret"]
    assert await producers(hot) == []
    await hot.publish("app1", "foo")
    await looked(hot)
    for _ in range(3):
        await hot.publish("app1", "foo")
    body = b"1\n2\n"
    headers = {**hot.key("second-pub"), "Content-Type": "application/x-ndjson"}
    assert (await hot.request("POST", "/v1/topics/foo?batch=1", body, headers=headers)).status == 201
    await looked(hot)
    first, second = await producers(hot, "&sort=records&desc=1")
    assert (first["name"], first["application"], first["key"], first["records"]) == (
        "app1/app1-pub",
        "app1",
        "app1-pub",
        4,
    )
    assert (second["name"], second["records"]) == ("app1/second-pub", 2)
    assert first["records_per_second"] > 0
    assert first["last_used"].startswith("20")
    await looked(hot)
    first, _ = await producers(hot, "&sort=records&desc=1")
    assert first["records_per_second"] == 0


@pytest.mark.parametrize(("topic", "status"), [("app1/none/v1", 404), ("app1/foo", 400), ("", 400)])
@pytest_twisted.ensureDeferred
async def test_topic_that_is_not_there_is_refused(hot: Administered, topic: str, status: int) -> None:
    assert (await hot.admin("GET", f"/producers?topic={topic}")).status == status
