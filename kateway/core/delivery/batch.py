"""Records in clients' hands: a batch on its way to a reader, a record tracked by itself, what a client says of one."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from enum import Enum
from itertools import accumulate, takewhile
from math import inf
from typing import Literal, NamedTuple

from kateway.model import Record


class Client(NamedTuple):
    """The client that has a record, for operators: its application and key, its address."""

    caller: str = ""
    address: str = ""


NOT_KNOWN = Client()


class State(Enum):
    READY = "ready"
    LEASED = "leased"
    WAITING = "waiting"
    DYING = "dying"


class Lease:
    """One record tracked by itself. ``attempts``: how often it was handed to a client."""

    __slots__ = (
        "attempts", "holder", "read", "reason", "record", "sent", "since", "size", "start", "state", "token", "until",
    )  # fmt: skip

    def __init__(self, start: int, record: Record, attempts: int, since: float, *, read: bool = True) -> None:
        self.start = start
        """Where its tile starts."""
        self.record = record
        self.read = read
        """False where the last owner left the lease and ``record`` is no more than its offset so far."""
        self.attempts = attempts
        self.since = since
        """When it was first handed to a client."""
        self.size = len(record.value or b"") + len(record.key or b"")
        self.state = State.READY
        self.sent = True
        """Whether the batch of its last lease was written to the client."""
        self.token = ""
        """Of its last lease."""
        self.until = inf
        """When a lease or a delay ends."""
        self.holder = NOT_KNOWN
        """The client of its last lease."""
        self.reason = ""
        """Why it goes to the dead-letter queue."""

    @property
    def unsent(self) -> bool:
        """Whether it is leased for a client that it was not written to yet."""
        return self.state is State.LEASED and not self.sent

    @property
    def deliveries(self) -> int:
        """How often it was written to a client."""
        return self.attempts - self.unsent


class Batch:
    """Records of one partition in a reader's hands: what ``Reader.take`` gives and ``Reader.sent`` takes back.

    Once it is sent it holds no records any more: those that come back are read from the store again.
    """

    __slots__ = (
        "attempts", "begin", "confirmed_at", "count", "end", "first", "items", "leases", "lengths",
        "offsets", "partition", "records", "sent", "since", "start", "stop", "timestamp",
    )  # fmt: skip

    def __init__(
        self, partition: int, start: int, records: list[Record], attempts: list[int] | None, now: float
    ) -> None:
        self.partition = partition
        self.records = records
        self.attempts = attempts
        """Of each record, counted from 1; ``None``: the first of every one."""
        self.leases: list[str] | None = None
        """Of each record, with ``ack=explicit``."""
        self.items: list[Lease] | None = None
        self.since = now
        self.sent = False
        self.start = start
        """Where the first record's tile starts."""
        self.first = records[0].offset
        self.timestamp = records[0].timestamp
        """Of the first record, in milliseconds since the epoch."""
        self.stop = records[-1].offset + 1
        self.count = len(records)
        self.offsets: list[int] | None = None
        """Of each record, where they do not follow each other without a gap."""
        # where it lies in the connection's stream, as confirmation.Span counts; set when it is sent
        self.begin = 0
        self.lengths: Sequence[int] = ()
        self.end = 0
        self.confirmed_at: float | None = None

    def was_sent(self, begin: int, lengths: Sequence[int], end: int) -> None:
        """Notes where it lies in the connection's stream, and drops the records."""
        self.sent = True
        self.begin = begin
        # four bytes each where a list of numbers takes 36
        self.lengths = array("I", lengths)
        self.end = end
        if self.stop - self.first != self.count:
            self.offsets = [record.offset for record in self.records]
        self.records = []
        if self.items is not None and self.leases:
            token = self.leases[0]
            for lease in self.items:
                # one that has waited for longer than its lease may be another client's by now
                if lease.token == token:
                    lease.sent = True

    def whole_records(self, confirmed: int) -> int:
        """How many of the records lie below ``confirmed`` in the connection's stream. Looks at each: only when a
        connection ends. Lengths that are not one for each record (a compressed block) count as a whole.
        """
        if not self.sent:
            return 0
        if confirmed >= self.end:
            return self.count
        if len(self.lengths) != self.count:
            return 0
        ends = accumulate(self.lengths, initial=self.begin)
        next(ends)
        return sum(1 for _ in takewhile(lambda end: end <= confirmed, ends))

    def behind(self, count: int) -> int:
        """The offset behind the first ``count`` records."""
        if self.offsets is not None:
            return self.offsets[count - 1] + 1
        return self.records[count - 1].offset + 1 if self.records else self.first + count

    def up_to(self, offset: int) -> int:
        """How many of the records lie up to and with ``offset``."""
        if offset >= self.stop - 1:
            return self.count
        if self.offsets is not None:
            return bisect_right(self.offsets, offset)
        return max(offset + 1 - self.first, 0)

    def cut(self, count: int) -> None:
        """Forgets the first ``count`` records of a batch that was sent; some are left."""
        self.start = self.behind(count)
        if len(self.lengths) == self.count:
            self.begin += sum(self.lengths[:count])
            self.lengths = self.lengths[count:]
        if self.attempts is not None:
            self.attempts = self.attempts[count:]
        if self.offsets is not None:
            self.offsets = self.offsets[count:]
            self.first = self.offsets[0]
        else:
            self.first += count
        self.count -= count


class Ack(NamedTuple):
    """What a client says of a record (``offset``) or of all up to and with one (``upto``, plain acks only)."""

    partition: int
    offset: int
    upto: bool = False
    outcome: Literal["ack", "retry", "dead"] = "ack"
    delay_seconds: float = 0.0
    lease: str | None = None
