"""What an operator is told of a group, with its store's figures."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from kateway.core.gateway import Lag
from kateway.core.operator.group_state import full_state


class World:
    """A group that is behind in two partitions, of a store whose reads are answered by no one."""

    def __init__(self) -> None:
        self.given_up: list[int] = []
        self.place = SimpleNamespace(store=self, topic="t")

    async def lag(self, place: Any, group: str) -> list[Lag]:
        return [Lag(0, 10, 3, 7, 0, 0.0), Lag(1, 5, None, 5, 0, 0.0)]

    async def read(self, topic: str, partition: int, offset: int, **_: Any) -> Any:
        never: Deferred[Any] = Deferred(lambda _: self.given_up.append(partition))
        return await never


def test_look_that_is_given_up_ends_its_reads_and_is_no_failure() -> None:
    world = World()
    group: Any = SimpleNamespace(place=world.place, group="g")
    outcome: list[Any] = []
    asking = Deferred.fromCoroutine(full_state(world, group, None, Clock(), 0))  # type: ignore[arg-type]
    asking.addErrback(lambda failure: outcome.append(failure.type))
    asking.cancel()
    assert world.given_up == [0, 1]
    assert outcome == [CancelledError]
