"""The tail of a topic over the admin listener: what is written is seen or counted, and no group is moved."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest_twisted
from administered import Administered, events
from gateways import Client, eventually

EVENT = re.compile(rb"event: records\nid: \d+\ndata: (.*)\n\n")
TAIL = "records/app1/foo/v1/tail"


async def tail(shop: Administered, path: str = TAIL) -> Client:
    client = await Client.connect(shop.admin_port)
    client.send(f"GET /admin/v1/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await client.until(b"event: state")
    return client


def told(client: Client) -> list[Any]:
    return [json.loads(data) for data in EVENT.findall(client.received)]


async def burst(shop: Administered, count: int) -> None:
    body = [{"value": f"v{number}"} for number in range(count)]
    answer = await shop.admin("POST", "/records/app1/foo/v1?batch=1", body)
    assert answer.status == 201


@pytest_twisted.ensureDeferred
async def test_records_of_a_burst_are_seen_or_counted_as_dropped(hot: Administered) -> None:
    await burst(hot, 3)
    client = await tail(hot)
    await burst(hot, 200)
    await eventually(lambda: sum(len(each["records"]) + each["dropped"] for each in told(client)) == 200)
    first = told(client)[0]
    assert 0 < len(first["records"]) <= 50
    # the newest ones
    assert told(client)[-1]["records"][-1]["value"] == "v199"
    assert (await hot.admin("GET", "/groups")).json()["items"] == []
    assert [event["object"] for event in events(hot, "records.tail")] == ["app1/foo/v1"]
    client.close()
    await eventually(lambda: not len(hot.service.http.operating.streams))


@pytest_twisted.ensureDeferred
async def test_quiet_topic_is_followed_record_by_record(hot: Administered) -> None:
    client = await tail(hot)
    for number in range(2):
        await burst(hot, 1)
        await eventually(lambda wanted=number: len(told(client)) == wanted + 1)
    assert [(len(each["records"]), each["dropped"]) for each in told(client)] == [(1, 0), (1, 0)]
    client.close()


@pytest_twisted.ensureDeferred
async def test_tail_counts_among_the_streams_of_its_address_and_needs_a_topic(hot: Administered) -> None:
    assert (await hot.admin("GET", "/records/app1/none/v1/tail")).status == 404
    assert (await hot.admin("HEAD", f"/{TAIL}")).status == 200
    clients = [await tail(hot) for _ in range(4)]
    answer = await hot.admin("GET", f"/{TAIL}")
    assert (answer.status, answer.header("retry-after")) == (429, "5")
    for client in clients:
        client.close()
    await eventually(lambda: not len(hot.service.http.operating.streams))
