"""The drivers that every contract test of the store runs against, and shorthands for its calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import pytest_twisted
from recorder import Recorder
from servers.fixtures import kafkas
from twisted.internet import reactor

from kateway.config.schema import EmbeddedStorageConfig, KafkaStorageConfig
from kateway.errors import KatewayError
from kateway.model import Message, Receipt
from kateway.storage.embedded import EmbeddedStore
from kateway.storage.interface import Outcome, Reset, Store
from kateway.storage.kafka.driver import KafkaStore


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The embedded store and the newer Kafka; both Kafkas for tests that are marked ``both_kafkas``, Kafka alone for
    those marked ``several_members``, by each protocol that its groups have: the embedded store has one subscription of
    a group and topic at a time.
    """
    if "make_store" in metafunc.fixturenames:
        several_members = metafunc.definition.get_closest_marker("several_members") is not None
        fixtures = [*kafkas(metafunc), *(["kafka_4-classic"] if several_members else [])]
        drivers = [pytest.param(fixture, marks=pytest.mark.kafka) for fixture in fixtures]
        metafunc.parametrize("make_store", drivers if several_members else ["embedded", *drivers], indirect=True)


@pytest.fixture
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Makes a store of each driver in turn, not started."""
    if request.param == "embedded":
        return lambda: EmbeddedStore(EmbeddedStorageConfig(path=str(tmp_path / "data")), reactor)
    fixture, _, protocol = request.param.partition("-")
    brokers = tuple(request.getfixturevalue(fixture).addresses)
    config = KafkaStorageConfig(
        driver="kafka", brokers=brokers, metadata_refresh_seconds=1.0, group_protocol=protocol or "auto"
    )
    return lambda: KafkaStore(config, reactor)


@pytest_twisted.async_yield_fixture
async def store(make_store: Callable[[], Store]) -> AsyncIterator[Store]:
    """A started store of each driver in turn."""
    made = make_store()
    await made.start()
    yield made
    await made.stop(5.0)


@pytest.fixture
def make_topic(store: Store, unique_name: Callable[[str], str]) -> Callable[..., Awaitable[str]]:
    """Makes a topic that no other test uses: ``await make_topic(partitions=3)``."""

    async def make(partitions: int = 1) -> str:
        name = unique_name("topic")
        await store.create_topic(name, partitions=partitions)
        return name

    return make


@pytest.fixture
def publish(store: Store) -> Callable[..., Awaitable[list[Outcome]]]:
    """Publishes with ten seconds to do it in."""

    async def to(topic: str, *messages: Message | bytes, acks: int = -1) -> list[Outcome]:
        whole = [Message(each) if isinstance(each, bytes) else each for each in messages]
        return await store.publish(topic, whole, acks, reactor.seconds() + 10)

    return to


@pytest.fixture
def written(publish: Callable[..., Awaitable[list[Outcome]]]) -> Callable[..., Awaitable[list[Receipt]]]:
    """Publishes, and fails the test where anything could not be written."""

    async def to(topic: str, *messages: Message | bytes) -> list[Receipt]:
        receipts = []
        for outcome in await publish(topic, *messages):
            assert not isinstance(outcome, KatewayError), repr(outcome)
            receipts.append(outcome)
        return receipts

    return to


@pytest_twisted.async_yield_fixture
async def subscribe(store: Store) -> AsyncIterator[Callable[..., Recorder]]:
    """Subscribes with a recorder; what a test leaves open is closed."""
    made: list[Recorder] = []

    def to(group: str, topic: str, reset: Reset = "earliest", recorder: Recorder | None = None) -> Recorder:
        recorder = recorder or Recorder()
        recorder.inside = True
        recorder.subscription = store.subscribe(group, topic, recorder, reset)
        recorder.inside = False
        made.append(recorder)
        return recorder

    yield to
    for each in made:
        await each.subscription.close()


def values(records: Sequence[object]) -> list[object]:
    """The values of records or messages."""
    return [record.value for record in records]  # type: ignore[attr-defined]
