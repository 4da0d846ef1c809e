"""Transforms and filters of a gateway over a real Kafka, with librdkafka beside it."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet.threads import deferToThread

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from administered import Administered
from gateways import config, eventually

from kateway.config.schema import KafkaStorageConfig

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka
SECRET = b"4242424242424242"
IN = [
    {"require": "record.json.n >= 0", "message": "n must not be negative"},
    {"set": {"headers": {"seen": "'yes'"}}},
]
OUT = [{"drop": "record.json.n % 3 == 0"}, {"mask": ["/card"]}]


@pytest_twisted.async_yield_fixture
async def gateway(tmp_path: Path, kafka: KafkaCluster, topic_name: str) -> AsyncIterator[Administered]:
    """A gateway in open mode with transforms of the test's topic."""
    cluster = KafkaStorageConfig(driver="kafka", brokers=tuple(kafka.bootstrap.split(",")), create_topics=True)
    transforms = {f"default/{topic_name}/v1": {"in": IN, "out": OUT}}
    settings = attrs.evolve(config(tmp_path / "data"), storage={"default": cluster}, transforms=transforms)
    running = Administered(settings)
    await running.start()
    yield running
    await running.stop()


def order(number: int) -> bytes:
    return json.dumps({"n": number, "card": SECRET.decode()}).encode()


def numbers(body: bytes) -> list[int]:
    return [json.loads(json.loads(line)["value"])["n"] for line in body.splitlines()]


@here
async def test_records_go_in_and_out_through_the_steps(
    gateway: Administered, kafka: KafkaCluster, topic_name: str
) -> None:
    public = f"/v1/topics/{topic_name}"
    batch = b"\n".join([*map(order, range(40)), order(-1), b"no JSON"])
    headers = {"Content-Type": "application/x-ndjson"}
    answer = await gateway.request("POST", f"{public}?batch=1&timeout=20", batch, headers=headers)
    assert answer.status == 422, answer.body
    assert [each.get("status", 201) for each in answer.json()["results"]] == [201] * 40 + [422] * 2
    seen = await deferToThread(Oracle(kafka.direct).records, topic_name)
    assert len(seen) == 40
    assert all(SECRET in record.value for record in seen)

    accept = {"Accept": "application/x-ndjson"}
    for mode in ("auto", "explicit"):
        path = f"{public}/{mode}?limit=100&idle=2&timeout=20&ack={mode}"
        answer = await gateway.request("GET", path, headers=accept)
        assert answer.status == 200, answer.body
        assert SECRET not in answer.body
        assert sorted(numbers(answer.body)) == [n for n in range(40) if n % 3]
        if mode == "explicit":
            acks = [
                {"partition": record["partition"], "offset": record["offset"]}
                for record in map(json.loads, answer.body.splitlines())
            ]
            assert (await gateway.request("POST", f"{public}/{mode}/acks?sync=1", json=acks)).status == 200

        async def lag(group: str = mode) -> int:
            # another poll: what the first was sent has been read
            await gateway.request("GET", f"{public}/{group}?timeout=0&ack={group}")
            found: int = (await gateway.request("GET", f"{public}/{group}/lag")).json()["lag"]
            return found

        for _ in range(100):
            if not await lag():
                break
        assert await lag() == 0
    some = await gateway.request(
        "GET", f"{public}/filtered?limit=100&idle=2&timeout=20&filter=record.json.n%20%3E%2035", headers=accept
    )
    assert sorted(numbers(some.body)) == [37, 38]


@here
async def test_record_that_cannot_be_masked_is_among_the_dead_letters(
    gateway: Administered, kafka: KafkaCluster, topic_name: str
) -> None:
    public = f"/v1/topics/{topic_name}"
    await gateway.request("POST", f"{public}?timeout=20", order(1))
    foreign = {"value": b'{"card":"%s","card":1}' % SECRET}

    def produce() -> None:
        from confluent_kafka import Producer

        producer: Any = Producer({"bootstrap.servers": kafka.bootstrap})
        producer.produce(topic_name, **foreign)
        assert producer.flush(20) == 0

    await deferToThread(produce)
    answer = await gateway.request("GET", f"{public}/g?limit=10&idle=3&timeout=20")
    assert answer.status == 200
    assert SECRET not in answer.body
    dead = f"{topic_name}.g.dead"
    store = gateway.service.parts.storing.stores["default"]
    await eventually(lambda: store.partitions(dead) is not None, 30)
    (letter,) = await deferToThread(Oracle(kafka.direct).records, dead)
    assert letter.value == foreign["value"]
    refused = await gateway.request("GET", f"{public}/g?queue=dead&timeout=10")
    assert (refused.status, refused.code) == (422, "transform-failed")
    assert SECRET not in refused.body
