"""What changes under readers that are there: retention takes what they stand on, their topic is made anew, their group
is moved by hand.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from confluent_kafka import KafkaException, TopicPartition
from kafka_reader import until
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

sys.path.append(str(Path(__file__).parents[1] / "edge"))

import attrs
from gateways import Client, RunningGateway, config

from kateway.config.schema import KafkaStorageConfig

reactor: Any = _reactor
here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka


@pytest_twisted.async_yield_fixture
async def gateway(kafka: KafkaCluster, tmp_path: Path) -> AsyncIterator[RunningGateway]:
    store = KafkaStorageConfig(driver="kafka", brokers=tuple(kafka.addresses), metadata_refresh_seconds=1.0)
    running = RunningGateway(attrs.evolve(config(tmp_path), storage={"default": store}), "hot")
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
def topic(oracle: Oracle, topic_name: str) -> str:
    """A topic of one partition."""
    oracle.create_topic(topic_name)
    return topic_name


class Follower:
    """A client that follows a group ``g`` and knows which offsets it was given."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @classmethod
    async def of(cls, gateway: RunningGateway, topic: str) -> Follower:
        client = await Client.connect(gateway.port)
        client.send(f"GET /v1/topics/{topic}/g?follow=1 HTTP/1.1\r\nHost: h\r\nAccept: application/x-ndjson\r\n\r\n")
        return cls(client)

    def given(self) -> list[tuple[int, str]]:
        lines = [line for line in self.client.received.split(b"\n") if line.startswith(b'{"') and line.endswith(b"}")]
        return [(found["offset"], found["value"]) for found in map(json.loads, lines)]

    @property
    def ended_whole(self) -> bool:
        return self.client.received.endswith(b"0\r\n\r\n")


def numbered(first: int, count: int, size: int = 0) -> list[bytes]:
    return [b"%d" % number + b"." * size for number in range(first, first + count)]


async def committed(gateway: RunningGateway, topic: str) -> int | None:
    answer = await gateway.request("GET", f"/v1/topics/{topic}/g/offsets")
    found: int | None = answer.json()["partitions"][0]["committed"]
    return found


async def until_committed(gateway: RunningGateway, topic: str, offset: int) -> None:
    end = reactor.seconds() + 20
    while (found := await committed(gateway, topic)) != offset:
        assert reactor.seconds() < end, f"{found} is committed, not {offset}"
        await deferLater(reactor, 0.05)


@here
async def test_retention_that_overtakes_a_reader_at_rest_leaves_it_every_record_that_is_there(
    gateway: RunningGateway, oracle: Oracle, topic: str
) -> None:
    await deferToThread(oracle.produce, topic, numbered(0, 4000, 2000), partition=0)
    follower = await Follower.of(gateway, topic)
    await follower.client.until(b'"offset":9,')
    assert follower.client.transport is not None
    follower.client.transport.pauseProducing()
    gone = TopicPartition(topic, 0, 3900)
    await deferToThread(oracle.admin.delete_records([gone])[gone].result, 30)
    follower.client.transport.resumeProducing()
    await follower.client.until(b'"offset":3999,')
    offsets = [offset for offset, _ in follower.given()]
    # what was on its way, from the first on, and then what is left
    whole = next(index for index, offset in enumerate(offsets) if offset >= 3900)
    assert offsets == [*range(whole), *range(3900, 4000)]
    assert whole < 3900
    await until_committed(gateway, topic, 4000)
    follower.client.close()


@here
async def test_retention_that_overtakes_what_a_client_lost_goes_on_with_what_is_left(
    gateway: RunningGateway, oracle: Oracle, topic: str
) -> None:
    await deferToThread(oracle.produce, topic, numbered(0, 20), partition=0)
    follower = await Follower.of(gateway, topic)
    await follower.client.until(b'"offset":19,')
    gone = TopicPartition(topic, 0, 12)
    await deferToThread(oracle.admin.delete_records([gone])[gone].result, 30)
    follower.client.reset()
    again = await gateway.request("GET", f"/v1/topics/{topic}/g?limit=20&idle=1", headers={"accept": "*/*"})
    # settled meanwhile, or given back: never the first of them again, because they are not there any more
    assert again.status in {200, 204}
    assert set(again.body.split()) <= {b"%d" % number for number in range(12, 20)}
    await until_committed(gateway, topic, 20)


@pytest.mark.parametrize("pause", ["at-once", "noticed"])
@here
async def test_a_topic_made_anew_under_a_follower_is_read_from_its_start_and_the_stream_is_never_ended_as_whole(
    gateway: RunningGateway, oracle: Oracle, topic: str, pause: str
) -> None:
    await deferToThread(oracle.produce, topic, numbered(0, 9), partition=0)
    follower = await Follower.of(gateway, topic)
    await follower.client.until(b'"offset":8,')
    await until_committed(gateway, topic, 9)
    await deferToThread(oracle.delete_topic, topic)
    if pause == "noticed":
        await until(lambda: follower.client.lost)
        assert (await gateway.request("GET", f"/v1/topics/{topic}/g?timeout=1")).status == 404
    await deferToThread(made_anew, oracle, topic)
    await deferToThread(oracle.produce, topic, [b"a", b"b", b"c"], partition=0)
    followers = [follower]

    def given() -> list[str]:
        return [value for each in followers for _, value in each.given()][9:]

    for _ in range(20):
        await until(lambda: given() == ["a", "b", "c"] or followers[-1].client.lost)
        if given() == ["a", "b", "c"]:
            break
        assert not followers[-1].ended_whole
        followers.append(await Follower.of(gateway, topic))
    assert given() == ["a", "b", "c"]
    assert (await gateway.request("POST", f"/v1/topics/{topic}", b"d")).status == 201
    await until(lambda: given() == ["a", "b", "c", "d"])
    await until_committed(gateway, topic, 4)
    followers[-1].client.close()


def made_anew(oracle: Oracle, topic: str) -> None:
    """Brokers take a moment to forget a topic: until then there still is one."""
    end = time.monotonic() + 30
    while True:
        try:
            return oracle.create_topic(topic)
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS" or time.monotonic() > end:
                raise
        time.sleep(0.05)


@here
async def test_a_group_cannot_be_moved_under_a_reader_and_can_once_it_has_gone(
    gateway: RunningGateway, oracle: Oracle, topic: str, unique_name: Callable[[str], str]
) -> None:
    await deferToThread(oracle.produce, topic, numbered(0, 10), partition=0)
    group = unique_name("group")
    target = f"/v1/topics/{topic}/{group}"
    client = await Client.connect(gateway.port)
    client.send(f"GET {target}?follow=1 HTTP/1.1\r\nHost: h\r\n\r\n")
    await client.until(b"\n9\n")
    refused = await gateway.request("PUT", f"{target}/offsets", b'{"offsets":{"0":4}}')
    assert (refused.status, refused.code) == (409, "group-busy")
    with pytest.raises(KafkaException):
        await deferToThread(oracle.commit, group, topic, {0: 4})
    client.close()
    await until(lambda: client.lost)
    # that it has gone shows in a moment, by a reset; our member may linger: it is let go
    limit = reactor.seconds() + 5
    while (moved := await gateway.request("PUT", f"{target}/offsets", b'{"offsets":{"0":4}}')).status != 200:
        assert (moved.code, reactor.seconds() < limit) == ("group-busy", True), moved.body
    assert (await gateway.request("GET", f"{target}?limit=6&idle=1")).body.split() == numbered(4, 6)
    while await deferToThread(oracle.members, group):
        pass  # our member lingers for a moment
    await deferToThread(oracle.commit, group, topic, {0: 7})
    assert (await gateway.request("GET", f"{target}?limit=3&idle=1")).body.split() == numbered(7, 3)
