"""A gateway is drained by a call of the admin listener, as TERM does it."""

from __future__ import annotations

import pytest_twisted
from administered import Administered, events
from gateways import eventually


@pytest_twisted.ensureDeferred
async def test_drain_ends_the_gateway_that_is_named_and_is_audited(hot: Administered) -> None:
    ended: list[bool] = []
    hot.service.upgrading.end = lambda: ended.append(True)
    (row,) = (await hot.admin("GET", "/gateways")).json()["items"]
    answer = await hot.admin("POST", f"/gateways/{row['name']}/drain")
    assert (answer.status, answer.json()) == (202, {"name": row["name"], "draining": True})
    await eventually(lambda: ended == [True])
    assert [(event["object"], event["outcome"]) for event in events(hot, "drain")] == [(row["name"], "ok")]


@pytest_twisted.ensureDeferred
async def test_gateway_that_is_not_there_or_a_body_with_members_drains_none(hot: Administered) -> None:
    ended: list[bool] = []
    hot.service.upgrading.end = lambda: ended.append(True)
    assert (await hot.admin("POST", "/gateways/gateway-none/drain")).status == 404
    (row,) = (await hot.admin("GET", "/gateways")).json()["items"]
    assert (await hot.admin("POST", f"/gateways/{row['name']}/drain", {"now": True})).status == 400
    assert ended == []
