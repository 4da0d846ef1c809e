"""Publishing while brokers die, freeze and connections break: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from kateway.config.schema import KafkaStorageConfig
from kateway.errors import KatewayError, OutcomeUnknown, Unavailable
from kateway.model import Message, Receipt
from kateway.storage.interface import Outcome
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.producer.producer import Producer

reactor: Any = _reactor
pytestmark = pytest.mark.kafka
PARTITIONS = 4


class Load:
    """Publishes numbered records, a burst every few milliseconds, and remembers each one's outcome."""

    def __init__(self, cluster: KafkaCluster, topic: str, *, deadline_seconds: float = 30.0) -> None:
        config = KafkaStorageConfig(driver="kafka", brokers=tuple(cluster.addresses), request_timeout_seconds=5)
        self.client = Client(reactor, config)
        self.client.start()
        self.producer = Producer(self.client, config, reactor)
        self.outcomes: dict[int, Outcome] = {}
        self.late: list[float] = []
        self._topic = topic
        self._deadline_seconds = deadline_seconds
        self._count = 0

    def one(self) -> Deferred[list[Outcome]]:
        number = self._count
        self._count += 1
        deadline = reactor.seconds() + self._deadline_seconds
        message = Message(b"%d" % number, partition=number % PARTITIONS)

        def told(outcomes: list[Outcome]) -> list[Outcome]:
            self.outcomes[number] = outcomes[0]
            self.late.append(reactor.seconds() - deadline)
            return outcomes

        return self.producer.publish(self._topic, [message], -1, deadline).addCallback(told)

    async def run(self, seconds: float, *, burst: int = 10, pause_seconds: float = 0.005) -> None:
        end = reactor.seconds() + seconds
        while reactor.seconds() < end:
            for _ in range(burst):
                self.one()
            await deferLater(reactor, pause_seconds)

    async def settle(self, seconds: float = 60.0) -> None:
        """Waits until everything has an outcome and nothing is held."""
        end = reactor.seconds() + seconds
        while len(self.outcomes) < self._count or self.producer.held_bytes:
            assert reactor.seconds() < end, (len(self.outcomes), self._count, self.producer.held_bytes)
            await deferLater(reactor, 0.05)

    async def close(self) -> None:
        await self.producer.stop(0)
        await self.client.stop()

    def failures(self) -> list[KatewayError]:
        return [outcome for outcome in self.outcomes.values() if isinstance(outcome, KatewayError)]

    async def check(self, oracle: Oracle) -> None:
        """Against what librdkafka reads: acknowledged once and in order, refused never, unknown at most once."""
        seen = await deferToThread(oracle.records, self._topic)
        for partition in range(PARTITIONS):
            numbers = [int(record.value or b"") for record in seen if record.partition == partition]
            assert len(numbers) == len(set(numbers))
            assert numbers == sorted(numbers)
        there = {int(record.value or b""): (record.partition, record.offset) for record in seen}
        for number, outcome in self.outcomes.items():
            if isinstance(outcome, Receipt):
                assert there.get(number) == outcome
            elif not outcome.maybe_written:
                assert number not in there


@pytest.fixture(scope="module")
def one_broker(kafka_cluster: Callable[..., KafkaCluster]) -> KafkaCluster:
    return kafka_cluster(version="3.9.2", proxied=True)


@pytest.fixture(scope="module")
def three_brokers(kafka_cluster: Callable[..., KafkaCluster]) -> KafkaCluster:
    return kafka_cluster(version="4.3.1", brokers=3)


async def prepared(cluster: KafkaCluster, topic: str, **options: Any) -> tuple[Load, Oracle]:
    oracle = Oracle(cluster.direct)
    await deferToThread(oracle.create_topic, topic, PARTITIONS, min(len(cluster.nodes), 3))
    return Load(cluster, topic, **options), oracle


@pytest_twisted.ensureDeferred
async def test_answers_cut_after_the_write_make_no_duplicates(one_broker: KafkaCluster, topic_name: str) -> None:
    load, oracle = await prepared(one_broker, topic_name)
    proxy = one_broker.proxies[1]
    try:
        await load.run(0.5)
        for _ in range(8):
            proxy.drop_responses()
            await load.run(0.15)
            proxy.cut()
            proxy.pass_through()
            await load.run(0.4)
        assert proxy.lost_response_bytes > 0
        await load.settle()
        assert load.failures() == []
        await load.check(oracle)
    finally:
        proxy.pass_through()
        await load.close()


@pytest_twisted.ensureDeferred
async def test_a_broker_that_is_away_is_503_inside_the_deadline_and_publishing_resumes_with_its_return(
    one_broker: KafkaCluster, topic_name: str
) -> None:
    load, oracle = await prepared(one_broker, topic_name, deadline_seconds=1.0)
    try:
        await load.run(0.3)
        await load.settle()
        assert load.failures() == []
        one_broker.kill(1)
        await load.run(2.0)
        await deferLater(reactor, 1.2)
        failures = load.failures()
        assert failures
        assert all(isinstance(error, (Unavailable, OutcomeUnknown)) for error in failures)
        assert sum(isinstance(error, OutcomeUnknown) for error in failures) <= 50  # what was on the way just then
        assert max(load.late) < 0.5
        await deferToThread(one_broker.restart, 1)
        await resumes(load, 5.0)
        await load.settle()
        await load.check(oracle)
    finally:
        await load.close()


@pytest_twisted.ensureDeferred
async def test_a_frozen_broker_is_504_for_what_was_sent_and_503_for_the_rest(
    one_broker: KafkaCluster, topic_name: str
) -> None:
    load, oracle = await prepared(one_broker, topic_name, deadline_seconds=1.0)
    try:
        await load.run(0.3)
        await load.settle()
        one_broker.freeze(1)
        await load.run(9.0, burst=2, pause_seconds=0.05)
        one_broker.thaw(1)
        await resumes(load, 5.0)
        await load.settle()
        kinds = {type(error) for error in load.failures()}
        assert kinds == {Unavailable, OutcomeUnknown}
        assert max(load.late) < 0.5
        await load.check(oracle)
    finally:
        one_broker.thaw(1)
        await load.close()


@pytest_twisted.ensureDeferred
async def test_an_idle_connection_that_ended_before_a_reconnect_that_hangs_is_503_because_nothing_was_sent(
    one_broker: KafkaCluster, topic_name: str
) -> None:
    load, oracle = await prepared(one_broker, topic_name, deadline_seconds=1.0)
    proxy = one_broker.proxies[1]
    try:
        for _ in range(PARTITIONS):
            assert isinstance((await load.one())[0], Receipt)
        proxy.blackhole()
        proxy.cut()
        # nothing is under way on the producer's connection: its end is all that is heard of it
        await deferLater(reactor, 0.2)
        outcomes = [await load.one() for _ in range(2)]
        assert [type(outcome) for (outcome,) in outcomes] == [Unavailable, Unavailable]
        assert max(load.late) < 0.5
        proxy.pass_through()
        await resumes(load, 10.0)
        await load.settle()
        await load.check(oracle)
    finally:
        proxy.pass_through()
        await load.close()


async def resumes(load: Load, seconds: float) -> None:
    """Publishes until a receipt comes, which must be soon."""
    end = reactor.seconds() + seconds
    while not isinstance((await load.one())[0], Receipt):
        assert reactor.seconds() < end


@pytest.mark.timeout(240)
@pytest_twisted.ensureDeferred
async def test_leaders_killed_frozen_and_stopped_under_load_lose_and_repeat_nothing(
    three_brokers: KafkaCluster, topic_name: str
) -> None:
    load, oracle = await prepared(three_brokers, topic_name, deadline_seconds=90.0)

    async def under_load(what: Callable[[], Awaitable[object]]) -> None:
        done: list[object] = []
        doing = Deferred.fromCoroutine(call(what)).addCallback(done.append)
        while not done:
            await load.run(0.2)
        await doing
        await load.run(0.5)

    try:
        await load.run(0.5)
        for fault in ("kill", "freeze", "stop"):
            leaders = await deferToThread(oracle.leaders, topic_name)
            node = leaders[0]
            await deferToThread(getattr(three_brokers, fault), node)
            await load.run(6.0)
            if fault == "freeze":
                three_brokers.thaw(node)
                await under_load(lambda: deferToThread(three_brokers.wait))
            else:
                await under_load(lambda node=node: deferToThread(three_brokers.restart, node))
        await load.settle()
        assert load.failures() == []
        await load.check(oracle)
    finally:
        await load.close()


async def call(what: Callable[[], Awaitable[object]]) -> object:
    return await what()
