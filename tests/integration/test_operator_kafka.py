"""An operator's calls on a gateway over a real Kafka: they show what is there, and move it there."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from servers.kafka import KafkaCluster

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from administered import Administered
from gateways import config, eventually

from kateway.config.schema import KafkaStorageConfig

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka


@pytest_twisted.async_yield_fixture
async def gateway(tmp_path: Path, kafka: KafkaCluster) -> AsyncIterator[Administered]:
    """A gateway in open mode."""
    cluster = KafkaStorageConfig(driver="kafka", brokers=tuple(kafka.bootstrap.split(",")), create_topics=True)
    running = Administered(attrs.evolve(config(tmp_path / "data"), storage={"default": cluster}))
    await running.start()
    yield running
    await running.stop()


async def got(gateway: Administered, path: str) -> Any:
    answer = await gateway.admin("GET", path)
    assert answer.status == 200, answer.body
    return answer.json()


@here
async def test_dead_letters_of_a_group_are_seen_and_redriven(gateway: Administered, topic_name: str) -> None:
    records, group = f"/records/default/{topic_name}/v1", f"/groups/default/{topic_name}/v1/g1"
    public = f"/v1/topics/{topic_name}"
    for value in (b"a", b"b", b"c"):
        published = await gateway.ask_admin("POST", f"/admin/v1{records}?partition=1&key=k", data=value)
        assert published.status == 201, published.body
    assert [each["value"] for each in (await got(gateway, f"{records}?last=2"))["records"]] == ["b", "c"]
    found = await got(gateway, f"{records}?timestamp=0&contains=b")
    assert [(each["partition"], each["offset"]) for each in found["records"]] == [(1, 1)]
    assert (found["scanned"]["records"], found["scanned"]["stopped"]) == (3, "end")

    leased = await gateway.request("GET", f"{public}/g1?ack=explicit&limit=3&timeout=20")
    assert leased.status == 200
    rows = (await got(gateway, f"/groups?contains={topic_name}"))["items"]
    assert len(rows) == 1, rows
    (row,) = rows
    assert (row["name"], row["lag"], row["unacknowledged_records"]) == (f"default/{topic_name}/v1/g1", 3, 3)
    one = await got(gateway, f"{records}/1/1?group=g1")
    assert (one["record"]["value"], one["state"], one["attempt"]) == ("b", "leased", 1)
    items = [{"partition": 1, "offset": 0}, *({"partition": 1, "offset": n, "outcome": "dead"} for n in (1, 2))]
    acknowledged = await gateway.request("POST", f"{public}/g1/acks?sync=1", json=items)
    assert [result["status"] for result in acknowledged.json()["results"]] == [200, 200, 200]
    one = await got(gateway, f"{records}/1/1?group=g1")
    assert (one["state"], one["reason"], one["dead"]["partition"]) == ("dead", "rejected", 1)

    begun = await gateway.admin("POST", f"{group}/redrive", {"records": [{"partition": 1, "offset": 1}]})
    assert begun.status == 202, begun.body
    await eventually(lambda: not gateway.service.http.operating.redrives._running, 30)
    redriven = await got(gateway, f"{group}/redrive")
    assert (redriven["state"], redriven["redriven"], redriven["missing"]) == ("done", 1, []), redriven
    begun = await gateway.admin("POST", f"{group}/redrive", {"all": True})
    await eventually(lambda: not gateway.service.http.operating.redrives._running, 30)
    redriven = await got(gateway, f"{group}/redrive")
    assert (redriven["state"], redriven["redriven"]) == ("done", 1), redriven
    lag = await gateway.request("GET", f"{public}/g1/lag?queue=dead")
    assert lag.json()["lag"] == 0
    found = await got(gateway, f"{records}?partition=1&offset=3")
    assert [(each["key"], each["value"]) for each in found["records"]] == [("k", "c"), ("k", "b")]


@here
async def test_group_is_moved_behind_a_dry_run(gateway: Administered, topic_name: str) -> None:
    group, public = f"/groups/default/{topic_name}/v1/g1", f"/v1/topics/{topic_name}"
    for value in (b"a", b"b"):
        assert (await gateway.request("POST", f"{public}?partition=0", value)).status == 201
    leased = await gateway.request("GET", f"{public}/g1?ack=explicit&limit=2&timeout=20")
    assert leased.status == 200
    done = await gateway.request("POST", f"{public}/g1/acks?sync=1", json=[{"partition": 0, "upto": 1}])
    assert done.json()["results"][0]["status"] == 200
    dry = await gateway.admin("PUT", f"{group}/offsets?dry_run=1", {"offsets": {"0": 1}})
    assert dry.json()["partitions"] == [{"partition": 0, "committed": 2, "to": 1, "again": 1, "skipped": 0}]
    moved = await gateway.admin("PUT", f"{group}/offsets", {"offsets": {"0": 1}})
    assert moved.status == 200, moved.body
    shown = await got(gateway, group)
    assert (shown["lag"], shown["partitions"][0]["committed"], shown["state"]) == (1, 1, "not-read-here")
    assert shown["oldest_seconds"] is not None
