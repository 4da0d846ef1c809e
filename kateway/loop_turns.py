"""Shares the loop's time between work that may wait and everything else: one slice a turn of the loop, for all of it.

Such work is examining records, and what the operator looks at: lists of all groups, ``/metrics``, histories.
Examining costs 5 to 20 µs a record, without an end while a reader is behind. A request on its way through the store
and back needs the loop twice or more, and waits each time for what the loop is doing. So a slice is short, all readers
share it, and when a request came meanwhile the next slice begins when the store has answered.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

MOST_EXAMINED = 128
"""Records of one slice, however little they cost: what is made of them takes time too."""
FIRST_EXAMINED = 64
SLICE_SECONDS = 0.0005
"""Of examining in one turn of the loop, by what the records before have cost."""
LEAST_SHARE = 0.25
"""A slice that was waited for is at least such a part of the wait: where requests fill turns of 10 ms, 0.5 ms would
leave a twentieth of the loop to all readers.
"""
LONGEST_SLICE_SECONDS = 0.002
OVERDUE_SECONDS = 0.0015
"""Beyond a slice, where records cost more than those before. What was fetched is dropped then, and fetched again."""
LONGEST_REST_SECONDS = 0.004
"""Before a slice, while the store has not answered: with ``LEAST_SHARE`` readers have a fifth of the loop then."""

_goes_on = Logger().failureHandler("a reader broke when it was its turn to examine records; the others go on")


class LoopTurns:
    """A slice of each turn of the loop, shared by readers and others in the order in which they ask.

    A reader says ``begin``. Where that is refused it waits for its turn, in which ``begin`` is granted. It examines at
    most ``left`` records, and says how many with ``examined``. Other work goes on for ``SLICE_SECONDS``, then it says
    ``pause``.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self.last_request: Callable[[], float] = _never
        """When the loop last began to handle requests, by the same clock."""
        self.under_way: Callable[[], bool] = _nothing
        """Whether the store is yet to answer requests."""
        self.used_seconds: Callable[[], float] = clock.seconds
        """What the thread has used of the processor: on a busy machine it stands still in the middle of a slice."""
        self._most = FIRST_EXAMINED
        self._left = FIRST_EXAMINED
        self._examined = 0
        """Records of this slice."""
        self._slice_seconds = SLICE_SECONDS
        self._spent = 0.0
        """Seconds of this slice."""
        self._waiting_since = 0.0
        """When the first of those that wait began to, or the last slice ended, whichever was later."""
        self._began = 0.0
        """When the part of the slice began that is under way."""
        self._used = 0.0
        """And what the thread had used by then."""
        self._turn_began = -inf
        self._line: dict[object, Callable[[], None]] = {}
        self._next: IDelayedCall | None = None
        """The end of the turn in which a slice was begun, or of the rest behind it."""
        self._serving = False
        self._resting = False
        """Whether ``_next`` waits for the store's answers."""

    def answered(self) -> None:
        """The store has answered all requests: what rests goes on in the next turn, behind their responses."""
        if self._resting and self._next is not None:
            self._resting = False
            self._next.reset(0)

    def begin(self) -> bool:
        """Begins to examine, where there is something left of this turn's slice."""
        if self._line and not self._serving:
            return False
        now = self._clock.seconds()
        if self._next is None:
            if not self._serving:
                self._renew(SLICE_SECONDS)
            self._next = self._clock.callLater(0, self._turn_over)
            self._turn_began = now
        elif self._used_up:
            return False
        self._began = now
        self._used = self.used_seconds()
        return True

    def wait(self, reader: object, turn: Callable[[], None]) -> None:
        """Calls back once, in this reader's turn, never from inside this call; a reader waits once only."""
        if not self._line:
            self._waiting_since = self._clock.seconds()
        self._line.setdefault(reader, turn)
        if self._next is None:
            self._next = self._clock.callLater(0, self._turn_over)

    async def granted(self) -> None:
        """Waits for a part of a slice, and begins it."""
        while not self.begin():
            turn: Deferred[None] = Deferred(self._forget)
            self.wait(turn, lambda turn=turn: turn.callback(None))  # type: ignore[misc]
            await turn

    async def pause(self) -> None:
        """Waits for a whole slice, of a later turn."""
        self._end_slice()
        await self.granted()
        self._end_slice()

    def _end_slice(self) -> None:
        if self._next is None:
            self._next = self._clock.callLater(0, self._turn_over)
            self._turn_began = self._clock.seconds() - SLICE_SECONDS
        self._left = 0

    def _forget(self, reader: object) -> None:
        self._line.pop(reader, None)

    @property
    def left(self) -> int:
        """How many records may still be examined in this slice."""
        return 0 if self.over else self._left

    @property
    def over(self) -> bool:
        """Whether the slice has taken much longer than it should."""
        left = self._slice_seconds + OVERDUE_SECONDS - self._spent
        # the cheaper clock first: this is asked for each record
        return self._clock.seconds() - self._began >= left and self.used_seconds() - self._used >= left

    def examined(self, count: int) -> None:
        """Takes so many records, and the time since the last call, from the slice."""
        used = self.used_seconds()
        self._left -= count
        self._examined += count
        self._spent += used - self._used
        self._began, self._used = self._clock.seconds(), used

    @property
    def _used_up(self) -> bool:
        return self._left <= 0 or self._spent >= self._slice_seconds

    def _turn_over(self) -> None:
        self._next = None
        if self._used_up:
            self._learn()
            if self.last_request() >= self._turn_began and self.under_way():
                self._resting = True
                self._next = self._clock.callLater(LONGEST_REST_SECONDS, self._serve)
                return
        self._serve()

    def _learn(self) -> None:
        """Finds how many records a slice of the usual length may have, by what those of this one have cost."""
        if not self._examined:
            return
        fitting = self._examined * SLICE_SECONDS / max(self._spent, 1e-6)
        self._most = int(min(max(fitting, self._most / 2, 1), self._most * 2, MOST_EXAMINED))

    def _renew(self, seconds: float) -> None:
        """Makes room for a slice of so many seconds."""
        self._slice_seconds = seconds
        self._left = int(self._most * seconds / SLICE_SECONDS)
        self._examined, self._spent = 0, 0.0

    def _serve(self) -> None:
        """Calls readers back until the slice is used up."""
        self._next = None
        self._resting = False
        now = self._clock.seconds()
        waited = now - self._waiting_since if self._line else 0.0
        self._waiting_since = now
        self._renew(min(max(waited * LEAST_SHARE, SLICE_SECONDS), LONGEST_SLICE_SECONDS))
        self._serving = True
        try:
            while self._line and not self._used_up:
                turn = self._line.pop(next(iter(self._line)))
                with _goes_on:
                    turn()
        finally:
            self._serving = False
        if self._line and self._next is None:
            self._next = self._clock.callLater(0, self._turn_over)


def _never() -> float:
    return -inf


def _nothing() -> bool:
    return False
