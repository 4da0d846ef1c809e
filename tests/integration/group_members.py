"""Members of a group that are not ours: librdkafka's and Java's, by either protocol."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from servers.jars import java, kafka_libs
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from twisted.internet.threads import deferToThread

SESSION_SECONDS = 6.0
"""Of our members, and of the brokers' own sessions."""

BY_CONSUMER_PROTOCOL = {"group_protocol": "consumer"}
"""The brokers assign, and have their own session and heartbeats."""


def by_strategy(strategy: str) -> dict[str, Any]:
    """The classic protocol, with one of its strategies."""
    return {"partition_assignment_strategy": strategy}


class LibrdkafkaMember:
    """A librdkafka member that polls in a thread until it is told to stop, and commits what it has."""

    def __init__(self, oracle: Oracle, group: str, topics: list[str], **settings: Any) -> None:
        self.values: list[bytes | None] = []
        self.owned: set[tuple[str, int]] = set()
        self._going = True
        # so it commits before it gives a partition up
        commits = {"enable_auto_commit": True, "auto_commit_interval_ms": 100}
        self._member = oracle.member(group, topics, **settings, **commits)
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


class JavaMember:
    """Kafka's console consumer, which prints each value."""

    def __init__(self, cluster: KafkaCluster, group: str, topic: str, log: Path, settings: dict[str, str]) -> None:
        self._log = log
        libs = kafka_libs(cluster.version)
        main = "org.apache.kafka.tools.consumer.ConsoleConsumer"
        options = {"auto.commit.interval.ms": "200", "auto.offset.reset": "earliest", **settings}
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


JAVA_COOPERATIVE = {
    "partition.assignment.strategy": "org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
    "session.timeout.ms": "6000",
    "heartbeat.interval.ms": "500",
}
JAVA_CONSUMER = {"group.protocol": "consumer"}


def wait_for_members(oracle: Oracle, group: str, count: int) -> None:
    """Blocks until a group has so many members."""
    end = time.monotonic() + 30
    while oracle.members(group) < count:
        assert time.monotonic() < end, "the member did not join in time"
        time.sleep(0.2)


def numbered(count: int, first: int = 0) -> list[bytes]:
    """Values that tell records apart."""
    return [b"%d" % number for number in range(first, first + count)]


def write_slowly(oracle: Oracle, topic: str, values: list[bytes], pause_seconds: float = 0.0) -> None:
    """Writes in turn to each of four partitions."""
    for start in range(0, len(values), 40):
        for partition in range(4):
            oracle.produce(topic, values[start + partition * 10 : start + partition * 10 + 10], partition=partition)
        time.sleep(pause_seconds)
