"""Redrives dead letters: publishes them to the topic that they came from, then acknowledges them in their queue. Or
discards them: acknowledges them, and publishes nothing.

In this order, so that none is lost: a gateway that dies between the two leaves a letter in both places. It reads the
queue as one more reader with ``ack=explicit``, so that clients may go on reading it, and it gives back whatever it
does not redrive. To discard all of a queue that nobody reads its group is moved to the end, without a look at them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.core.access.control import Place
from kateway.core.delivery.batch import Ack, Client
from kateway.core.delivery.confirmation import Span, Watcher
from kateway.core.gateway import Gateway, Publish
from kateway.core.groups.dead_letters import HEADER_PREFIX, dead_letter_topic
from kateway.core.groups.memberships import Memberships
from kateway.core.groups.reader import Reader
from kateway.core.groups.wanted import Wanted
from kateway.core.operator.naming import GroupPlace
from kateway.errors import Conflict, Denied, KatewayError, TopicNotFound, Unavailable
from kateway.model import Message, Record
from kateway.storage.interface import Outcome

MOST_AT_ONCE = 100
"""Letters in one publish."""
BATCH_BYTES = 1 << 20
PUBLISH_SECONDS = 10.0
RETRIES = 3
STALL_SECONDS = 10.0
"""How long it waits for letters that ought to come: the group is being joined, or the store is slow."""
LEASE_SECONDS = 3600.0
"""It gives its leases back itself; they end with the process."""
MOST_FAILURES = 20
"""Failures that are told one by one."""

_log = Logger()

State = Literal["running", "done", "failed", "stopped"]


class Letter(NamedTuple):
    """A place in the dead-letter queue."""

    partition: int
    offset: int


class LetterFailure(NamedTuple):
    """A letter that the topic did not take; it stays in the queue."""

    letter: Letter
    reason: str


class NoClient:
    """Stands for the connection of a reader that has no client: all that it takes is leased."""

    def confirmed(self) -> int | None:
        return None

    def stalled(self) -> bool:
        return False

    def watch(self, watcher: Watcher) -> None:
        """Nothing happens on it."""

    def unwatch(self, watcher: Watcher) -> None:
        """Nothing happened."""


class Redrive:
    """One redrive, or discard, of a group's dead letters: of some, or of all that are there when it begins."""

    def __init__(
        self,
        gateway: Gateway,
        groups: Memberships,
        clock: IReactorTime,
        now_ms: Callable[[], int],
        group: GroupPlace,
        application: str,
        *,
        letters: Collection[Letter] | None,
        per_second: float | None,
        discards: bool = False,
        count: Callable[[Sequence[Message], Sequence[Outcome]], None] | None = None,
    ) -> None:
        """``group``: at the topic that the letters came from. ``letters``: ``None`` is all of them."""
        self.discards = discards
        self._count = count
        self.state: State = "running"
        self.error: KatewayError | None = None
        """Why it could not go on."""
        self.done = 0
        """Letters that are published and acknowledged, or discarded."""
        self.failed = 0
        self.failures: list[LetterFailure] = []
        """The first of those that failed."""
        self.total: int | None = None
        """How many letters were to be done when it began, where all were asked for; those that are leased are among
        them.
        """
        self.asked = None if letters is None else len(letters)
        self.per_second = per_second
        self.began_ms = now_ms()
        self.ended_ms: int | None = None
        self._gateway = gateway
        self._groups = groups
        self._clock = clock
        self._now_ms = now_ms
        self._place = group.place
        self._group = group.group
        self._queue = dead_letter_topic(group.place.topic, group.group)
        self._application = application
        self._wanted = None if letters is None else set(letters)
        self._ends: dict[int, int] = {}
        """Where the queue's partitions ended when it began; letters that die later are not of this redrive."""
        self._unfinished: set[int] = set()
        self._reader: Reader | None = None
        self._began: float | None = None
        """When the first letters were published."""
        self._waiting: Deferred[None] | None = None
        self._stopping = False

    @property
    def missing(self) -> list[Letter]:
        """The letters that were asked for and not met, or not yet."""
        return sorted(self._wanted or ())

    @property
    def left(self) -> int | None:
        """How many of all letters it has not come to, at most: with clients, or with another gateway."""
        return None if self.total is None else max(self.total - self.done - self.failed, 0)

    async def start(self) -> None:
        """Joins the queue's readers, or finds that there is no need to. ``TopicNotFound``: nothing of the group has
        died; ``Conflict`` with clients that read the queue with ``ack=auto``; ``Draining``.
        """
        place = self._place._replace(topic=self._queue)
        # letters that were rejected a moment ago are found
        await self._groups.dead_letters_written(place.cluster, self._group, self._place.topic)
        # and those that were acknowledged a moment ago count no more
        await self._groups.acknowledge(place.cluster, self._group, self._queue, [], sync=True)
        ends = {lag.partition: lag for lag in await self._gateway.lag(place, self._group)}
        self._ends = {partition: lag.end for partition, lag in ends.items()}
        self._unfinished = {partition for partition, lag in ends.items() if lag.lag}
        if self._wanted is not None:
            self._unfinished &= {letter.partition for letter in self._wanted}
        else:
            self.total = sum(lag.lag - lag.acknowledged for lag in ends.values())
        leased = any(lag.unacked for lag in ends.values())
        if self.discards and self._wanted is None and not leased and await self._moved(place):
            return
        wanted = Wanted(
            mode="explicit",
            short=False,
            ack_timeout=LEASE_SECONDS,
            max_deliveries=0,
            partitions=len(ends),
            client=Client("admin"),
        )
        self._reader = self._groups.reader((place.cluster, self._group, place.topic), wanted, NoClient())

    async def _moved(self, place: Place) -> bool:
        """Moves the queue's group behind all letters where nobody reads it: as good for one as for a million."""
        try:
            await self._gateway.reset(place, self._group, self._ends)
        except Conflict:
            # it is read: then each letter is taken and acknowledged, as far as clients have not leased it
            return False
        self.done = self.total or 0
        return True

    async def run(self) -> None:
        """Goes on until everything is done, nothing more comes, or the topic does not take any."""
        reader = self._reader
        if reader is None:
            self.state, self.ended_ms = "done", self._now_ms()
            return
        try:
            reader.on_readable(self._wake)
            reader.on_failed(lambda _error: self._wake())
            await self._redrive(reader)
            # all is committed by now: the end of it can be relied on
            await self._groups.acknowledge(self._place.cluster, self._group, self._queue, [], sync=True)
            self.state = "stopped" if self._stopping else "done"
        except KatewayError as error:
            self.error = error
            self.state = "failed"
        except Exception:
            self.error = KatewayError("the redrive broke; the gateway's log says why")
            self.state = "failed"
            _log.failure("a redrive broke", Failure())
        finally:
            self.ended_ms = self._now_ms()
            reader.finish()

    def stop(self) -> None:
        """Ends it behind the letters that are being written."""
        self._stopping = True
        self._wake()

    async def _redrive(self, reader: Reader) -> None:
        most = MOST_AT_ONCE if self.per_second is None else max(1, min(MOST_AT_ONCE, int(self.per_second)))
        heard = self._clock.seconds()
        while not self._stopping and self._more_to_do():
            batch = reader.take(most, BATCH_BYTES)
            if batch is None:
                left = heard + STALL_SECONDS - self._clock.seconds()
                if not reader.expects(self._ends):
                    return
                if left <= 0:
                    raise reader.last_error or Unavailable(f"more are there, and none came for {STALL_SECONDS:g} s")
                await self._wait(left)
                continue
            chosen = [record for record in batch.records if self._chosen(batch.partition, record)]
            written = await self._settle(batch.partition, chosen) if chosen else 0
            if written == batch.count:
                reader.sent(batch, Span(0, [0] * batch.count, 0))  # nothing of it is left to be given back
            # else it is held to the end: given back at once it would be the next to come
            if batch.stop >= self._ends.get(batch.partition, 0):
                self._unfinished.discard(batch.partition)
            heard = self._clock.seconds()
            await self._pace()

    def _more_to_do(self) -> bool:
        return bool(self._unfinished) and self._wanted != set()

    def _chosen(self, partition: int, record: Record) -> bool:
        if record.offset >= self._ends.get(partition, 0):
            return False
        return self._wanted is None or (partition, record.offset) in self._wanted

    async def _settle(self, partition: int, records: Sequence[Record]) -> int:
        """Publishes letters of one partition unless they are discarded, then acknowledges those that were written;
        returns how many.
        """
        if self._began is None:
            self._began = self._clock.seconds()
        outcomes = [None] * len(records) if self.discards else await self._publish(records)
        acks = []
        stop: KatewayError | None = None
        for record, outcome in zip(records, outcomes, strict=True):
            letter = Letter(partition, record.offset)
            if self._wanted is not None:
                self._wanted.discard(letter)
            if not isinstance(outcome, KatewayError):
                acks.append(Ack(partition, record.offset))
                continue
            self._note_failure(letter, outcome.detail)
            if outcome.retriable or outcome.maybe_written or isinstance(outcome, TopicNotFound | Denied):
                # not for the letter's sake: those behind it would fare no better
                stop = outcome
        answers = await self._groups.acknowledge(self._place.cluster, self._group, self._queue, acks)
        for ack, answer in zip(acks, answers, strict=True):
            if answer is None:
                self.done += 1
                continue
            # its partition went to another gateway meanwhile: it may be redriven again, and is in both places now
            told = "still in the queue" if self.discards else "published, and still in the queue"
            self._note_failure(Letter(partition, ack.offset), f"{told}: {answer.detail}")
        if stop is not None:
            raise stop
        return len(acks)

    def _note_failure(self, letter: Letter, reason: str) -> None:
        self.failed += 1
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(LetterFailure(letter, reason))

    async def _publish(self, records: Sequence[Record]) -> Sequence[Outcome]:
        """Publishes letters to the topic that they came from."""
        partitions = self._place.store.partitions(self._place.topic)
        if partitions is None:
            partitions = (await self._place.store.topic(self._place.topic)).partitions
        now = self._clock.seconds()
        messages = [revived(record, partitions) for record in records]
        outcomes = await self._gateway.publish(
            Publish(
                self._place,
                messages,
                -1,
                now + PUBLISH_SECONDS,
                RETRIES,
                now,
                # kept on the gateway's disk it would be in neither place
                handoff=False,
                application=self._application,
            )
        )
        if self._count is not None:
            self._count(messages, outcomes)
        return outcomes

    async def _pace(self) -> None:
        if self.per_second is None or self._began is None:
            return
        due = self._began + (self.done + self.failed) / self.per_second
        while not self._stopping and (left := due - self._clock.seconds()) > 0:
            await self._wait(left)

    async def _wait(self, seconds: float) -> None:
        """Waits so long, or until something happens."""
        waiting: Deferred[None] = Deferred()
        self._waiting = waiting
        call = self._clock.callLater(seconds, self._wake)
        try:
            await waiting
        finally:
            self._waiting = None
            if call.active():
                call.cancel()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.called:
            self._waiting.callback(None)


def revived(record: Record, partitions: int) -> Message:
    """Makes a dead letter the message that it was: into its partition, without the headers that its death added."""
    headers = tuple(header for header in record.headers if not header[0].startswith(HEADER_PREFIX))
    came_from = dict(record.headers).get(f"{HEADER_PREFIX}partition") or b""
    partition = int(came_from) if came_from.isdigit() and int(came_from) < partitions else None
    return Message(record.value, record.key, headers, partition)
