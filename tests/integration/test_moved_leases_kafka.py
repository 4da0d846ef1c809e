"""Leases that survive a planned move of their partitions to another gateway, on a real Kafka."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest
import pytest_twisted
from servers.kafka import KafkaCluster
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from gateways import RunningGateway, config

from kateway.config.schema import ClusterConfig, KafkaStorageConfig

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka
NDJSON = {"Accept": "application/x-ndjson"}
ACK_TIMEOUT = 8.0

Make = Callable[..., RunningGateway]
Place = tuple[int, int]


@pytest_twisted.async_yield_fixture
async def gateways(tmp_path: Path, kafka: KafkaCluster) -> AsyncIterator[Make]:
    """Makes gateways in open mode that pass on to each other, and starts them."""
    made: list[RunningGateway] = []
    secret = tmp_path / "secret"
    secret.write_text("a secret that all gateways know")

    async def make(partitions: int) -> RunningGateway:
        settings = attrs.evolve(
            config(tmp_path / f"data-{len(made)}"),
            storage={
                "default": KafkaStorageConfig(
                    driver="kafka", brokers=(kafka.bootstrap,), create_topics=True, partitions=partitions
                )
            },
            cluster=ClusterConfig(endpoint="tcp:0:interface=127.0.0.1", secret_file=str(secret), directory_seconds=0.5),
        )
        made.append(RunningGateway(settings, "hot"))
        await made[-1].start()
        return made[-1]

    yield make
    for each in made:
        await each.stop()


async def fill(gateway: RunningGateway, topic: str, count: int, partitions: int) -> None:
    for number in range(count):
        path = f"/v1/topics/{topic}?partition={number % partitions}&timeout=20"
        assert (await gateway.request("POST", path, b"%d" % number)).status == 201


async def lease(
    gateway: RunningGateway, group: str, count: int, limit: int = 1, ack_timeout: float = ACK_TIMEOUT
) -> dict[Place, dict[str, Any]]:
    """Leases so many records that no client has."""
    found: dict[Place, dict[str, Any]] = {}
    while len(found) < count:
        path = f"{group}?ack=explicit&ack_timeout={ack_timeout}&timeout=10&limit={limit}"
        answer = await gateway.request("GET", path, headers=NDJSON)
        assert answer.status in {200, 204}
        for record in map(orjson.loads, answer.body.splitlines()):
            place = record["partition"], record["offset"]
            assert place not in found
            found[place] = record
    return found


async def acknowledge(gateway: RunningGateway, group: str, leases: list[dict[str, Any]]) -> list[int]:
    """One request each, all at once, as many clients do."""

    async def one(record: dict[str, Any]) -> int:
        ack = {name: record[name] for name in ("partition", "offset", "lease")}
        answer = await gateway.request("POST", f"{group}/acks", json=[ack])
        return answer.json()["results"][0]["status"] if answer.status == 200 else answer.status

    return await gatherResults([Deferred.fromCoroutine(one(record)) for record in leases])


@here
@pytest.mark.both_kafkas
async def test_leases_of_a_gateway_that_stops_hold_at_one_that_was_a_member_beside_it(
    kafka: KafkaCluster, gateways: Make, topic_name: str
) -> None:
    await leases_hold(gateways, topic_name, member=True)


@here
async def test_leases_of_a_gateway_that_stops_hold_at_one_that_had_nothing_of_the_group(
    kafka: KafkaCluster, gateways: Make, topic_name: str
) -> None:
    await leases_hold(gateways, topic_name, member=False)


async def leases_hold(gateways: Make, topic_name: str, *, member: bool) -> None:
    """50 leases, 40 of them acknowledged at the other gateway while the first one stops and then: the others come again
    after their timeout.
    """
    first, second = await gateways(2), await gateways(2)
    group = f"/v1/topics/{topic_name}/g"
    await fill(first, topic_name, 120, 2)
    found = await lease(first, group, 1)
    if member:
        # a member of its own, that the first one's partitions go to
        found.update(await lease(second, group, 1))
    began = reactor.seconds()
    found.update(await lease(first, group, 50 - len(found)))
    stopping = Deferred.fromCoroutine(first.stop())
    # some at once, while the first one stops, the others when it has
    leases = list(found.values())
    early = await acknowledge(second, group, leases[:10])
    await stopping
    late = await acknowledge(second, group, leases[10:40])
    assert early + late == [200] * 40
    assert reactor.seconds() - began < ACK_TIMEOUT - 1, "too slow to tell"
    fresh = await lease(second, group, 70, limit=10, ack_timeout=60)
    assert not fresh.keys() & found.keys()
    assert reactor.seconds() - began < ACK_TIMEOUT
    again = await lease(second, group, 10, limit=10, ack_timeout=60)
    assert reactor.seconds() - began >= ACK_TIMEOUT
    assert again.keys() == {(record["partition"], record["offset"]) for record in leases[40:]}
    assert {record["attempt"] for record in again.values()} == {2}
    statuses = await acknowledge(second, group, [*fresh.values(), *again.values()])
    assert statuses == [200] * 80
