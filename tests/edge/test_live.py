"""Live rows as server-sent events, over the admin listener of a whole gateway."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from administered import Administered, Make
from gateways import Client, eventually

from kateway.config.schema import AdminConfig

EVENT = re.compile(rb"event: (\w+)\nid: (\d+)\ndata: (.*)\n\n")
GROUP = "app2/app1/foo/v1/g1"


async def stream(shop: Administered, query: str, head: str = "") -> Client:
    client = await Client.connect(shop.admin_port)
    client.send(f"GET /admin/v1/live?{query} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n")
    await client.until(b"event: state")
    return client


def told(client: Client) -> list[tuple[str, int, Any]]:
    return [(kind.decode(), int(number), json.loads(data)) for kind, number, data in EVENT.findall(client.received)]


async def leased(shop: Administered) -> None:
    assert (await shop.publish("app1", "foo")).status == 201
    assert (await shop.read("app2", "app1.foo/g1?ack=explicit&limit=1&idle=0.1")).status == 200


@pytest_twisted.ensureDeferred
async def test_first_is_the_whole_state_then_what_changed(hot: Administered) -> None:
    client = await stream(hot, "view=groups")
    assert told(client) == [("state", 1, {"rows": [], "gone": []})]
    await leased(hot)
    await client.until(b"event: change")
    kind, number, data = told(client)[1]
    assert (kind, number) == ("change", 2)
    assert [row["name"] for row in data["rows"]] == [GROUP]
    client.close()


@pytest_twisted.ensureDeferred
async def test_rows_are_those_that_are_asked_for(hot: Administered) -> None:
    await leased(hot)
    client = await stream(hot, f"view=groups&ids={GROUP},app2/app1/foo/v1/none")
    assert [row["name"] for row in told(client)[0][2]["rows"]] == [GROUP]
    other = await stream(hot, "view=groups&ids=app2/app1/foo/v1/none")
    assert told(other)[0][2]["rows"] == []
    client.close()
    other.close()


@pytest.mark.parametrize("view", ["gateway", "applications", "topics", "errors"])
@pytest_twisted.ensureDeferred
async def test_every_view_has_named_rows(hot: Administered, view: str) -> None:
    await leased(hot)
    await hot.request("POST", "/v1/topics/foo", b"x")
    assert hot.service.http.observing is not None
    await hot.service.http.observing.looking.look_at_gateway()
    await hot.service.http.observing.looking.look_at_objects()
    client = await stream(hot, f"view={view}")
    rows = told(client)[0][2]["rows"]
    assert rows
    assert all(row["name"] for row in rows)
    client.close()


@pytest_twisted.ensureDeferred
async def test_overview_has_the_status_and_the_groups_that_are_worst_off(hot: Administered) -> None:
    await leased(hot)
    client = await stream(hot, "view=overview")
    status, group = told(client)[0][2]["rows"]
    assert (status["name"], status["stores"]["default"]["healthy"]) == ("status", True)
    assert (group["name"], group["lag"]) == (GROUP, 1)
    client.close()


@pytest_twisted.ensureDeferred
async def test_summary_has_slow_requests_errors_and_changes_too(hot: Administered) -> None:
    hot.service.parts.counting.slowest.floor = 0.0
    assert (await hot.request("POST", "/v1/topics/foo?partition=99", b"x", headers=hot.key("app1-pub"))).status == 404
    await leased(hot)
    client = await stream(hot, "view=summary")
    rows = told(client)[0][2]["rows"]
    assert {row["name"] for row in rows} > {"status", GROUP}
    parts = [row for row in rows if "part" in row]
    assert {row["part"] for row in parts} == {"slow", "error", "change"}
    (error,) = [row for row in parts if row["part"] == "error"]
    assert (error["reason"], error["count"], error["application"]) == ("partition-not-found", 1, "app1")
    client.close()


@pytest_twisted.ensureDeferred
async def test_fifth_stream_of_an_address_is_refused_until_one_ends(hot: Administered) -> None:
    clients = [await stream(hot, "view=groups") for _ in range(4)]
    answer = await hot.admin("GET", "/live?view=groups")
    assert (answer.status, answer.header("retry-after")) == (429, "5")
    clients[0].close()
    streams = hot.service.http.operating.streams
    await eventually(lambda: len(streams) == 3)
    clients[0] = await stream(hot, "view=groups")
    for client in clients:
        client.close()
    await eventually(lambda: not len(streams))


@pytest_twisted.ensureDeferred
async def test_stream_ends_soon_after_its_token_was_changed(administered: Make, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first-token-of-ours")
    file.chmod(0o600)
    shop = administered(admin=AdminConfig(token_file=str(file)))
    await shop.start()
    head = "Authorization: Bearer first-token-of-ours\r\n"
    client = await stream(shop, "view=groups", head)
    file.write_text("second-token-of-ours")
    shop.service.reloading.reread = lambda: attrs.evolve(shop.service.settings)
    await shop.service.reload()
    began = time.monotonic()
    await client.until(b"\r\n0\r\n\r\n")
    assert time.monotonic() - began < 2


@pytest_twisted.ensureDeferred
async def test_drain_ends_streams(hot: Administered) -> None:
    client = await stream(hot, "view=groups")
    await hot.stop()
    assert client.received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("query", ["", "view=none", "view=groups&other=1", "view=groups&ids=" + "a," * 201])
@pytest_twisted.ensureDeferred
async def test_question_that_cannot_be_answered_is_refused(hot: Administered, query: str) -> None:
    assert (await hot.admin("GET", f"/live?{query}")).status == 400


@pytest_twisted.ensureDeferred
async def test_head_opens_no_stream(hot: Administered) -> None:
    answer = await hot.admin("HEAD", "/live?view=groups")
    assert (answer.status, answer.header("content-type")) == (200, "text/event-stream")
    assert not len(hot.service.http.operating.streams)
