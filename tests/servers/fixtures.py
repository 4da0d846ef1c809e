"""The fixtures of ``conftest.py`` that give tests real servers; each is started when the first test asks for it."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from servers.daemon import Daemon, Installation
from servers.influxdb import InfluxServer
from servers.jars import ServersMissing
from servers.kafka import KafkaCluster
from servers.oracle import Oracle
from servers.prometheus import PrometheusServer
from servers.prometheus import promtool as check
from servers.zookeeper import ZooKeeperServer

NEEDS_KAFKA = {"kafka", "kafka_3_9", "kafka_4", "kafka_cluster", "oracle"}
NEEDS_ZOOKEEPER = {"zookeeper", "zookeeper_server"}
NEEDS_METRICS_SERVERS = {"influxdb", "prometheus", "promtool"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that takes a real server is marked as one that needs it, so that ``-m "not kafka"`` leaves none in."""
    for item in items:
        taken = set(getattr(item, "fixturenames", ()))
        if taken & NEEDS_KAFKA:
            item.add_marker("kafka")
        if taken & NEEDS_ZOOKEEPER:
            item.add_marker("zookeeper")
        if taken & NEEDS_METRICS_SERVERS:
            item.add_marker("metrics_servers")


@contextmanager
def skipping_where_missing() -> Iterator[None]:
    """A machine without a server skips with the reason; with ``KATEWAY_REQUIRE_KAFKA=1`` that is a failure."""
    try:
        yield
    except ServersMissing as reason:
        if os.environ.get("KATEWAY_REQUIRE_KAFKA") == "1":
            pytest.fail(f"{reason}, and KATEWAY_REQUIRE_KAFKA=1 says they must")
        pytest.skip(f"{reason} (set KATEWAY_REQUIRE_KAFKA=1 to make this a failure)")


def _started(server: Any) -> Iterator[Any]:
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="session")
def kafka_3_9() -> Iterator[KafkaCluster]:
    """One broker of Kafka 3.9.2, the same for all tests: do not break it."""
    with skipping_where_missing():
        server = KafkaCluster("3.9.2")
    yield from _started(server)


@pytest.fixture(scope="session")
def kafka_4() -> Iterator[KafkaCluster]:
    """One broker of Kafka 4.3.1, the same for all tests: do not break it."""
    with skipping_where_missing():
        server = KafkaCluster("4.3.1")
    yield from _started(server)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``kafka`` is the newer one; for a test that is marked ``both_kafkas``, each of the two in turn."""
    if "kafka" in metafunc.fixturenames:
        metafunc.parametrize("kafka", kafkas(metafunc), indirect=True, scope="session")


def kafkas(metafunc: pytest.Metafunc) -> list[str]:
    """The fixtures of the Kafkas that a test is run with."""
    return ["kafka_3_9", "kafka_4"] if metafunc.definition.get_closest_marker("both_kafkas") else ["kafka_4"]


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> KafkaCluster:
    """The broker of the version that ``pytest_generate_tests`` chose."""
    cluster: KafkaCluster = request.getfixturevalue(request.param)
    return cluster


@pytest.fixture
def oracle(kafka: KafkaCluster) -> Oracle:
    """librdkafka's view of ``kafka``."""
    return Oracle(kafka.direct)


@pytest.fixture(scope="module")
def kafka_cluster() -> Iterator[Callable[..., KafkaCluster]]:
    """Makes and starts a cluster that a test may break: ``kafka_cluster(brokers=3, version="4.3.1", proxied=True)``.

    It lives until the module's tests are over, or until the test closes it.
    """
    made: list[KafkaCluster] = []

    def make(*, version: str = "4.3.1", **options: Any) -> KafkaCluster:
        with skipping_where_missing():
            cluster = KafkaCluster(version, **options)
        made.append(cluster)
        return cluster.start()

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[ZooKeeperServer]:
    """One ZooKeeper, the same for all tests: use a root of your own, do not break it."""
    with skipping_where_missing():
        server = ZooKeeperServer()
    yield from _started(server)


@pytest.fixture
def zookeeper_server() -> Iterator[ZooKeeperServer]:
    """A ZooKeeper of a test's own, to freeze and kill; its ``proxy`` breaks connections."""
    with skipping_where_missing():
        server = ZooKeeperServer(proxied=True)
    yield from _started(server)


@pytest.fixture
def influxdb() -> Iterator[InfluxServer]:
    """An InfluxDB of a test's own, to kill and start again."""
    with skipping_where_missing():
        server = InfluxServer()
    yield from _started(server)


@pytest.fixture
def prometheus() -> Iterator[Callable[..., PrometheusServer]]:
    """Makes and starts Prometheus: ``prometheus(target, token, rules)``. It ends with the test."""
    made: list[PrometheusServer] = []

    def make(target: str, token: Path, rules: Path) -> PrometheusServer:
        with skipping_where_missing():
            made.append(PrometheusServer(target, token, rules))
        return made[-1].start()

    yield make
    for server in made:
        server.close()


@pytest.fixture
def promtool() -> Callable[..., tuple[int, str]]:
    """Prometheus' own checker: ``promtool("check", "rules", file)``."""

    def run(*arguments: str, text: str = "") -> tuple[int, str]:
        with skipping_where_missing():
            return check(*arguments, text=text)

    return run


_numbers = itertools.count(1)


@pytest.fixture
def unique_name() -> Callable[[str], str]:
    """Gives names that no other test has: ``unique_name("group")``."""
    return lambda prefix: f"{prefix}-{uuid.uuid4().hex[:8]}-{next(_numbers)}"


@pytest.fixture
def topic_name(unique_name: Callable[[str], str]) -> str:
    """A name for a topic that no other test has; nothing is made."""
    return unique_name("topic")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """kateway's wheel, built and installed in a virtual environment of its own."""
    return Installation(tmp_path_factory.mktemp("installed"))


@pytest.fixture
def daemon(installed: Installation, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons, not started yet: ``daemon("--kafka", cluster.bootstrap).start()``. They end with the test."""
    made: list[Daemon] = []

    def make(*options: str, name: str = "gateway", **settings: Any) -> Daemon:
        made.append(Daemon(installed, tmp_path / name, options, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
