"""Cooperative rebalances on real Kafka: what stays is read on; librdkafka and Java beside ours."""

from __future__ import annotations

import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from kafka_reader import Reader, until
from servers.jars import java, kafka_libs
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from kateway.config.schema import KafkaStorageConfig
from kateway.model import Committed
from kateway.storage.kafka.driver import KafkaStore

here = pytest_twisted.ensureDeferred
pytestmark = [pytest.mark.kafka, pytest.mark.both_kafkas]

MakeStore = Callable[[KafkaCluster], Awaitable[KafkaStore]]


@pytest_twisted.async_yield_fixture
async def make_store() -> AsyncIterator[MakeStore]:
    """Makes started stores; they are stopped with the test."""
    made: list[KafkaStore] = []

    async def make(cluster: KafkaCluster) -> KafkaStore:
        config = KafkaStorageConfig(driver="kafka", brokers=tuple(cluster.addresses), request_timeout_seconds=5.0)
        made.append(KafkaStore(config, reactor, session_timeout_seconds=6.0))
        await made[-1].start()
        return made[-1]

    yield make
    for store in made:
        await store.stop(5.0)


@pytest.fixture
def topic(oracle: Oracle, topic_name: str) -> str:
    """A topic of four partitions."""
    oracle.create_topic(topic_name, partitions=4)
    return topic_name


@pytest.fixture
def other_topic(oracle: Oracle, topic_name: str) -> str:
    oracle.create_topic(f"{topic_name}-other", partitions=4)
    return f"{topic_name}-other"


@pytest.fixture
def group(unique_name: Callable[[str], str]) -> str:
    return unique_name("group")


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def write_slowly(oracle: Oracle, topic: str, values: list[bytes]) -> None:
    for start in range(0, len(values), 40):
        for partition in range(4):
            oracle.produce(topic, values[start + partition * 10 : start + partition * 10 + 10], partition=partition)


class Foreign:
    """A librdkafka member that polls in a thread until it is told to stop."""

    def __init__(self, oracle: Oracle, group: str, topics: list[str], strategy: str) -> None:
        self.values: list[bytes | None] = []
        self.owned: set[tuple[str, int]] = set()
        self._going = True
        # so it commits what it has before it gives a partition up
        commits = {"enable_auto_commit": True, "auto_commit_interval_ms": 100}
        self._member = oracle.member(group, topics, partition_assignment_strategy=strategy, **commits)
        self._done = deferToThread(self._poll)

    def _poll(self) -> None:
        while self._going:
            found = self._member.poll(timeout_seconds=0.1)
            self.values += [record.value for record in found]
            self.owned = self._member.assignment()
        self._member.close()

    async def stop(self) -> None:
        self._going = False
        await self._done


@here
async def test_reader_of_another_topic_in_the_group_takes_nothing_from_anybody(
    kafka, oracle, make_store, topic, other_topic, group
):
    store = await make_store(kafka)
    reader = Reader(store, group, topic)
    await until(lambda: len(reader.owned) == 4)
    values = numbered(4000)
    producing = deferToThread(write_slowly, oracle, topic, values)
    for _ in range(4):
        other = Reader(store, group, other_topic)
        await until(lambda other=other: len(other.owned) == 4)
        await reader.commit()
        await other.subscription.close()
    await producing
    await until(lambda: len(reader.values) >= 4000)
    assert "revoked" not in reader.heard
    assert "lost" not in reader.heard
    assert sorted(reader.values) == sorted(values)


@here
async def test_member_that_joins_takes_only_its_part_and_what_stays_is_committed_on(
    kafka, oracle, make_store, topic, group
):
    first_store, second_store = await make_store(kafka), await make_store(kafka)
    first = Reader(first_store, group, topic)
    await until(lambda: len(first.owned) == 4)
    refused: list[object] = []
    committing = True

    async def commit_all_the_time() -> None:
        while committing:
            stays = first.commit(frozenset({0, 1}))
            stays.addErrback(lambda failure: refused.append(failure.value))
            await stays
            await deferLater(reactor, 0.005)

    done = Deferred.fromCoroutine(commit_all_the_time())
    values = numbered(4000)
    producing = deferToThread(write_slowly, oracle, topic, values)
    second = Reader(second_store, group, topic)
    await until(lambda: len(first.owned) == 2 and len(second.owned) == 2)
    assert first.owned == {0, 1}
    assert second.owned == {2, 3}
    await second.subscription.close()
    await until(lambda: len(first.owned) == 4)
    await producing
    await until(lambda: len(first.values) + len(second.values) >= 4000)
    committing = False
    await done
    assert refused == []
    assert sorted(first.values + second.values) == sorted(values)
    await first.commit()
    stored = await first_store.committed(group, topic)
    assert [stored[partition] for partition in range(4)] == [Committed(1000)] * 4


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours-leads", "theirs-leads"])
@here
async def test_group_is_shared_cooperatively_with_librdkafka_whichever_member_leads(
    kafka, oracle, make_store, topic, group, ours_first
):
    store = await make_store(kafka)
    if ours_first:
        ours = Reader(store, group, topic)
        await until(lambda: len(ours.owned) == 4)
        theirs = Foreign(oracle, group, [topic], "cooperative-sticky")
    else:
        theirs = Foreign(oracle, group, [topic], "cooperative-sticky")
        await until(lambda: len(theirs.owned) == 4)
        ours = Reader(store, group, topic)
    await until(lambda: len(ours.owned) == 2 and len(theirs.owned) == 2)
    values = numbered(4000)
    producing = deferToThread(write_slowly, oracle, topic, values)
    more = Reader(await make_store(kafka), group, topic)
    await until(lambda: len(ours.owned) + len(theirs.owned) + len(more.owned) == 4 and more.owned)
    await more.subscription.close()
    await until(lambda: len(ours.owned) + len(theirs.owned) == 4)
    await producing
    await until(lambda: len(ours.values) + len(theirs.values) + len(more.values) >= 4000)
    assert sorted(ours.values + theirs.values + more.values) == sorted(values)
    await theirs.stop()
    await until(lambda: len(ours.owned) == 4)
    assert ours.errors == []


@pytest.mark.parametrize("strategy", ["range", "roundrobin"])
@here
async def test_cooperative_group_turns_eager_beside_a_member_that_knows_only_that_and_back(
    kafka, oracle, make_store, topic, other_topic, group, strategy
):
    store = await make_store(kafka)
    ours = Reader(store, group, topic)
    await until(lambda: len(ours.owned) == 4)
    values = numbered(4000)
    producing = deferToThread(write_slowly, oracle, topic, values)
    theirs = Foreign(oracle, group, [topic], strategy)
    await until(lambda: len(ours.owned) == 2 and len(theirs.owned) == 2)
    await theirs.stop()
    await until(lambda: len(ours.owned) == 4)
    await producing
    await until(lambda: len(ours.values) + len(theirs.values) >= 4000)
    assert sorted(ours.values + theirs.values) == sorted(values)
    other = Reader(store, group, other_topic)
    await until(lambda: len(other.owned) == 4)
    del ours.heard[:]
    await other.subscription.close()
    again = Reader(store, group, other_topic)
    await until(lambda: len(again.owned) == 4)
    assert "revoked" not in ours.heard
    assert ours.errors == []


class JavaMember:
    """Kafka's console consumer, which prints each value."""

    def __init__(self, cluster: KafkaCluster, group: str, topic: str, log: Path, strategy: str) -> None:
        self._log = log
        libs = kafka_libs(cluster.version)
        main = "org.apache.kafka.tools.consumer.ConsoleConsumer"
        options = {
            "partition.assignment.strategy": f"org.apache.kafka.clients.consumer.{strategy}",
            "session.timeout.ms": "6000",
            "heartbeat.interval.ms": "500",
            "auto.commit.interval.ms": "200",
            "auto.offset.reset": "earliest",
        }  # fmt: skip
        command = [java(), "-Xmx96m", "-XX:TieredStopAtLevel=1", "-Dlog4j2.StatusLogger.level=OFF"]
        command += ["-cp", f"{libs}/*", main, "--bootstrap-server", cluster.direct, "--topic", topic, "--group", group]
        for name, value in options.items():
            command += ["--consumer-property", f"{name}={value}"]
        with log.open("wb") as out, log.with_suffix(".err").open("wb") as errors:
            self._process = subprocess.Popen(command, stdout=out, stderr=errors)

    @property
    def values(self) -> list[bytes]:
        # beside warnings of the command itself
        return [word for word in self._log.read_bytes().split() if word.isdigit()]

    def stop(self) -> None:
        """Leaves the group."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(20)


@pytest.fixture
def java_member(tmp_path: Path) -> Iterator[Callable[..., JavaMember]]:
    made: list[JavaMember] = []

    def make(cluster: KafkaCluster, group: str, topic: str, strategy: str) -> JavaMember:
        made.append(JavaMember(cluster, group, topic, tmp_path / f"java-{len(made)}.out", strategy))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours-leads", "theirs-leads"])
@here
async def test_group_is_shared_cooperatively_with_java_whichever_member_leads(
    kafka, oracle, make_store, topic, group, ours_first, java_member
):
    store = await make_store(kafka)
    strategy = "CooperativeStickyAssignor"
    if ours_first:
        ours = Reader(store, group, topic)
        await until(lambda: len(ours.owned) == 4)
        theirs = java_member(kafka, group, topic, strategy)
    else:
        theirs = java_member(kafka, group, topic, strategy)
        await deferToThread(wait_for_members, oracle, group, 1)
        ours = Reader(store, group, topic)
    await until(lambda: len(ours.owned) == 2)
    taken = ours.heard.count("revoked")
    values = numbered(4000)
    await deferToThread(write_slowly, oracle, topic, values)
    await until(lambda: len(ours.values) + len(theirs.values) >= 4000)
    assert len(ours.values) == len(theirs.values) == 2000
    assert sorted(ours.values + theirs.values) == sorted(values)
    assert ours.heard.count("revoked") == taken
    await deferToThread(theirs.stop)
    await until(lambda: len(ours.owned) == 4)
    assert "lost" not in ours.heard


def wait_for_members(oracle: Oracle, group: str, count: int) -> None:
    end = time.monotonic() + 30
    while oracle.members(group) < count:
        assert time.monotonic() < end, "the member did not join in time"
        time.sleep(0.2)
