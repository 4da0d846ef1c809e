"""Sends the figures to InfluxDB at regular times, by way of a bounded queue whose oldest are dropped and counted.

What is sent twice, since an answer was lost, is written once: a line's tags and its second say which point it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.backoff import Backoff
from kateway.observe import families
from kateway.observe.cells import Counter
from kateway.observe.render import Body
from kateway.observe.series import Series

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0

_log = Logger()

Lines = Callable[[Mapping[str, str], int], Awaitable[list[Body]]]
"""Gives the figures of now as bodies of at most so many lines, all with these tags."""


class Outcome(NamedTuple):
    """What became of a body."""

    kind: Literal["written", "refused", "failed"]
    """``refused``: it would be again. ``failed``: the server is away, busy, or not yet set up for us."""
    why: str = ""
    pause_seconds: float = 0.0
    """How long the server asks for no more."""


class Client(Protocol):
    """The server that bodies go to."""

    async def write(self, content: bytes) -> Outcome:
        """Sends a body once. Raises nothing; ends in bounded time."""

    async def close(self) -> None:
        """Ends the connections."""


@attrs.frozen(kw_only=True)
class Plan:
    """Where the figures go, how often, and how much may wait."""

    client: Client
    interval_seconds: float
    max_request_lines: int
    max_queue_bytes: int
    tags: Mapping[str, str]


def _log_failure(failure: Failure) -> None:
    if not failure.check(CancelledError):
        _log.failure("the figures for InfluxDB ended", failure)


class InfluxPush:
    """Takes the figures each interval and sends them in their order. Without a plan it does nothing."""

    def __init__(self, clock: IReactorTime, series: Series, lines: Lines) -> None:
        self._clock = clock
        self._series = series
        self._lines = lines
        self._plan: Plan | None = None
        self._started = False
        self._work: list[Deferred[None]] = []
        self._queue: deque[Body] = deque()
        self._sending: Body | None = None
        self._failing = False
        self._more: Deferred[None] | None = None
        self._idle: Deferred[None] | None = None

    @property
    def waiting_bytes(self) -> int:
        """What is in the queue or under way."""
        sending = 0 if self._sending is None else len(self._sending.content)
        return sending + sum(len(body.content) for body in self._queue)

    def configure(self, plan: Plan | None) -> None:
        """Puts another plan into force; what waits goes by it. Without one it is given up."""
        before, self._plan = self._plan, plan
        self._end_work()
        if before is not None:
            Deferred.fromCoroutine(before.client.close()).addErrback(_log_failure)
        if plan is None:
            self._queue.clear()
        else:
            # a counter that is there from the beginning shows its first increase
            for reason in ("full", "refused"):
                self._dropped(reason)
            self._trim(plan)
        self._begin_work()

    def start(self) -> None:
        """Begins with the figures of now."""
        self._started = True
        self._begin_work()

    async def stop(self, patience_seconds: float) -> None:
        """Sends the last figures, unless the server is away, and gives up what is left after that time."""
        plan = self._plan
        if plan is None or not self._started:
            return
        self._started = False
        self._work[0].cancel()
        try:
            if not self._failing:
                self._put(await self._lines(plan.tags, plan.max_request_lines), plan)
                await self._emptied().addTimeout(patience_seconds, self._clock)
        except TookTooLong:
            pass
        finally:
            self._end_work()
            if self._queue:
                _log.warn("{count} lines were not sent to InfluxDB", count=sum(body.lines for body in self._queue))
            await plan.client.close()

    def _begin_work(self) -> None:
        if self._started and self._plan is not None:
            self._work = [self._begun(each(self._plan)) for each in (self._gather, self._send)]

    def _begun(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        return Deferred.fromCoroutine(work).addErrback(_log_failure)

    def _end_work(self) -> None:
        for each in self._work:
            each.cancel()
        self._work = []
        self._more = None

    async def _gather(self, plan: Plan) -> None:
        began = self._clock.seconds()
        while True:
            try:
                self._put(await self._lines(plan.tags, plan.max_request_lines), plan)
            except CancelledError:
                raise
            except Exception:
                _log.failure("the figures for InfluxDB could not be taken; they are taken again")
            # at whole intervals, however long it took; one that is missed is not made up for
            late = (self._clock.seconds() - began) % plan.interval_seconds
            await deferLater(self._clock, plan.interval_seconds - late)

    def _put(self, bodies: list[Body], plan: Plan) -> None:
        self._queue.extend(bodies)
        self._trim(plan)
        if self._queue and self._more is not None:
            more, self._more = self._more, None
            more.callback(None)

    def _trim(self, plan: Plan) -> None:
        excess = self.waiting_bytes - plan.max_queue_bytes
        while excess > 0 and self._queue:
            oldest = self._queue.popleft()
            excess -= len(oldest.content)
            self._dropped("full").value += oldest.lines

    def _dropped(self, reason: str) -> Counter:
        return self._series.counter(families.METRICS_PUSH_DROPPED, (reason,))

    async def _send(self, plan: Plan) -> None:
        backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
        self._failing = False
        while True:
            if not self._queue:
                self._now_idle()
                self._more = Deferred()
                await self._more
                continue
            body = self._sending = self._queue.popleft()
            try:
                outcome = await plan.client.write(body.content)
            except CancelledError:
                self._queue.appendleft(body)
                raise
            finally:
                self._sending = None
            if outcome.kind == "failed":
                self._queue.appendleft(body)
                self._trim(plan)
                self._note_failing(outcome.why)
                self._now_idle()
                asked = min(outcome.pause_seconds, LONGEST_PAUSE_SECONDS)
                await deferLater(self._clock, max(backoff.next(), asked))
                continue
            backoff.reset()
            if outcome.kind == "refused":
                self._dropped("refused").value += body.lines
                _log.warn("InfluxDB refused {count} lines: {why}", count=body.lines, why=outcome.why)
            if self._failing:
                self._failing = False
                _log.info("InfluxDB answers again")

    def _note_failing(self, why: str) -> None:
        if not self._failing:
            self._failing = True
            _log.warn("InfluxDB takes no figures: {why}; it is tried again", why=why)

    def _emptied(self) -> Deferred[None]:
        """Fires when nothing waits any more, or the server has failed."""
        self._idle = Deferred()
        idle = self._idle
        if self._failing or (not self._queue and self._sending is None):
            self._now_idle()
        return idle

    def _now_idle(self) -> None:
        if self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)
