"""Tracks messages on their way, with the callers to tell of each outcome. Hot: one is made for every message."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from kateway.errors import Unavailable
from kateway.model import Message
from kateway.storage.interface import Outcome
from kateway.storage.kafka.producer.partition_queue import QueueItem


class Handed(Deferred[list[Outcome]]):
    """A publish handed over has an outcome whatever the caller does."""

    def cancel(self) -> None:
        """Does nothing."""


class PendingCall:
    """A publish of several messages: answered when the last of them is."""

    __slots__ = ("deferred", "left", "outcomes")

    def __init__(self, deferred: Deferred[list[Outcome]], count: int) -> None:
        self.deferred = deferred
        self.outcomes: list[Outcome] = [_PENDING] * count
        self.left = count

    def settle(self, index: int, outcome: Outcome) -> None:
        self.outcomes[index] = outcome
        self.left -= 1
        if not self.left:
            self.deferred.callback(self.outcomes)


_PENDING = Unavailable("the outcome is not there yet")


class Pending(QueueItem):
    """A message on its way, and whom to tell: a call, or for a message that came alone the Deferred itself."""

    __slots__ = ("call", "index", "message")

    def __init__(
        self, size: int, deadline: float, message: Message, call: PendingCall | Deferred[list[Outcome]], index: int
    ) -> None:
        self.size = size
        self.deadline = deadline
        self.settled = False
        self.message = message
        self.call = call
        self.index = index

    def settle(self, outcome: Outcome) -> None:
        self.settled = True
        call = self.call
        if call.__class__ is PendingCall:
            call.settle(self.index, outcome)
        else:
            call.callback([outcome])  # type: ignore[union-attr]
