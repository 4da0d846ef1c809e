"""Several gateways before a real Kafka: each answers for the group, whichever holds the partitions."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import treq
from servers.kafka import KafkaCluster
from twisted.internet import reactor
from twisted.internet.task import deferLater

sys.path.append(str(Path(__file__).parents[1] / "edge"))

import attrs
import orjson
from administered import REGISTRY
from gateways import Answer, Client, RunningGateway, config, eventually

from kateway.config.schema import AuditConfig, ClusterConfig, KafkaStorageConfig, RegistryConfig
from kateway.core.groups.membership import Membership
from kateway.registry.secrets import hash_secret

here = pytest_twisted.ensureDeferred
pytestmark = pytest.mark.kafka
LOOPBACK = "tcp:0:interface=127.0.0.1"
NDJSON = {"Accept": "application/x-ndjson"}
SECRET = "a secret that all gateways know"

Make = Callable[..., RunningGateway]
Pair = tuple[RunningGateway, RunningGateway]


@pytest_twisted.async_yield_fixture
async def gateways(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes gateways in open mode that pass on to each other, not started yet."""
    made: list[RunningGateway] = []
    secret = tmp_path / "secret"
    secret.write_text(SECRET)

    def make(
        kafka: KafkaCluster,
        *,
        partitions: int,
        registry: Path | None = None,
        **options: Any,
    ) -> RunningGateway:
        settings = attrs.evolve(
            config(tmp_path / f"data-{len(made)}"),
            storage={
                "default": KafkaStorageConfig(
                    driver="kafka", brokers=(kafka.bootstrap,), create_topics=True, partitions=partitions
                )
            },
            registry=RegistryConfig() if registry is None else RegistryConfig(driver="file", path=str(registry)),
            audit=AuditConfig(acknowledgements=True),
            cluster=ClusterConfig(endpoint=LOOPBACK, secret_file=str(secret), directory_seconds=0.5, **options),
        )
        made.append(
            RunningGateway(attrs.evolve(settings, delivery=attrs.evolve(settings.delivery, linger_seconds=3)), "hot")
        )
        return made[-1]

    yield make
    for each in made:
        await each.stop()


@pytest_twisted.async_fixture
async def pair(kafka_3_9: KafkaCluster, gateways: Make) -> Pair:
    """Two gateways before topics of one partition; the first one that reads a group is its home."""
    home, other = gateways(kafka_3_9, partitions=1), gateways(kafka_3_9, partitions=1)
    await home.start()
    await other.start()
    return home, other


@pytest.fixture
def group(topic_name: str) -> str:
    return f"/v1/topics/{topic_name}/g"


def name(gateway: RunningGateway) -> str:
    return gateway.service.parts.name


def member(gateway: RunningGateway) -> Membership | None:
    return next(iter(gateway.service.parts.groups.live.values()), None)


def held(gateway: RunningGateway) -> list[int]:
    found = member(gateway)
    return [] if found is None else sorted(found.dispatch.owned_partitions)


async def publish(gateway: RunningGateway, topic: str, value: bytes, partition: int = 0) -> None:
    answer = await gateway.request("POST", f"/v1/topics/{topic}?partition={partition}&timeout=20", value)
    assert answer.status == 201, answer.body


async def follow(gateway: RunningGateway, group: str, more: str = "") -> Client:
    """A stream of a group's records as lines of JSON."""
    stream = await Client.connect(gateway.port)
    stream.send(f"GET {group}?follow=1{more} HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
    return stream


async def told(gateway: RunningGateway, path: str) -> bytes:
    """What the admin listener answers."""
    port = gateway.service.ports[-1].getHost().port
    return await treq.content(await gateway.client.get(f"http://127.0.0.1:{port}{path}"))


async def no_lag(gateway: RunningGateway, group: str) -> Answer:
    """Waits until all that was read is committed."""
    for _ in range(100):
        answer = await gateway.request("GET", f"{group}/lag")
        if answer.json()["lag"] == 0:
            break
        await deferLater(reactor, 0.05)
    assert answer.json()["lag"] == 0
    return answer


async def acknowledge(gateway: RunningGateway, group: str, *acks: dict[str, Any], sync: bool = True) -> Answer:
    return await gateway.request("POST", f"{group}/acks{'?sync=1' if sync else ''}", json=list(acks))


@here
async def test_poll_at_a_gateway_without_partitions_gets_the_records_of_another(
    pair: Pair, group: str, topic_name: str
) -> None:
    home, other = pair
    for value in (b"a", b"b", b"c"):
        await publish(home, topic_name, value)
    first = await home.request("GET", f"{group}?timeout=10")
    assert (first.body, first.header("kateway-gateway")) == (b"a", name(home))
    second = await other.request("GET", f"{group}?timeout=10")
    assert (second.status, second.body, second.header("kateway-gateway")) == (200, b"b", name(home))
    # it asked for nothing of its own
    assert member(other) is None
    third = await other.request("GET", f"{group}?timeout=10")
    assert (third.body, third.header("x-attempt")) == (b"c", "1")
    await eventually(lambda: not member(home) or not member(home).readers)  # type: ignore[union-attr]
    lag = await no_lag(other, group)
    assert lag.header("kateway-gateway") == name(home)


@here
async def test_acknowledgement_at_another_gateway_is_applied_where_the_lease_is(
    pair: Pair, group: str, topic_name: str
) -> None:
    home, other = pair
    for value in (b"a", b"b", b"c", b"d"):
        await publish(home, topic_name, value)
    leased = await home.request("GET", f"{group}?ack=explicit&ack_timeout=60&limit=4&timeout=10&idle=3", headers=NDJSON)
    assert len(leased.body.splitlines()) == 4
    lag = (await other.request("GET", f"{group}/lag")).json()
    assert (lag["lag"], lag["partitions"][0]["unacked"]) == (4, 4)
    answer = await acknowledge(
        other, group, {"partition": 0, "offset": 0}, {"partition": 0, "offset": 9}, {"partition": 0, "offset": 1}
    )
    assert [each["status"] for each in answer.json()["results"]] == [200, 404, 200]
    assert answer.header("kateway-gateway") == name(home)
    assert (await other.request("GET", f"{group}/offsets")).json()["partitions"] == [{"partition": 0, "committed": 2}]
    # one is put off, one rejected: both happen at the home
    answer = await acknowledge(
        other,
        group,
        {"partition": 0, "offset": 2, "outcome": "retry"},
        {"partition": 0, "offset": 3, "outcome": "dead"},
        sync=False,
    )
    assert [each["status"] for each in answer.json()["results"]] == [200, 200]
    dead = await other.request("GET", f"{group}?queue=dead&timeout=10")
    assert (dead.status, dead.body) == (200, b"d")
    again = await other.request("GET", f"{group}?ack=explicit&timeout=10", headers=NDJSON)
    record = again.json()
    assert (record["offset"], record["attempt"]) == (2, 2)
    # a lease is strict, wherever it is given back
    stale = await acknowledge(other, group, {"partition": 0, "offset": 2, "lease": "other"})
    good = await acknowledge(other, group, {"partition": 0, "offset": 2, "lease": record["lease"]})
    assert [answer.json()["results"][0]["status"] for answer in (stale, good)] == [409, 200]
    assert (await home.request("GET", f"{group}/offsets")).json()["partitions"] == [{"partition": 0, "committed": 4}]


@here
async def test_three_gateways_before_two_partitions_share_the_records_of_streams(
    kafka_3_9: KafkaCluster, gateways: Make, group: str, topic_name: str
) -> None:
    made = [gateways(kafka_3_9, partitions=2) for _ in range(3)]
    streams = []
    for gateway in made:
        await gateway.start()
    await publish(made[0], topic_name, b"first")
    for gateway in made[:2]:
        streams.append(await follow(gateway, group))
    await eventually(lambda: [len(held(gateway)) for gateway in made] == [1, 1, 0], 30)
    # both partitions have a follower: a third one would get nothing, and hears it from whoever holds them
    refused = await made[2].request("GET", f"{group}?follow=1", headers=NDJSON)
    assert (refused.status, refused.code) == (409, "too-many-consumers")
    streams[0].close()
    await eventually(lambda: not member(made[0]) or not member(made[0]).readers)
    streams[0] = await follow(made[2], group)
    await streams[0].until(b"Kateway-Gateway: " + name(made[0]).encode())
    for number in range(20):
        await publish(made[number % 3], topic_name, b"%d" % number, number % 2)
    for number in range(20):
        await eventually(lambda wanted=b'"value":"%d"' % number: any(wanted in stream.received for stream in streams))
    # without the first record, which either of them may have
    counts = [sum(stream.received.count(b'"value":"%d"' % each) for each in range(20)) for stream in streams]
    assert counts == [10, 10]
    for stream in streams:
        stream.close()
    await eventually(lambda: not any(gateway.service.parts.groups.readers for gateway in made))
    await no_lag(made[2], group)


@here
async def test_poll_gets_records_of_every_partition_while_each_gateway_holds_some(
    kafka_3_9: KafkaCluster, gateways: Make, topic_name: str
) -> None:
    one, two = gateways(kafka_3_9, partitions=2), gateways(kafka_3_9, partitions=2)
    await one.start()
    await two.start()
    group = f"/v1/topics/{topic_name}/g"
    await publish(one, topic_name, b"first")
    await one.request("GET", f"{group}?timeout=20")
    await two.request("GET", f"{group}?timeout=1")
    for _ in range(40):
        # both stay members, as both are asked now and then
        await one.request("GET", f"{group}?timeout=0.2")
        await two.request("GET", f"{group}?timeout=0.2")
        if len(held(one)) == len(held(two)) == 1:
            break
    assert sorted(held(one) + held(two)) == [0, 1]
    for number in range(40):
        await publish(one, topic_name, b"%d" % number, held(one)[0])
    got: list[bytes] = []
    for _ in range(20):
        answer = await two.request("GET", f"{group}?limit=7&timeout=5", headers=NDJSON)
        assert answer.status == 200, answer.status
        assert answer.header("kateway-gateway") == name(two)
        got += [orjson.loads(line)["value"] for line in answer.body.splitlines()]
        if len(got) == 20:
            break
        if len(got) == 14:
            # a client of the home comes: the other one's gives way, and takes the rest behind it
            answer = await one.request("GET", f"{group}?limit=20&timeout=5", headers=NDJSON)
            theirs = [orjson.loads(line)["value"] for line in answer.body.splitlines()]
            assert theirs == [str(number) for number in range(14, 34)]
    assert got == [str(number) for number in (*range(14), *range(34, 40))]
    await no_lag(two, group)


@here
async def test_follower_whose_partitions_went_to_others_reads_on_at_one_of_them(
    kafka_3_9: KafkaCluster, gateways: Make, group: str, topic_name: str
) -> None:
    """Two gateways before one partition: both join at the same moment, and one gets nothing."""
    made = [gateways(kafka_3_9, partitions=1) for _ in range(2)]
    for gateway in made:
        await gateway.start()
    await publish(made[0], topic_name, b"first")
    streams = [await follow(gateway, group, "&ack=explicit") for gateway in made]
    await eventually(lambda: sum(gateway.service.parts.clustering.serving.readers for gateway in made) == 1, 30)
    for number in range(40):
        await publish(made[0], topic_name, b"%d" % number)
    await eventually(lambda: sum(stream.received.count(b'"partition"') for stream in streams) == 41)
    for stream in streams:
        stream.close()
    await eventually(lambda: not any(gateway.service.parts.groups.readers for gateway in made))


@here
async def test_group_moved_at_a_gateway_that_does_not_hold_it(pair: Pair, group: str, topic_name: str) -> None:
    home, other = pair
    await publish(home, topic_name, b"a")
    assert (await home.request("GET", f"{group}?timeout=10")).body == b"a"
    stream = await follow(home, group)
    await eventually(lambda: home.service.parts.groups.readers == 1)
    busy = await other.request("PUT", f"{group}/offsets", json={"to": "earliest"})
    assert (busy.status, busy.code) == (409, "group-busy")
    stream.close()
    await eventually(lambda: home.service.parts.groups.readers == 0)
    # what merely lingers there is let go
    moved = await other.request("PUT", f"{group}/offsets", json={"to": "earliest"})
    assert (moved.status, moved.json()["partitions"]) == (200, [{"partition": 0, "committed": 0}])
    assert (await other.request("GET", f"{group}?timeout=10")).body == b"a"


@here
async def test_stop_of_the_home_ends_another_gateways_stream_between_two_records(
    pair: Pair, group: str, topic_name: str
) -> None:
    home, other = pair
    await publish(home, topic_name, b"a")
    assert (await home.request("GET", f"{group}?timeout=10")).body == b"a"
    stream = await follow(other, group)
    await publish(home, topic_name, b"b")
    await stream.until(b'"value":"b"')
    await home.stop()
    assert stream.received.endswith(b"\r\n0\r\n\r\n")
    # the next one is at home here, and nothing is read twice
    await publish(other, topic_name, b"c")
    stream.send(f"GET {group}?timeout=20 HTTP/1.1\r\nHost: x\r\n\r\n")
    await stream.until(b"\r\n\r\nc")
    assert f"Kateway-Gateway: {name(other)}".encode() in stream.received
    stream.close()


@here
async def test_audit_links_and_figures_tell_of_what_was_passed_on(pair: Pair, group: str, topic_name: str) -> None:
    home, other = pair
    await publish(home, topic_name, b"a")
    assert (await home.request("GET", f"{group}?ack=explicit&timeout=10")).body == b"a"
    assert (await acknowledge(other, group, {"partition": 0, "offset": 0})).status == 200
    event = other.service.parts.audit.newest[-1]
    assert (event.actor, event.action, event.outcome, event.gateway) == ("default", "acknowledge", "ok", name(home))
    await other.service._tell_registry()
    (entry,) = orjson.loads(await told(other, "/admin/v1/gateways"))["items"]
    assert (entry["cluster"], entry["links"]) == (other.service.parts.clustering.address, [name(home)])
    figures = (await told(other, "/metrics")).decode()
    lines = [line for line in figures.splitlines() if line.startswith("kateway_cluster_")]
    assert [line for line in lines if line.startswith("kateway_cluster_links") and line.endswith(" 1")]
    assert [line for line in lines if 'direction="out"' in line and 'request="acknowledge"' in line]


@here
async def test_filter_and_last_event_id_are_applied_where_the_group_is(pair: Pair, group: str, topic_name: str) -> None:
    home, other = pair
    for number in range(8):
        await publish(home, topic_name, b"%d" % number)
    only = "filter=record.value%20%3E%20'1'"
    assert (await home.request("GET", f"{group}?timeout=10&{only}")).body == b"2"
    events = await other.request("GET", f"{group}?limit=3&timeout=10&{only}", headers={"Accept": "text/event-stream"})
    ids = [line for line in events.body.splitlines() if line.startswith(b"id:")]
    assert ids == [b"id: 0:3", b"id: 0:4", b"id: 0:5"]
    assert events.header("kateway-gateway") == name(home)
    resumed = await other.request(
        "GET",
        f"{group}?limit=1&timeout=10&{only}",
        headers={"Accept": "text/event-stream", "Last-Event-ID": "0:6"},
    )
    assert b"id: 0:7" in resumed.body
    await no_lag(other, group)


@here
async def test_rights_quotas_and_transforms_of_a_subscriber_hold_at_whichever_gateway(
    kafka_3_9: KafkaCluster, gateways: Make, topic_name: str, tmp_path: Path
) -> None:
    table = tmp_path / "registry.toml"
    table.write_text(
        REGISTRY.replace("app1/foo/v1", f"app1/{topic_name}/v1").replace("partitions = 4", "partitions = 1")
        + f"""
        [applications.app2]
        [[applications.app2.keys]]
        key = "app2-sub"
        kind = "sub"
        secret_hash = "{hash_secret("third-secret")}"
        [bindings."app2/app1/{topic_name}/v1"]
        groups = ["g"]
        max_deliveries = 2
        [bindings."app2/app1/{topic_name}/v1".transforms]
        out = [{{ mask = ["/card"] }}]
        """
    )
    home, other = (gateways(kafka_3_9, partitions=1, registry=table) for _ in range(2))
    await home.start()
    await other.start()
    publisher = {"Pubkey": "app1-pub", "Secret": "first-secret"}
    subscriber = {"Subkey": "app2-sub", "Secret": "third-secret"}
    group = f"/v1/topics/app1.{topic_name}/g"
    body = b'{"card":"4711","amount":1}'
    for _ in range(100):
        # the registry's topic is made within a second
        sent = await home.request("POST", f"/v1/topics/{topic_name}?timeout=20", body, headers=publisher)
        if sent.status == 201:
            break
        await deferLater(reactor, 0.05)
    assert sent.status == 201, sent.body
    explicit = f"{group}?ack=explicit&timeout=10"
    masked = await home.request("GET", explicit, headers=subscriber)
    assert masked.json() == {"card": "****", "amount": 1}
    # it is put off at the other gateway, read there for the second and last time, and rejected by its lease's end
    put_off = [{"partition": 0, "offset": 0, "outcome": "retry"}]
    assert (await other.request("POST", f"{group}/acks", json=put_off, headers=subscriber)).status == 200
    again = await other.request("GET", explicit, headers=subscriber)
    assert (again.json(), again.header("x-attempt")) == ({"card": "****", "amount": 1}, "2")
    assert again.header("kateway-gateway") == name(home)
    assert (await other.request("POST", f"{group}/acks", json=put_off, headers=subscriber)).status == 200
    dead = await other.request("GET", f"{group}?queue=dead&timeout=10", headers=subscriber)
    assert dead.status == 200
    assert b"4711" not in dead.body
    event = next(each for each in other.service.parts.audit.newest if each.action == "acknowledge")
    assert (event.actor, event.gateway) == ("app2/app2-sub", name(home))
    assert not [each for each in home.service.parts.audit.newest if each.action == "acknowledge"]
    # rights are those at the gateway that is asked
    for path in (f"/v1/topics/app1.{topic_name}/h", group.replace(topic_name, "other")):
        assert (await other.request("GET", f"{path}?timeout=1", headers=subscriber)).status in {403, 404}
    assert (await other.request("GET", f"{group}/lag", headers={**subscriber, "Secret": "wrong"})).status == 401


@here
async def test_follower_that_sends_no_more_before_its_home_has_answered_is_ended_as_one_of_the_home(
    pair: Pair, group: str, topic_name: str
) -> None:
    home, other = pair
    await publish(home, topic_name, b"a")
    assert (await home.request("GET", f"{group}?timeout=10")).body == b"a"
    for gateway in (home, other):
        stream = await follow(gateway, group)
        stream.transport.loseWriteConnection()  # type: ignore[union-attr]
        # else it would hold its partition until the next record or heartbeat, of which the tests have none so soon
        await eventually(lambda stream=stream: stream.lost)
        await eventually(lambda: home.service.parts.groups.readers == 0)
