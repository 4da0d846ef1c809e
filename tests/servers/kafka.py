"""Apache Kafka (KRaft) with one or three brokers, for tests that break it.

Every method blocks until it is done. In a test where our own code has to go on meanwhile, call it with
``await deferToThread(cluster.restart, 1)``; ``kill``, ``freeze`` and ``thaw`` are quick enough to call directly.
"""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

from servers.jars import java, kafka_libs
from servers.ports import held_port
from servers.process import Process
from servers.proxy import Proxy

JVM = (
    "-Xms128m",
    "-Xmx384m",
    # two cores: start fast and leave the rest of the machine alone
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    # Kafka 4 comes without a logger; log4j 2 would say on each start that it has no configuration
    "-Dlog4j2.StatusLogger.level=OFF",
)

LOG4J_1 = """log4j.rootLogger=WARN, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d %p %c %m%n
"""


class KafkaCluster:
    """Brokers 1 to ``brokers`` on loopback, each also a controller.

    ``proxied`` puts a ``Proxy`` before each broker: ``bootstrap`` and what the brokers advertise to clients that came
    that way go through it, ``direct`` does not. ``settings`` are further lines of server.properties.
    Replication is 1 on one broker, 3 with 2 in sync on three. ``jvm``: the machine's options, where those that start
    fast and take little are not wanted.
    """

    def __init__(
        self,
        version: str,
        *,
        brokers: int = 1,
        proxied: bool = False,
        settings: Mapping[str, str] | None = None,
        heap_megabytes: int = 384,
        jvm: Sequence[str] = JVM,
    ) -> None:
        self.version = version
        self.nodes = tuple(range(1, brokers + 1))
        self._libs = kafka_libs(version)
        self._java = java()
        self._settings = dict(settings or {})
        self._heap = f"-Xmx{heap_megabytes}m"
        self._jvm = tuple(jvm)
        self._home = Path(tempfile.mkdtemp(prefix="kateway-kafka-"))
        self._cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode().replace("-", "a")
        self._ports = {node: held_port() for node in self.nodes}
        self._direct_ports = {node: held_port() for node in self.nodes}
        self._controller_ports = {node: held_port() for node in self.nodes}
        self._processes: dict[int, Process] = {}
        self.proxies: dict[int, Proxy] = {}
        if proxied:
            self.proxies = {node: Proxy(self._ports[node]) for node in self.nodes}

    # --- addresses ---

    def address(self, node: int) -> str:
        """``host:port`` of a broker as clients see it: of its proxy if it has one."""
        port = self.proxies[node].port if node in self.proxies else self._ports[node]
        return f"127.0.0.1:{port}"

    @property
    def addresses(self) -> list[str]:
        return [self.address(node) for node in self.nodes]

    @property
    def bootstrap(self) -> str:
        return ",".join(self.addresses)

    @property
    def direct(self) -> str:
        """Bootstrap addresses of a listener that no proxy stands before; for the oracle."""
        return ",".join(f"127.0.0.1:{port}" for port in self._direct_ports.values())

    # --- the life of brokers ---

    def start(self) -> KafkaCluster:
        for node in self.nodes:
            self._format(node)
        for node in self.nodes:
            self._launch(node)
        self.wait()
        return self

    def add(self) -> int:
        """Starts one more broker, which is no controller, and waits until it is there. Nothing is moved to it."""
        node = max(self.nodes) + 1
        self._ports[node], self._direct_ports[node] = held_port(), held_port()
        if self.proxies:
            self.proxies[node] = Proxy(self._ports[node])
        self._format(node)
        self._launch(node)
        self.nodes = (*self.nodes, node)
        self.wait()
        return node

    def reassign(self, topic: str, partition: int, replicas: Sequence[int]) -> None:
        """Has a partition moved to other brokers. Answers when that is begun: its metadata says when it is done."""
        port = self._direct_ports[next(iter(self._processes))]
        error = _reassigned(port, topic, partition, replicas)
        if error:
            raise RuntimeError(f"{topic}/{partition} cannot be moved to {list(replicas)}: error {error}")

    def kill(self, node: int) -> None:
        """SIGKILL: nothing is said to anyone."""
        self._processes.pop(node).kill()

    def stop(self, node: int) -> None:
        """TERM: leadership is handed over first."""
        self._processes.pop(node).stop()

    def pid(self, node: int) -> int:
        return self._processes[node].pid

    def freeze(self, node: int) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._processes[node].freeze()

    def thaw(self, node: int) -> None:
        self._processes[node].thaw()

    def restart(self, node: int) -> None:
        """Starts a broker again (killing it first if it runs) on the same data and ports; waits until it is back."""
        if node in self._processes:
            self.kill(node)
        self._launch(node)
        self.wait()

    def wait(self, timeout_seconds: float = 90.0) -> None:
        """Blocks until every broker that runs knows of all that run and answers."""
        running = set(self._processes)
        for node, process in self._processes.items():
            port = self._direct_ports[node]
            process.wait_until(lambda port=port: running <= _brokers_known_to(port), timeout_seconds)

    def log(self, node: int) -> str:
        path = self._home / f"{node}.log"
        return path.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Ends everything and deletes the data."""
        for process in self._processes.values():
            process.kill()
        self._processes.clear()
        for proxy in self.proxies.values():
            proxy.close()
        shutil.rmtree(self._home, ignore_errors=True)

    # --- how a broker is made ---

    def _write_properties(self, node: int) -> Path:
        properties = self._home / f"{node}.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in self._properties(node).items()))
        (self._home / "log4j.properties").write_text(LOG4J_1)
        return properties

    def _format(self, node: int) -> None:
        properties = self._write_properties(node)
        process = self._run(node, "kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", str(properties))
        if process.wait(60) != 0:
            raise RuntimeError(f"Kafka could not format its storage:\n{process.output()[-4000:]}")

    def _launch(self, node: int) -> None:
        self._processes[node] = self._run(node, "kafka.Kafka", str(self._home / f"{node}.properties"))

    def _run(self, node: int, main: str, *arguments: str) -> Process:
        command = [self._java, *self._jvm, self._heap, f"-Dlog4j.configuration=file:{self._home}/log4j.properties"]
        command += ["-cp", f"{self._libs}/*", main, *arguments]
        return Process(command, log=self._home / f"{node}.log", cwd=self._home)

    def _properties(self, node: int) -> dict[str, str]:
        replicas = len(self._controller_ports)
        in_sync = 2 if replicas >= 3 else 1
        advertised = self.address(node)
        controls = node in self._controller_ports
        return {
            "node.id": str(node),
            "process.roles": "broker,controller" if controls else "broker",
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{p}" for n, p in self._controller_ports.items()),
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,DIRECT:PLAINTEXT",
            "listeners": (
                f"PLAINTEXT://127.0.0.1:{self._ports[node]},DIRECT://127.0.0.1:{self._direct_ports[node]}"
                + (f",CONTROLLER://127.0.0.1:{self._controller_ports[node]}" if controls else "")
            ),
            "advertised.listeners": f"PLAINTEXT://{advertised},DIRECT://127.0.0.1:{self._direct_ports[node]}",
            "inter.broker.listener.name": "DIRECT",
            "log.dirs": str(self._home / f"data-{node}"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": str(replicas),
            "min.insync.replicas": str(in_sync),
            "offsets.topic.replication.factor": str(replicas),
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": str(replicas),
            "transaction.state.log.min.isr": str(in_sync),
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": str(replicas),
            "share.coordinator.state.topic.min.isr": str(in_sync),
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            # of the protocol in which brokers assign: 45 s is Kafka's own, and the least that it allows
            "group.consumer.min.session.timeout.ms": "1000",
            "group.consumer.session.timeout.ms": "6000",
            # a killed broker's return waits for this: 9 s is Kafka's own, too long for a test, and 1 s is too short
            # for two busy cores
            "broker.session.timeout.ms": "4000",
            "broker.heartbeat.interval.ms": "1000",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "log.cleaner.dedupe.buffer.size": "8388608",
            **self._settings,
        }


def _brokers_known_to(port: int) -> set[int]:
    """The node ids in a broker's answer to Metadata v1, none when it does not answer.

    https://kafka.apache.org/protocol#The_Messages_Metadata
    """
    try:
        answer = _ask(port, struct.pack(">hhih5si", 3, 1, 1, 5, b"tests", 0))
    except OSError:
        return set()
    (count,) = struct.unpack_from(">i", answer, 4)
    nodes, at = set(), 8
    for _ in range(count):
        node, host_length = struct.unpack_from(">ih", answer, at)
        at += 6 + host_length + 4
        (rack_length,) = struct.unpack_from(">h", answer, at)
        at += 2 + max(rack_length, 0)
        nodes.add(node)
    return nodes


def _reassigned(port: int, topic: str, partition: int, replicas: Sequence[int]) -> int:
    """Sends AlterPartitionReassignments v0 (librdkafka has none) and gives the error of the whole or the partition.

    All counts are below 127, so that each is one byte: in flexible versions that is the count and one more.
    """
    name = topic.encode()
    place = struct.pack(f">iB{len(replicas)}i", partition, len(replicas) + 1, *replicas) + b"\0"
    body = struct.pack(">iBB", 30_000, 2, len(name) + 1) + name + b"\2" + place + b"\0\0"
    answer = _ask(port, struct.pack(">hhih5sB", 45, 0, 1, 5, b"tests", 0) + body, timeout_seconds=30)
    (error,) = struct.unpack_from(">h", answer, 9)
    at = 11 + max(answer[11], 1)
    if error or answer[at] < 2:
        return int(error)
    at += 1 + answer[at + 1]
    (error,) = struct.unpack_from(">h", answer, at + 1 + 4)
    return int(error)


def _ask(port: int, request: bytes, timeout_seconds: float = 2.0) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_seconds) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", _exactly(connection, 4))
        return _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        more = connection.recv(size - len(parts))
        if not more:
            raise ConnectionError("the connection was closed")
        parts += more
    return parts
