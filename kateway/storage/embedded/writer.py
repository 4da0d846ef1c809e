"""Commits in groups: messages published while the disk is busy are written in one transaction, then answered.

The reactor's side: publishes gather until the loop's turn is over and the transaction before theirs has ended, then
all of them go to the writing thread at once. So there is one transaction under way at most, offsets are given out
here, and a transaction costs one hop there and one back however many records it has. Groups' commits ride along.
Plain callbacks throughout: this is the hot path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.drain_pace import DrainPace
from kateway.errors import KatewayError, OutcomeUnknown, TopicNotFound, Unavailable
from kateway.model import Committed, Receipt
from kateway.observe.store import StoreCells
from kateway.storage.embedded import database
from kateway.storage.embedded.database import Commit, Row
from kateway.storage.embedded.partition import Partition, Tail
from kateway.storage.interface import RECORD_OVERHEAD_BYTES, Outcome
from kateway.storage.sqlite.thread import Reactor, SqlThread

TRANSACTION_BYTES = 8 << 20
"""No more publishes are added to a transaction that has as much, so that deadlines behind it can be kept."""

STANDING_BYTES = 1 << 16
"""With fewer bytes waiting, a slow transaction says nothing of how much the disk takes."""

PATIENCE_USED = 0.8
"""A publish is refused where waiting would take more of its time than this: a pace is no promise."""

_log = Logger()
_goes_on = _log.failureHandler("the health of the embedded store could not be noted")


class WriteResult(Deferred[list[Outcome]]):
    """A publish's answer. Cancelling it does nothing: a publish that was handed over has an outcome in any case."""

    def cancel(self) -> None:
        pass


class PendingWrite:
    """One call of ``publish`` on its way."""

    __slots__ = ("answer", "deadline", "entries", "newest", "outcomes", "size")

    def __init__(
        self,
        outcomes: list[Outcome | None],
        entries: list[tuple[int, Partition, bytes]],
        size: int,
        newest: int,
        deadline: float,
        answer: WriteResult | None,
    ) -> None:
        self.outcomes = outcomes
        """One a message; ``None`` for those that ``entries`` holds."""
        self.entries = entries
        """The message's place in the call, where it goes, the encoded record."""
        self.size = size
        self.newest = newest
        self.deadline = deadline
        self.answer = answer
        """``None`` where no caller waits (any more)."""

    @property
    def held_bytes(self) -> int:
        """What it costs in memory."""
        return self.size + len(self.entries) * RECORD_OVERHEAD_BYTES

    def fail(self, error: KatewayError) -> None:
        """Answers that none of the entries was written as asked."""
        answer, self.answer = self.answer, None
        if answer is not None:
            outcomes: list[Outcome | None] = list(self.outcomes)
            for index, _, _ in self.entries:
                outcomes[index] = error
            answer.callback(outcomes)  # type: ignore[arg-type]


class WriteBatch:
    """One transaction's content."""

    __slots__ = ("commits", "held_bytes", "published", "size", "touched", "waiting")

    def __init__(self) -> None:
        self.published: list[PendingWrite] = []
        self.touched: list[tuple[Partition, Tail | None, bytes]] = []
        self.size = 0
        self.held_bytes = 0
        self.commits: list[Commit] = []
        self.waiting: list[Deferred[None]] = []


class Writer:
    """Gathers publishes and commits, and has them written."""

    def __init__(
        self, reactor: Reactor, thread: SqlThread, max_inflight_bytes: int, cells: StoreCells | None = None
    ) -> None:
        """``cells`` count the transactions, and how long the first publish of each waited for it."""
        self._cells = cells
        self._durations = None if cells is None else cells.duration("write")
        self._queued = None if cells is None else cells.queue("write")
        self._gathering_since = 0.0
        self._reactor = reactor
        self._thread = thread
        self._max_inflight_bytes = max_inflight_bytes
        self.inflight_bytes = 0
        """Held for publishes on their way."""
        self._pace = DrainPace(STANDING_BYTES)
        self._gathered: deque[PendingWrite] = deque()
        self._commits: dict[tuple[int, str], Commit] = {}
        self._waiting: list[Deferred[None]] = []
        self._batch: WriteBatch | None = None
        self._turn: IDelayedCall | None = None
        self._alarm: IDelayedCall | None = None
        self._on_idle: list[Deferred[None]] = []
        self.busy_since: float | None = None
        """When the transaction under way was handed over, on the reactor's clock."""
        self.last_error: KatewayError | None = None
        """Why the last transaction failed; ``None`` if it did not."""
        self.on_trouble: Callable[[], None] = lambda: None

    def room_for(self, size: int, count: int) -> bool:
        """Whether so many bytes in so many records more may be held; anything may when nothing is."""
        held = self.inflight_bytes + size + count * RECORD_OVERHEAD_BYTES
        return held <= self._max_inflight_bytes or not self.inflight_bytes

    def too_slow(self, deadline: float) -> float:
        """Returns the seconds that a publish would wait, where that is most of its time; else 0. Hot."""
        if not self._pace.behind:
            return 0.0
        wait = self._pace.seconds_per_item * self.inflight_bytes
        return wait if wait > (deadline - self._reactor.seconds()) * PATIENCE_USED else 0.0

    def publish(self, publish: PendingWrite) -> None:
        """Takes a publish; its answer is fired with an outcome for each message."""
        self.inflight_bytes += publish.held_bytes
        if not self._gathered:
            self._gathering_since = self._reactor.seconds()
        self._gathered.append(publish)
        alarm = self._alarm
        if alarm is None:
            self._alarm = self._reactor.callLater(
                max(0.0, publish.deadline - self._reactor.seconds()), self._look_at_deadlines
            )
        elif publish.deadline < alarm.getTime():
            alarm.reset(max(0.0, publish.deadline - self._reactor.seconds()))
        self._schedule()

    def commit(self, group: str, offsets: list[tuple[int, Committed]]) -> Deferred[None]:
        """Writes a group's positions, by partition id; of several for one partition the newest wins."""
        answer: Deferred[None] = Deferred()
        for partition, committed in offsets:
            self._commits[partition, group] = Commit(partition, group, committed.offset, committed.metadata)
        self._waiting.append(answer)
        self._schedule()
        return answer

    def idle(self) -> Deferred[None]:
        """Fires when nothing is gathered or under way."""
        answer: Deferred[None] = Deferred()
        self._on_idle.append(answer)
        self._tell_idle()
        return answer

    def give_up(self) -> None:
        """Answers everything that is still outstanding: gathered messages are not written any more."""
        self._fail_gathered("the embedded store stopped before this was written")
        if self._batch is not None:
            for publish in self._batch.published:
                publish.fail(OutcomeUnknown("the embedded store stopped while this was being written"))
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    @property
    def undecided(self) -> bool:
        """Whether the transaction under way holds publishes whose callers were answered already."""
        return self._batch is not None and any(publish.answer is None for publish in self._batch.published)

    def fail_gathered(self) -> None:
        """Answers the publishes whose transaction has not begun."""
        reason = "the disk does not answer" if self.last_error is None else self.last_error.detail
        self._fail_gathered(f"this was not written: {reason}")

    def _fail_gathered(self, detail: str) -> None:
        gathered, self._gathered = self._gathered, deque()
        for publish in gathered:
            self.inflight_bytes -= publish.held_bytes
            publish.fail(Unavailable(detail))

    def _schedule(self) -> None:
        if self._batch is None and self._turn is None:
            self._turn = self._reactor.callLater(0, self._turn_is_over)

    def _turn_is_over(self) -> None:
        self._turn = None
        self._hand_over()

    def _hand_over(self) -> None:
        """Makes a batch of the gathered messages and sends it to the writing thread."""
        if self._batch is not None:
            return
        now = self._reactor.seconds()
        batch = WriteBatch()
        touched: list[Partition] = []
        gathered = self._gathered
        if self._queued is not None and gathered:
            self._queued.observe(now - self._gathering_since)
            self._gathering_since = now
        while gathered and batch.size < TRANSACTION_BYTES:
            publish = gathered.popleft()
            if publish.deadline <= now:
                self.inflight_bytes -= publish.held_bytes
                publish.fail(_too_late())
                continue
            batch.size += publish.size
            batch.held_bytes += publish.held_bytes
            batch.published.append(publish)
            outcomes, newest = publish.outcomes, publish.newest
            for index, partition, entry in publish.entries:
                if partition.dropped:
                    outcomes[index] = TopicNotFound()
                    continue
                pending = partition.pending
                if not pending:
                    touched.append(partition)
                    partition.pending_newest = partition.newest
                partition.pending_newest = max(partition.pending_newest, newest)
                outcomes[index] = Receipt(partition.number, partition.end + len(pending))
                pending.append(entry)
        rows: list[Row] = []
        for partition in touched:
            some, tail, added = partition.rows()
            rows += some
            batch.touched.append((partition, tail, added))
        batch.commits, self._commits = list(self._commits.values()), {}
        batch.waiting, self._waiting = self._waiting, []
        if rows or batch.commits or batch.published or batch.waiting:
            self._batch = batch
            self.busy_since = now
            writing = self._thread.hand_over(database.write, rows, batch.commits)
            writing.addCallbacks(self._written, self._not_written).addErrback(self._broke)
        else:
            self._tell_idle()

    def _written(self, _: None) -> None:
        batch = self._end_batch()
        self.last_error = None
        for partition, tail, added in batch.touched:
            partition.written(tail, added)
        for publish in batch.published:
            answer = publish.answer
            if answer is not None:
                publish.answer = None
                answer.callback(publish.outcomes)  # type: ignore[arg-type]
        for waiting in batch.waiting:
            waiting.callback(None)
        self._hand_over()

    def _not_written(self, failure: Failure) -> None:
        batch = self._end_batch()
        error = database.translate(failure.value)
        for partition, _, _ in batch.touched:
            partition.pending = []
            # what a failed transaction leaves of a row must not be appended to
            partition.tail = None
        self.last_error = error
        if self._cells is not None:
            self._cells.failed(error.code)
        with _goes_on:
            self.on_trouble()
        for publish in batch.published:
            publish.fail(error)
        for waiting in batch.waiting:
            waiting.errback(error)
        self._hand_over()

    def _broke(self, failure: Failure) -> None:
        _log.failure("the embedded store's writer broke over a transaction; it goes on", failure)
        self._hand_over()

    def _end_batch(self) -> WriteBatch:
        batch = self._batch
        assert batch is not None
        assert self.busy_since is not None
        self._batch = None
        self.inflight_bytes -= batch.held_bytes
        now = self._reactor.seconds()
        self._pace.answered(batch.held_bytes, self.busy_since, now, self.inflight_bytes)
        if self._durations is not None:
            self._durations.observe(now - self.busy_since)
        self.busy_since = None
        return batch

    def _tell_idle(self) -> None:
        if self._batch is None and self._turn is None and not self._gathered and not self._waiting:
            told, self._on_idle = self._on_idle, []
            for answer in told:
                answer.callback(None)

    def _look_at_deadlines(self) -> None:
        """Answers overdue publishes, and sets the alarm for the next one. One alarm for all: under load it
        rings once for hundreds of thousands of publishes.
        """
        self._alarm = None
        now = self._reactor.seconds()
        expired = [publish for publish in self._gathered if publish.deadline <= now]
        if expired:
            self._gathered = deque(publish for publish in self._gathered if publish.deadline > now)
        if self._batch is not None:
            for publish in self._batch.published:
                if publish.deadline <= now:
                    publish.fail(OutcomeUnknown("the embedded store was still writing this at the deadline"))
        for publish in expired:
            self.inflight_bytes -= publish.held_bytes
            publish.fail(_too_late())
        waiting = [publish.deadline for publish in self._gathered]
        if self._batch is not None:
            waiting += [publish.deadline for publish in self._batch.published if publish.answer is not None]
        if waiting and self._alarm is None:
            self._alarm = self._reactor.callLater(max(0.001, min(waiting) - now), self._look_at_deadlines)


def _too_late() -> Unavailable:
    return Unavailable("the embedded store could not begin to write this by the deadline")
