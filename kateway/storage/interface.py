"""The contract of a store: ``core`` is written against it, and every driver's tests run it.

A store is one cluster. Offsets are *next to read* wherever they name a position; a committed offset of 7 means that
records 0 to 6 are done with. All methods run on the reactor's thread; ``async`` ones may be cancelled at any time,
which abandons the answer and, unless said otherwise, changes nothing in the store.

Errors are those of ``kateway.errors``; a driver translates its vendor's at its border, with ``raise … from``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from twisted.internet.defer import Deferred

from kateway.errors import KatewayError, TooLarge
from kateway.model import Committed, HandedOff, Health, Message, Receipt, Record, TopicInfo
from kateway.storage.passed_member import PassedMember

Outcome = Receipt | HandedOff | KatewayError
"""Of one message: where it was written, that it is kept to be written later (a store itself never says that), or an
error (``retriable`` and ``maybe_written`` say whether to repeat).
"""

At = Literal["earliest", "latest"] | int
"""A place in every partition of a topic: its ends, or the first record at or after so many ms since the epoch."""

Reset = Literal["earliest", "latest"]
"""Where a group starts in a partition that it has no committed offset for."""


class MetadataRefused(TooLarge):
    """A commit was stored, but for some partitions, whose metadata the store finds too long."""

    def __init__(self, detail: str, partitions: frozenset[int]) -> None:
        super().__init__(detail)
        self.partitions = partitions


RECORD_OVERHEAD_BYTES = 300
"""A message on its way costs so many bytes of memory beside its key, value and headers: stores count them, or a million
messages of one byte each would be a megabyte.
"""

FOR_EVER = -1
"""A retention: records are never removed because of their age."""


class Fetched(NamedTuple):
    """The result of a group-less read."""

    records: list[Record]
    next_offset: int
    """Where to read on; beyond the last record's offset + 1 where invisible records were skipped."""
    end: int
    """The offset that the partition's next visible record will have."""


class Store(Protocol):
    """One cluster."""

    async def start(self) -> None:
        """Opens the store. A server that cannot be reached is not an error: ``health`` says so and the driver keeps
        trying. A fault that only a person can mend (bad settings, a locked data directory) raises.
        """

    async def stop(self, grace_seconds: float) -> None:
        """Lets publishes under way finish for at most ``grace_seconds``, closes subscriptions, frees everything."""

    def health(self) -> Health:
        """Returns the present health. True to within five seconds: drivers look by themselves."""

    def bytes_in_flight(self) -> int:
        """Returns how many bytes of records are on their way, as ``Overloaded`` counts them."""

    def partitions(self, topic: str) -> int | None:
        """The topic's partition count as last known, without asking: ``None`` where nothing is known of it."""

    async def topics(self) -> Mapping[str, TopicInfo]:
        """All topics that are not the store's own business. Never creates one."""

    async def topic(self, topic: str) -> TopicInfo:
        """One topic, asked for where it is not known; ``TopicNotFound`` after fresh looks. Never creates it."""

    async def create_topic(
        self, topic: str, *, partitions: int, replicas: int = 1, retention_ms: int | None = None
    ) -> TopicInfo:
        """Makes a topic and answers when it can be published to. ``Conflict`` where it exists,
        ``InvalidTopic`` where the store does not allow it. ``retention_ms``: for how long records are kept at least;
        ``FOR_EVER``, or ``None`` for the store's own setting.
        """

    async def add_partitions(self, topic: str, total: int) -> TopicInfo:
        """Grows a topic to ``total`` partitions; the same number is fine, fewer is ``Conflict``."""

    async def set_retention(self, topic: str, retention_ms: int) -> None:
        """Keeps records for so long from now on, those that are there included; ``FOR_EVER`` is allowed."""

    async def delete_topic(self, topic: str) -> None:
        """Deletes a topic and its records; ``TopicNotFound`` where there is none."""

    def publish(self, topic: str, messages: Sequence[Message], acks: int, deadline: float) -> Deferred[list[Outcome]]:
        """Writes messages; answers one outcome for each, in their order, and never fails as a whole.

        ``acks``: 0 none (receipts without offset), 1 leader, -1 all in-sync replicas. ``deadline`` is on the
        reactor's clock (``reactor.seconds()``): a message never sent by then is ``Unavailable``, one that was sent and
        not answered is ``OutcomeUnknown``. A batch's messages may land in several partitions; one that fails does
        not touch the others. Messages of one call for one partition are written in order. Cancelling the Deferred
        does nothing: a publish that was handed over has an outcome in any case. A plain Deferred, not a
        coroutine, because one is made for every request of the hot path.

        A topic that the store does not have is ``TopicNotFound`` for each message, after fresh looks.
        ``Overloaded`` where the store's bounded bytes in flight are used up.
        """

    def undecided(self, topic: str, partition: int) -> bool:
        """Whether a publish to the partition that was answered ``OutcomeUnknown`` may still be written."""

    def fail_unsent(self) -> None:
        """Fails the publishes that wait and were never sent, with ``Unavailable``: nothing can be written just now, and
        their callers are to hear so before their deadlines. Those that were sent keep their chance.
        """

    async def offsets(self, topic: str, at: At) -> Mapping[int, int]:
        """For each partition the offset of ``at``; for a timestamp later than every record, the end."""

    async def committed(self, group: str, topic: str) -> Mapping[int, Committed | None]:
        """Returns the group's committed offset in each partition of the topic; ``None`` where there is none."""

    async def reading_groups(self, topic: str) -> frozenset[str]:
        """Returns the groups that have a member which reads the topic, in any process. ``Unavailable`` where not all
        can be known.
        """

    async def reset(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Moves a group by hand. ``GroupBusy`` while it has members."""

    async def read(self, topic: str, partition: int, offset: int, *, max_bytes: int, wait_seconds: float) -> Fetched:
        """Reads records from ``offset`` on, at least one where there is one, else at most ``max_bytes`` of them.

        At the end of the partition it waits for up to ``wait_seconds`` and may answer none.
        ``OffsetOutOfRange`` before the earliest and beyond the log's end (hidden records lie before it),
        ``PartitionNotFound``, ``TopicNotFound``.
        """

    def subscribe(self, group: str, topic: str, listener: Listener, reset: Reset) -> Subscription:
        """Makes this process a member of ``group`` for ``topic`` and returns at once; the listener hears the rest.
        Never waits for another group's join. ``Draining`` where the store is stopped, ``GroupBusy`` where it has
        one subscription of a group and topic at a time (the embedded store) and that is not closed yet.
        """


class Listener(Protocol):
    """Notified of a subscription's events. Called on the reactor's thread, never from inside a call to it."""

    def assigned(self, partitions: Mapping[int, Committed | None]) -> None:
        """These partitions are ours (in addition to those that are); each starts at its committed offset, else by
        the reset rule. Comes before any ``readable`` of them. Empty where a rebalance brought none.
        """

    def revoked(self, partitions: frozenset[int]) -> Deferred[None] | None:
        """These partitions are about to go. A Deferred holds the hand-over up until it fires, for a bounded grace;
        ``commit`` still works for them meanwhile. Nothing can be taken from them any more.
        """

    def lost(self, partitions: frozenset[int]) -> None:
        """These partitions are gone already (the session expired): they must not be committed."""

    def readable(self, partition: int) -> None:
        """``take`` will give something. Level-triggered: repeated after a ``take`` that left something."""

    def failed(self, error: KatewayError) -> None:
        """The subscription cannot go on as it is. ``retriable``: the driver keeps trying by itself and this is
        news; otherwise (denied, no such topic) it is over and holds no partition.
        """


class Subscription(Protocol):
    """A membership in a group for one topic."""

    def take(self, partition: int, max_records: int, max_bytes: int) -> list[Record]:
        """The next records of a partition that are at hand: at least one if any is at hand, else at most
        ``max_records`` of them and about ``max_bytes`` of keys and values. Moves ``position``. Never waits.
        Prefetch is bounded, and stops while nothing is taken.
        """

    def position(self, partition: int) -> int | None:
        """The next offset that ``take`` will look at: past the records taken *and* past invisible records right
        behind them (control records, compacted holes). ``None`` where the partition is not ours or not yet known.
        """

    def commit(self, offsets: Mapping[int, Committed]) -> Deferred[None]:
        """Commits. Fails with ``Conflict`` if a partition is not ours any more, else with the store's own error.
        Calls under way at once are merged: the newest of a partition wins. Cancelling abandons the answer.
        ``MetadataRefused``: all but the partitions that it names is committed.
        """

    def seek(self, partition: int, offset: int) -> None:
        """``take`` goes on from ``offset``; prefetched records go. Out of range: the reset rule applies."""

    def pause(self, partition: int) -> None:
        """Pauses a partition: its prefetched records go, and no more are fetched. The next ``take`` gives
        nothing, and ends this: the records there then are prefetched and announced as new.
        """

    def lag(self, partition: int) -> int | None:
        """Records between position and end as last heard; ``None`` where not yet known."""

    def close(self, *, returning: bool = False) -> Deferred[None]:
        """Leaves the group (``revoked`` is heard first) and frees everything. Bounded in time. ``returning``: the
        process ends and may be back soon; where it has a name in the group, its place is kept.
        """


# --- groups that several gateways read -----------------------------------------------------------------------------


class GroupMember(NamedTuple):
    """A member of a group, as its coordinator tells of it."""

    client_id: str
    """As the member called itself when it joined."""
    topics: frozenset[str]
    """That it reads; empty where the coordinator does not say."""
    assigned: Mapping[str, Sequence[int]]
    """Its partitions, by their topics."""
    settled: bool = True
    """Whether all members of its group have the partitions that they are to have. Else some give up partitions that
    the coordinator names under no member any more, or are yet to get them.
    """


class GroupMembers(Protocol):
    """A store whose groups may have members elsewhere."""

    async def members(self, group: str) -> Sequence[GroupMember] | None:
        """All members of a group; ``None`` while it rebalances. ``Unavailable``."""


class OwnMember(NamedTuple):
    """A member of a group that a process of this gateway is."""

    group: str
    member: str
    """Its id at the coordinator."""
    by_consumer_protocol: bool


class OwnMembers(Protocol):
    """A store whose groups keep the members of a process that has died, for as long as a session lasts."""

    def own_members(self) -> Sequence[OwnMember]:
        """This process's members; not those whose name keeps their place."""

    async def leave_for(self, member: OwnMember) -> None:
        """Leaves a group on behalf of a process that has died. ``KatewayError`` where that fails."""


class PassedMembers(Protocol):
    """A store whose members another process can go on as (``PassedSubscription``)."""

    def go_on(self, passed: PassedMember, listener: Listener) -> Subscription | None:
        """Goes on as a member that the process before this one was, without a join; the listener hears the rest.
        ``None`` where it cannot be: the member is still to be left. ``Draining``.
        """


class PassedSubscription(Protocol):
    """A subscription whose member can be passed on."""

    def pass_on(self, *, returning: bool = False) -> Deferred[PassedMember | None]:
        """Closes as ``close`` does, but for leaving the group. ``None`` where the member cannot be passed on, as while
        the group rebalances: then the group was left.
        """


class CommittedGroups(Protocol):
    """A store that can name the groups which it keeps places for."""

    async def committed_groups(self, wanted: Callable[[str], bool]) -> Mapping[str, frozenset[str]]:
        """Returns the topics that each group that is ``wanted`` has committed a place in. ``Unavailable`` where not all
        can be known.
        """


# --- writing later -------------------------------------------------------------------------------------------------


class Numbering(NamedTuple):
    """An id under which a store knows batches by their sequence: one that comes again is not written again."""

    producer_id: int
    epoch: int


class Attempt(NamedTuple):
    """The outcome of sending a prepared batch once."""

    verdict: Literal["written", "again", "unclear", "split", "refused", "renumber"]
    """``again``: the same bytes may go once more, whatever became of this attempt. ``unclear``: so too, but the store
    answered, and its answer says nothing. ``split``: not written by this attempt, for one of its records or for its
    size. ``refused``: not written by this attempt, and not to be. ``renumber``: the store does not take this number
    (any more).
    """
    error: KatewayError | None = None


class PreparedWrites(Protocol):
    """A store that writes batches which were encoded and numbered beforehand, so that a crash between sending and
    knowing does not write them twice.
    """

    max_batch_bytes: int
    """Of the encoded messages in one batch."""

    def known_topics(self) -> Mapping[str, int]:
        """Returns the topics that the store is known to have, with their partition counts, without asking."""

    def partition_for(self, key: bytes | None, partitions: int) -> int:
        """Chooses a message's partition as ``publish`` does."""

    def encoded_size(self, message: Message) -> int:
        """Returns about how many bytes a message takes in a batch, never less."""

    def encode(self, messages: Sequence[Message], numbering: Numbering, sequence: int) -> bytes:
        """Encodes a batch; the next one of this partition has ``sequence`` + the number of messages."""

    async def numbering(self) -> Numbering:
        """Asks for a numbering of its own. ``Unavailable``."""

    async def write(self, topic: str, partition: int, batch: bytes) -> Attempt:
        """Sends a prepared batch once, to be written by all in-sync replicas. Cancelling abandons the answer."""


class RefusedRecord(NamedTuple):
    """A kept record that could not be written, as an operator reads of it."""

    id: int
    topic: str
    partition: int | None
    key: bytes | None
    value_bytes: int
    taken_ms: int
    refused_ms: int
    reason: str


class Handoff(Protocol):
    """Keeps messages of one cluster on disk while it does not take them, and writes them in order when it does."""

    def holds(self, topic: str) -> bool:
        """Whether messages of the topic are kept, so that newer ones must go behind them. Hot: a look, no question."""

    def take(
        self, topic: str, messages: Sequence[Message], deadline: float, otherwise: KatewayError
    ) -> Deferred[list[Outcome]]:
        """Keeps messages; ``HandedOff`` for each when all are on disk. ``otherwise`` where the topic was never seen;
        ``StorageFull`` where there is no room or the disk fails. Cancelling does nothing.
        """

    def status(self) -> dict[str, Any]:
        """Returns the counts, ready for JSON."""

    async def list_refused(self, after: int, limit: int) -> list[RefusedRecord]:
        """Returns refused records behind number ``after``, oldest refusal first."""

    async def retry_refused(self) -> int:
        """Writes the refused records again, behind those that are kept. Returns how many."""

    async def delete_refused(self) -> int:
        """Deletes the refused records. Returns how many."""


Admission = Literal["write", "probe"]
"""A round of writes begins as any, or as the one that tries a cluster which is just back."""


class Gate(Protocol):
    """Whether kept messages may be written now: the cluster's breaker, as the handoff sees it."""

    def admit(self) -> Admission | None:
        """Whether a round of writes may begin; each one admitted must be ended."""

    def ended(self, admitted: Admission, outcomes: Sequence[Outcome], began: float) -> None:
        """Takes the round's outcomes; none: it was given up before anything was sent."""
