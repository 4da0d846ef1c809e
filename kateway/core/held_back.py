"""Keeps publishes that wait for their keys to go over: in their order, in bounded room, to their deadlines."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.core.inflight_shares import weight
from kateway.errors import KatewayError, KeyMoving
from kateway.model import Message
from kateway.storage.interface import Outcome

_goes_on = Logger().failureHandler("a publish that was held back broke; those behind it go on")


class Counts(Protocol):
    """What is counted of keys that move."""

    def held(self, messages: int) -> None:
        """Messages were held back."""

    def not_released(self, messages: int) -> None:
        """Messages were held back until their deadline, or found no room, and were not written."""


class Room:
    """The bytes of messages that are held back, of all topics together."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.held_messages = 0


@attrs.define(eq=False)
class Held:
    """A publish that waits. ``go`` tries it anew, and may hold it back again; ``refuse`` answers that nothing of it was
    written.
    """

    messages: Sequence[Message]
    deadline: float
    go: Callable[[], None]
    refuse: Callable[[KatewayError], None]
    size: int = 0
    late: IDelayedCall | None = None
    dropped: bool = False
    """Whether it is not waited for any more."""


class HeldBack:
    """The publishes of one topic that wait. ``why`` gives the words of a refusal."""

    def __init__(self, clock: IReactorTime, room: Room, counts: Counts, why: Callable[[], str]) -> None:
        self.waiting: deque[Held] = deque()
        """In the order of arrival."""
        self._clock = clock
        self._room = room
        self._counts = counts
        self._why = why

    def __bool__(self) -> bool:
        return bool(self.waiting)

    def hold(self, held: Held, *, again: bool = False) -> KeyMoving | None:
        """Takes a publish in, or returns why not; ``again``: it was held back before, and counts no second time."""
        room, size, number = self._room, weight(held.messages), len(held.messages)
        left = held.deadline - self._clock.seconds()
        if left <= 0 or room.held_bytes + size > room.max_bytes:
            self._counts.not_released(number)
            if left <= 0:
                return KeyMoving(self._why())
            return KeyMoving(f"{room.held_bytes} bytes of messages wait for their keys to go over already")
        held.size = size
        held.late = self._clock.callLater(left, self.refuse, held)
        self.waiting.append(held)
        room.held_bytes += size
        room.held_messages += number
        if not again:
            self._counts.held(number)
        return None

    def release(self) -> None:
        """Tries all anew, in the order of arrival."""
        waiting, self.waiting = self.waiting, deque()
        for held in waiting:
            # before the first one goes on: the room of those that are held back again is not given to others
            self._let_go(held)
        for held in waiting:
            # an earlier one may have ended what waits for this one
            if not held.dropped:
                with _goes_on:
                    held.go()

    def refuse(self, held: Held) -> None:
        """Answers one that has waited to its deadline, or that waits while the gateway stops."""
        self.drop(held)
        self._counts.not_released(len(held.messages))
        held.refuse(KeyMoving(self._why()))

    def refuse_all(self) -> None:
        while self.waiting:
            self.refuse(self.waiting[0])

    def drop(self, held: Held) -> None:
        """Forgets one that is not waited for any more."""
        held.dropped = True
        if held in self.waiting:
            self.waiting.remove(held)
            self._let_go(held)

    def _let_go(self, held: Held) -> None:
        self._room.held_bytes -= held.size
        self._room.held_messages -= len(held.messages)
        if held.late is not None and held.late.active():
            held.late.cancel()


def both(
    sent: Deferred[list[Outcome]], held: Deferred[list[Outcome]], among: Sequence[bool]
) -> Deferred[list[Outcome]]:
    """Joins the outcomes of messages that were sent and of those that were held back, in the messages' order."""

    def join(outcomes: list[Outcome]) -> Deferred[list[Outcome]]:
        first = iter(outcomes)

        def fill(late: list[Outcome]) -> list[Outcome]:
            second = iter(late)
            return [next(second) if held_back else next(first) for held_back in among]

        return held.addCallback(fill)

    def broke(failure: Failure) -> Failure:
        # the caller is told that it failed as a whole: the rest must not be written later
        held.addErrback(lambda _cancelled: None)
        held.cancel()
        return failure

    return sent.addCallbacks(join, broke)
