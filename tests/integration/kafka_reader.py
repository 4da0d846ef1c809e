"""A listener that takes whatever comes, notes it, and commits when its partitions are about to go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from kateway.errors import KatewayError
from kateway.model import Committed
from kateway.storage.interface import Reset, Store

PATIENCE_SECONDS = 30.0


async def until(condition: Callable[[], Any], patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Waits until ``condition`` holds; fails the test where it does not in time."""
    deadline = reactor.seconds() + patience_seconds
    while not condition():
        assert reactor.seconds() < deadline, "it did not happen in time"
        await deferLater(reactor, 0.01)


class Reader:
    """Reads a topic as a group's member. What it took counts as seen, and is committed before it is handed over."""

    def __init__(self, store: Store, group: str, topic: str, reset: Reset = "earliest") -> None:
        self.seen: list[tuple[int, int]] = []
        self.values: list[bytes | None] = []
        self.owned: set[int] = set()
        self.begun: dict[int, Committed | None] = {}
        self.heard: list[str] = []
        self.errors: list[KatewayError] = []
        self.subscription = store.subscribe(group, topic, self, reset)

    def assigned(self, partitions: Mapping[int, Committed | None]) -> None:
        self.heard.append("assigned")
        self.begun.update(partitions)
        self.owned |= set(partitions)

    def revoked(self, partitions: frozenset[int]) -> Deferred[None] | None:
        self.heard.append("revoked")
        self.owned -= partitions
        return self.commit(partitions)

    def lost(self, partitions: frozenset[int]) -> None:
        self.heard.append("lost")
        self.owned -= partitions

    def readable(self, partition: int) -> None:
        records = self.subscription.take(partition, 1000, 1 << 20)
        self.seen += [(partition, record.offset) for record in records]
        self.values += [record.value for record in records]

    def failed(self, error: KatewayError) -> None:
        self.errors.append(error)

    def commit(self, partitions: frozenset[int] | None = None) -> Deferred[None]:
        """Commits the records taken."""
        places = {
            partition: Committed(position)
            for partition in (self.owned if partitions is None else partitions)
            if (position := self.subscription.position(partition)) is not None
        }
        return self.subscription.commit(places)
