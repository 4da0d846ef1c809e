"""A listener that notes what it hears, and waiting for conditions with a deadline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from kateway.errors import KatewayError
from kateway.model import Committed, Record
from kateway.storage.interface import Subscription

PATIENCE_SECONDS = 20.0


async def turn(seconds: float = 0.0) -> None:
    """Lets the reactor run for a moment."""
    passed: Deferred[None] = Deferred()
    reactor.callLater(seconds, passed.callback, None)
    await passed


async def until(condition: Callable[[], Any], patience_seconds: float = PATIENCE_SECONDS) -> None:
    """Waits until ``condition`` holds; fails the test where it does not in time."""
    deadline = reactor.seconds() + patience_seconds
    while not condition():
        assert reactor.seconds() < deadline, "it did not happen in time"
        await turn(0.005)


class Recorder:
    """Notes every call as ``(name, argument)`` and keeps the records taken. ``inside`` tells whether a call of the
    test's own is under way: none may be heard then.
    """

    def __init__(self, hold: Callable[[frozenset[int]], Deferred[None] | None] = lambda _: None) -> None:
        self.hold = hold
        self.heard: list[tuple[str, Any]] = []
        self.owned: dict[int, Committed | None] = {}
        self.ready: set[int] = set()
        self.taken: dict[int, list[Record]] = {}
        self.errors: list[KatewayError] = []
        self.inside = False
        self.subscription: Subscription

    # --- what the store calls

    def assigned(self, partitions: Mapping[int, Committed | None]) -> None:
        self._note("assigned", dict(partitions))
        self.owned.update(partitions)

    def revoked(self, partitions: frozenset[int]) -> Deferred[None] | None:
        self._note("revoked", partitions)
        self._forget(partitions)
        return self.hold(partitions)

    def lost(self, partitions: frozenset[int]) -> None:
        self._note("lost", partitions)
        self._forget(partitions)

    def readable(self, partition: int) -> None:
        self._note("readable", partition)
        self.ready.add(partition)

    def failed(self, error: KatewayError) -> None:
        self._note("failed", error)
        self.errors.append(error)

    def _note(self, name: str, argument: Any) -> None:
        assert not self.inside, f"{name} was heard from inside a call"
        self.heard.append((name, argument))

    def _forget(self, partitions: frozenset[int]) -> None:
        for partition in partitions:
            self.owned.pop(partition, None)
            self.ready.discard(partition)

    # --- what tests call

    def names(self) -> list[str]:
        return [name for name, _ in self.heard]

    def take(self, partition: int, max_records: int = 1000, max_bytes: int = 1 << 20) -> list[Record]:
        """Takes, and notes it; the partition counts as not readable until that is heard anew."""
        self.ready.discard(partition)
        self.inside = True
        try:
            records = self.subscription.take(partition, max_records, max_bytes)
        finally:
            self.inside = False
        self.taken.setdefault(partition, []).extend(records)
        return records

    async def collect(self, count: int, max_records: int = 1000) -> list[Record]:
        """Takes whatever is said to be readable until there are ``count`` records in all."""
        while sum(map(len, self.taken.values())) < count:
            await until(lambda: self.ready)
            for partition in sorted(self.ready):
                self.take(partition, max_records)
        return [record for partition in sorted(self.taken) for record in self.taken[partition]]

    async def owns(self, *partitions: int) -> None:
        """Waits until exactly these are owned."""
        await until(lambda: set(self.owned) == set(partitions))
