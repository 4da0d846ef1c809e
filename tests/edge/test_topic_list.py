"""``GET /{version}/topics``: what the caller may use."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from administered import Administered
from gateways import RunningGateway

here = pytest_twisted.ensureDeferred


async def publish(gateway: RunningGateway, *paths: str) -> None:
    for path in paths:
        assert (await gateway.request("POST", path, b"x")).status == 201


async def names(gateway: RunningGateway, path: str) -> list[str]:
    found = await gateway.request("GET", path)
    assert found.status == 200, found.body
    return [topic["topic"] for topic in found.json()["topics"]]


@here
async def test_topics_of_a_version_are_listed_without_dead_letters(gateway: RunningGateway) -> None:
    await publish(gateway, "/v1/topics/b", "/v1/topics/a", "/v2/topics/a", "/v1/topics/a.v1")
    assert (await gateway.request("GET", "/v1/topics/a/g?queue=dead&timeout=0")).status == 204
    assert await names(gateway, "/v1/topics") == ["a", "a.v1", "b"]
    assert await names(gateway, "/v2/topics") == ["a"]
    assert await names(gateway, "/v3/topics") == []
    first = (await gateway.request("GET", "/v1/topics")).json()["topics"][0]
    assert first["version"] == "v1"
    assert first["partitions"] >= 1
    assert first["publish"] is True
    assert first["groups"] == ["*"]


@here
async def test_pages_follow_each_other_until_next_is_null(gateway: RunningGateway) -> None:
    await publish(gateway, *(f"/v1/topics/t{number}" for number in range(5)))
    found: list[str] = []
    after = ""
    while True:
        page: Any = (await gateway.request("GET", f"/v1/topics?limit=2{after}")).json()
        found += [topic["topic"] for topic in page["topics"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert found == [f"t{number}" for number in range(5)]


@here
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/x/topics", 400),
        ("/v1/topics?limit=0", 400),
        ("/v1/topics?limit=1001", 400),
        ("/v1/topics?other=1", 400),
        ("/v1/topics?after=%ff", 400),
        ("/v1/topics/", 400),
    ],
)
async def test_list_that_is_asked_for_wrongly_is_refused(gateway: RunningGateway, path: str, status: int) -> None:
    assert (await gateway.request("GET", path)).status == status
    assert (await gateway.request("POST", "/v1/topics", b"x")).status == 405


@here
async def test_applications_see_their_own_topics_and_those_they_are_bound_to(hot: Administered) -> None:
    refused = await hot.request("GET", "/v1/topics")
    assert refused.status == 401
    unreadable = await hot.request("GET", "/v1/topics", headers={"Authorization": "Basic %%"})
    assert unreadable.status == 401
    assert unreadable.header("www-authenticate") == refused.header("www-authenticate") is not None

    async def listed(key: str) -> list[Any]:
        found = await hot.request("GET", "/v1/topics", headers=hot.key(key))
        assert found.status == 200, found.body
        return [(topic["topic"], topic["publish"], topic["groups"]) for topic in found.json()["topics"]]

    assert await listed("app1-pub") == [("foo", True, [])]
    assert await listed("app1-sub") == [("foo", False, ["*"])]
    assert await listed("app2-sub") == [("app1.foo", False, ["g1", "g2"])]
    assert await listed("app2-pub") == []
