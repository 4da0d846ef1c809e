"""Where a group starts is committed, also where that fails at first, and never over what the group commits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_embedded_cursor import SameThread
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from kateway.errors import StorageFull
from kateway.model import Committed
from kateway.storage.embedded import database
from kateway.storage.embedded.partition import Partition
from kateway.storage.embedded.subscription import RETRY_SECONDS, EmbeddedSubscription, SubscriptionContext


class World:
    """A group's subscription to an empty topic, with a writer that answers when a test says so; a listener as well."""

    def __init__(self, path: Path) -> None:
        self.connection = database.open_for_writing(path / "bench.sqlite3", "bench", 0)
        created = database.create_topic(self.connection, "t", 1, None)
        assert created is not None
        self.topic: Any = SimpleNamespace(partitions=[Partition(created[1][0])])
        self.clock = Clock()
        self.reader = SameThread(self.connection)
        self.committed: list[tuple[list[int], Deferred[None]]] = []
        self.assignments: list[Mapping[int, Any]] = []
        context = SubscriptionContext(
            self.clock,
            lambda call, *args: call(*args),  # type: ignore[arg-type]
            self.reader,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            1.0,
            1 << 20,
        )
        self.subscription = EmbeddedSubscription("g", self.topic, self, "latest", context, lambda _: None)  # type: ignore[arg-type]

    # as the writer
    def commit(self, group: str, offsets: Sequence[tuple[int, Committed]]) -> Deferred[None]:
        answer: Deferred[None] = Deferred()
        self.committed.append(([committed.offset for _, committed in offsets], answer))
        if not offsets:
            answer.callback(None)
        return answer

    @property
    def offsets(self) -> list[list[int]]:
        return [offsets for offsets, _ in self.committed if offsets]

    def fail(self) -> None:
        self.committed[-1][1].errback(StorageFull("full"))

    # as the listener
    def assigned(self, committed: Mapping[int, Any]) -> None:
        self.assignments.append(committed)

    def failed(self, error: Any) -> None:
        pass

    def lost(self, partitions: frozenset[int]) -> None:
        pass

    def begin(self) -> None:
        """Subscribes; the commit of the start fails."""
        self.subscription.start()
        self.reader.run()
        self.fail()
        assert len(self.assignments) == 1


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.subscription.abandon()
    made.connection.close()


def test_start_whose_commit_failed_is_committed_again_also_after_the_load_had_failed(world: World) -> None:
    world.reader.error = StorageFull("full")
    world.subscription.start()
    world.reader.run()
    world.reader.error = None
    world.clock.advance(RETRY_SECONDS)
    world.reader.run()
    world.fail()
    for _ in range(3):
        world.clock.advance(RETRY_SECONDS)
        world.fail()
    assert world.offsets == [[0]] * 4


def test_start_whose_commit_fails_while_the_group_commits_is_not_committed_over_that(world: World) -> None:
    world.begin()
    world.clock.advance(RETRY_SECONDS)
    of_start = world.committed[-1][1]
    world.subscription.commit({0: Committed(7)})
    of_start.errback(Failure(StorageFull("full")))
    world.clock.pump([RETRY_SECONDS] * 3)
    assert world.offsets == [[0], [0], [7]]
