"""Groups as an operator sees and moves them, over the admin listener of a whole gateway."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from administered import Administered, Make, events, prepared
from gateways import Client, eventually

from kateway.config.schema import HistoryConfig, RegistryConfig
from kateway.web.admin.groups import with_reader

G1 = "/groups/app2/app1/foo/v1/g1"


async def published(shop: Administered, *values: bytes) -> None:
    for value in values:
        assert (await shop.publish("app1", "foo", value)).status == 201


async def leased(shop: Administered, group: str = "g1", limit: int = 2) -> Any:
    """Leases records as app2; their objects."""
    headers = {**shop.key("app2-sub"), "Accept": "application/json"}
    path = f"/v1/topics/app1.foo/{group}?ack=explicit&limit={limit}&idle=0.1&timeout=5"
    answer = await shop.request("GET", path, headers=headers)
    assert answer.status == 200, answer.body
    return answer.json()


async def acknowledged(shop: Administered, items: list[dict[str, Any]], group: str = "g1") -> None:
    answer = await shop.request(
        "POST", f"/v1/topics/app1.foo/{group}/acks?sync=1", headers=shop.key("app2-sub"), json=items
    )
    assert [result["status"] for result in answer.json()["results"]] == [200] * len(items)


async def group(shop: Administered, path: str = G1) -> Any:
    answer = await shop.admin("GET", path)
    assert answer.status == 200, answer.body
    return answer.json()


async def follower(shop: Administered, group: str = "g1") -> Client:
    """A client that follows the group and was given the record ``a``."""
    client = await Client.connect(shop.port)
    client.send(f"GET /v1/topics/app1.foo/{group}?follow=1 HTTP/1.1\r\nHost: x\r\n{shop.head('app2-sub')}\r\n")
    await client.until(b"a\n")
    return client


# --- looking ---------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_group_shows_its_lag_leases_and_partitions(hot: Administered) -> None:
    await published(hot, b"a", b"b", b"c")
    await leased(hot)
    await acknowledged(hot, [{"partition": 0, "offset": 0}])
    found = await group(hot)
    assert (found["name"], found["lag"], found["unacknowledged_records"]) == ("app2/app1/foo/v1/g1", 2, 1)
    (partition,) = found["partitions"]
    assert {name: partition[name] for name in ("partition", "end", "committed", "lag", "leased")} == {
        "partition": 0,
        "end": 3,
        "committed": 1,
        "lag": 2,
        "leased": 1,
    }
    assert 0 <= found["oldest_seconds"] < 30
    assert 0 <= found["oldest_unacknowledged_seconds"] < 30


@pytest_twisted.ensureDeferred
async def test_figures_that_need_a_history_are_said_to_be_unknown_without_one(administered: Make) -> None:
    shop = await prepared(administered(history=HistoryConfig(enabled=False)))
    await published(shop, b"a")
    await leased(shop)
    found = await group(shop)
    assert (found["rates"], found["drain_seconds"], found["verdict"]["state"]) == (None, None, "unknown")
    assert found["unknown"] == ["rates", "drain_seconds", "blocked_share", "verdict"]
    (listed,) = (await shop.admin("GET", "/groups")).json()["items"]
    assert listed["unknown"] == ["rates", "drain_seconds", "blocked_share", "oldest_seconds", "verdict"]
    assert listed["oldest_seconds"] is None
    assert (await shop.admin("GET", "/history")).status == 404


@pytest_twisted.ensureDeferred
async def test_reader_is_shown_with_its_caller_and_partitions(hot: Administered) -> None:
    await published(hot, b"a")
    client = await follower(hot)
    found = await group(hot)
    assert found["state"] == "reading"
    (reader,) = found["readers"]
    assert (reader["caller"], reader["address"], reader["mode"], reader["kind"]) == (
        "app2/app2-sub",
        "127.0.0.1",
        "auto",
        "stream",
    )
    assert (reader["partitions"], reader["blocked"], reader["blocked_share"]) == ([0], False, 0.0)
    client.close()


@pytest_twisted.ensureDeferred
async def test_group_that_was_left_is_shown_from_its_store(hot: Administered) -> None:
    await published(hot, b"a", b"b")
    await leased(hot)
    await acknowledged(hot, [{"partition": 0, "upto": 1}])
    await eventually(lambda: not hot.service.parts.groups.live)
    found = await group(hot)
    assert (found["state"], found["lag"], found["oldest_seconds"], found["readers"]) == ("not-read-here", 0, None, [])
    assert found["partitions"][0]["leased"] is None
    assert "oldest_seconds" not in found["unknown"]
    assert (await hot.admin("GET", "/groups")).json() == {"items": [], "next": None}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/groups/app2/app1/foo/v1/g9", 404),
        ("/groups/app9/app1/foo/v1/g1", 404),
        ("/groups/app2/app1/bar/v1/g1", 404),
        ("/groups/app2/app1/foo/v1/g.1", 400),
        (G1 + "?queue=live", 400),
        (G1 + "?queue=dead", 404),
        ("/groups?sort=verdict", 400),
        ("/groups?other=1", 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_group_that_is_not_there_is_refused(hot: Administered, path: str, status: int) -> None:
    assert (await hot.admin("GET", path)).status == status


@pytest_twisted.ensureDeferred
async def test_live_groups_are_listed_sorted_and_filtered(hot: Administered) -> None:
    await published(hot, b"a", b"b", b"c")
    await leased(hot, "g1", 1)
    await leased(hot, "g2", 3)
    await acknowledged(hot, [{"partition": 0, "upto": 2}], "g2")

    async def listed(query: str) -> list[tuple[str, int]]:
        found = (await hot.admin("GET", f"/groups{query}")).json()
        return [(row["group"], row["lag"]) for row in found["items"]]

    assert await listed("") == [("g1", 3), ("g2", 0)]
    assert await listed("?sort=lag") == [("g2", 0), ("g1", 3)]
    assert await listed("?sort=lag&desc=1&limit=1") == [("g1", 3)]
    assert await listed("?contains=/g2") == [("g2", 0)]
    assert await listed("?state=reading") == []
    first = (await hot.admin("GET", "/groups?sort=lag&limit=1")).json()
    second = (await hot.admin("GET", f"/groups?sort=lag&limit=1&after={first['next']}")).json()
    assert [row["group"] for row in first["items"] + second["items"]] == ["g2", "g1"]
    assert second["next"] is None


@pytest_twisted.ensureDeferred
async def test_open_group_has_four_parts(administered: Make) -> None:
    shop = administered(registry=RegistryConfig(driver="open"))
    await shop.start()
    await shop.request("POST", "/v2/topics/a.b", b"x")
    await shop.request("GET", "/v2/topics/a.b/my.group?ack=explicit")
    (listed,) = (await shop.admin("GET", "/groups")).json()["items"]
    assert (listed["name"], listed["application"]) == ("default/a.b/v2/my.group", "default")
    for path in (f"/groups/{listed['name']}", f"/groups/default/{listed['name']}"):
        found = await group(shop, path)
        assert (found["name"], found["lag"], found["unacknowledged_records"]) == (listed["name"], 1, 1)


@pytest.mark.parametrize(
    ("path", "full"),
    [
        ("groups/default/t/v1/g", "groups/default/default/t/v1/g"),
        ("groups/default/t/v1/g/offsets", "groups/default/default/t/v1/g/offsets"),
        ("groups/default/default/t/v1/g", "groups/default/default/t/v1/g"),
        ("groups/default/default/v1/g", "groups/default/default/default/v1/g"),
        ("groups", "groups"),
        ("topics/default/t/v1/g", "topics/default/t/v1/g"),
    ],
)
def test_reader_is_put_before_four_parts_alone(path: str, full: str) -> None:
    assert with_reader(path.split("/")) == full.split("/")


# --- moving ----------------------------------------------------------------------------------------------------


async def settled_at(shop: Administered, upto: int) -> None:
    """g1 has committed everything up to and with an offset, and was left."""
    await leased(shop, limit=upto + 1)
    await acknowledged(shop, [{"partition": 0, "upto": upto}])
    await eventually(lambda: not shop.service.parts.groups.live)


def move(partition: int, committed: int | None, to: int, again: int, skipped: int) -> dict[str, Any]:
    return {"partition": partition, "committed": committed, "to": to, "again": again, "skipped": skipped}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"to": "earliest"}, [move(0, 2, 0, 2, 0)]),
        ({"to": "latest"}, [move(0, 2, 3, 0, 1)]),
        ({"timestamp": 0}, [move(0, 2, 0, 2, 0)]),
        ({"offsets": {"0": 1}}, [move(0, 2, 1, 1, 0)]),
        ({"offsets": {"0": 2}}, []),
    ],
)
@pytest_twisted.ensureDeferred
async def test_dry_run_says_what_a_move_would_change_and_the_move_does_it(
    hot: Administered, body: Any, expected: Any
) -> None:
    await published(hot, b"a", b"b", b"c")
    await settled_at(hot, 1)
    dry = await hot.admin("PUT", f"{G1}/offsets?dry_run=1", body)
    assert (dry.status, dry.json()) == (200, {"dry_run": True, "readers": 0, "partitions": expected})
    assert (await group(hot))["partitions"][0]["committed"] == 2
    moved = await hot.admin("PUT", f"{G1}/offsets", body)
    to = expected[0]["to"] if expected else 2
    assert (moved.status, moved.json()) == (200, {"partitions": [{"partition": 0, "committed": to}]})


@pytest_twisted.ensureDeferred
async def test_dry_run_of_a_group_that_has_committed_nothing_counts_from_the_earliest(hot: Administered) -> None:
    await published(hot, b"a", b"b", b"c")
    dry = await hot.admin("PUT", f"{G1}/offsets?dry_run=1", {"offsets": {"0": 2}})
    assert dry.json()["partitions"] == [move(0, None, 2, 0, 2)]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"to": "middle"}, 400),
        ({"offsets": {"0": 9}}, 416),
        ({"offsets": {"7": 0}}, 404),
        ({"offsets": {"0": -1}}, 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_move_with_a_fault_is_refused_dry_or_not(hot: Administered, body: Any, status: int) -> None:
    await published(hot, b"a")
    for query in ("", "?dry_run=1"):
        assert (await hot.admin("PUT", f"{G1}/offsets{query}", body)).status == status


@pytest_twisted.ensureDeferred
async def test_move_of_a_group_with_readers_is_refused_and_dry_run_counts_them(hot: Administered) -> None:
    await published(hot, b"a")
    client = await follower(hot)
    answer = await hot.admin("PUT", f"{G1}/offsets", {"to": "earliest"})
    assert (answer.status, answer.code) == (409, "group-busy")
    assert (await hot.admin("PUT", f"{G1}/offsets?dry_run=true", {"to": "latest"})).json()["readers"] == 1
    client.close()


@pytest_twisted.ensureDeferred
async def test_moves_are_audited_and_dry_runs_are_not(hot: Administered) -> None:
    await published(hot, b"a")
    await hot.admin("PUT", f"{G1}/offsets?dry_run=1", {"to": "latest"})
    await hot.admin("PUT", f"{G1}/offsets", {"to": "latest"})
    await hot.admin("PUT", f"{G1}/offsets", {"offsets": {"0": 0}})
    await eventually(lambda: len(events(hot, "group.offsets")) == 2)
    assert [event["object"] for event in events(hot, "group.offsets")] == [
        "app2/app1/foo/v1/g1 to latest",
        "app2/app1/foo/v1/g1 to 0:0",
    ]


@pytest_twisted.ensureDeferred
async def test_group_whose_reader_was_unregistered_is_still_listed(hot: Administered) -> None:
    await published(hot, b"a")
    await leased(hot)
    for path in ("/bindings/app2/app1/foo/v1", "/applications/app2/keys/app2-pub", "/applications/app2/keys/app2-sub"):
        await hot.change("DELETE", path)
    await hot.change("DELETE", "/applications/app2")
    for query in ("", "?sort=lag"):
        found = (await hot.admin("GET", f"/groups{query}")).json()
        assert [(row["name"], row["lag"]) for row in found["items"]] == [("app2/app1/foo/v1/g1", 1)]
