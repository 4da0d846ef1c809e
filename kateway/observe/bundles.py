"""The cells of one object: a topic's publishes, a group's reading, a cluster."""

from __future__ import annotations

from typing import ClassVar, Protocol

from kateway.observe import families
from kateway.observe.cells import Counter, Histogram
from kateway.observe.families import Family

OTHER = "(other)"
MOST_PRODUCERS = 200
"""Keys of a topic that are counted one by one; those beyond are counted together."""
GROUP_GAUGES = 6
"""Lines of a group beside its counters; they are counted in advance."""

Labels = tuple[str, ...]


class Rows(Protocol):
    """The label sets among which an object's are."""

    def put(self, family: Family, labels: Labels) -> Counter:
        """Returns a counter of a bundle; its room is the bundle's affair."""

    def has_room(self, family: Family) -> bool:
        """Whether one label set more of a bundle has room; else it is counted as overflow."""

    def other_topic(self) -> TopicCells:
        """Returns the cells of publishes that belong to no topic that is known."""

    def counter(self, family: Family, labels: Labels = ()) -> Counter:
        """Returns a counter by itself."""

    def histogram(self, family: Family, labels: Labels = ()) -> Histogram:
        """Returns a histogram by itself."""


class Bundle:
    """The counters of one object."""

    __slots__ = ("_rows", "changed_at", "labels", "lines", "live", "names", "seen")

    def __init__(self, rows: Rows, labels: Labels, now: float) -> None:
        self._rows = rows
        self.labels = labels
        self.names: list[tuple[Family, Labels]] = []
        self.live = True
        """Not forgotten: what keeps it asks before it counts in it."""
        self.lines = 0
        self.changed_at = now
        """When a look last found it changed."""
        self.seen = 0.0

    def _counter(self, family: Family, *more: str) -> Counter:
        labels = (*self.labels, *more)
        self.names.append((family, labels))
        self.lines += 1
        return self._rows.put(family, labels)

    @property
    def other(self) -> bool:
        """Whether it stands for those that had no room."""
        return self.labels[0] == OTHER


class Producer(Counter):
    """Records that one key publishes to one topic, and what the last looks at it found."""

    __slots__ = ("_at", "_seen", "rate", "used_at")

    def __init__(self) -> None:
        super().__init__()
        self._seen = 0.0
        self._at: float | None = None
        self.rate: float | None = None
        """Records a second between the last two looks; ``None`` before."""
        self.used_at: float | None = None
        """When a look last found more, in seconds since the epoch."""

    def look(self, at: float, wall: float) -> None:
        """Looks how much came since the last look; ``at`` is a clock that never goes back."""
        grown = self.value - self._seen
        if self._at is not None:
            self.rate = grown / max(at - self._at, 0.001)
        if grown:
            self.used_at = wall
        self._at, self._seen = at, self.value


class TopicCells(Bundle):
    """What is published to one topic."""

    __slots__ = ("_errors", "bytes", "producers", "records")
    FAMILIES: ClassVar = (families.PUBLISH_RECORDS, families.PUBLISH_BYTES, families.PUBLISH_ERRORS)

    def __init__(self, rows: Rows, labels: Labels, now: float) -> None:
        super().__init__(rows, labels, now)
        self.records = self._counter(families.PUBLISH_RECORDS)
        self.bytes = self._counter(families.PUBLISH_BYTES)
        self._errors: dict[str, Counter] = {}
        self.producers: dict[tuple[str, str], Producer] = {}
        """By application and key."""

    def producer(self, application: str, key: str) -> Producer:
        """Returns where is counted what a key publishes."""
        found = self.producers.get((application, key))
        if found is None:
            if len(self.producers) >= MOST_PRODUCERS:
                application = key = OTHER
            found = self.producers.setdefault((application, key), Producer())
        return found

    def error(self, reason: str) -> Counter:
        """Returns the counter of records that were not taken for one reason."""
        found = self._errors.get(reason)
        if found is None:
            if not self.other and not self._rows.has_room(families.PUBLISH_ERRORS):
                return self._rows.other_topic().error(reason)
            found = self._errors[reason] = self._counter(families.PUBLISH_ERRORS, reason)
        return found

    @property
    def failed(self) -> float:
        """How many records were not taken, for whatever reason."""
        return sum(counter.value for counter in self._errors.values())


class GroupCells(Bundle):
    """What one group reads of one topic."""

    __slots__ = (
        "blocked", "bytes", "commit_failures", "dead", "expired", "leases_not_moved", "ok", "rebalances", "records",
        "redelivered", "retry",
    )  # fmt: skip
    FAMILIES: ClassVar = (
        families.SUBSCRIBE_RECORDS,
        families.SUBSCRIBE_BYTES,
        families.SUBSCRIBE_ACKNOWLEDGED,
        families.SUBSCRIBE_REDELIVERED,
        families.SUBSCRIBE_BLOCKED,
        families.GROUP_COMMIT_FAILURES,
        families.GROUP_LEASES_NOT_MOVED,
        families.GROUP_REBALANCES,
    )

    def __init__(self, rows: Rows, labels: Labels, now: float) -> None:
        super().__init__(rows, labels, now)
        self.records = self._counter(families.SUBSCRIBE_RECORDS)
        self.bytes = self._counter(families.SUBSCRIBE_BYTES)
        self.ok = self._counter(families.SUBSCRIBE_ACKNOWLEDGED, "ok")
        self.retry = self._counter(families.SUBSCRIBE_ACKNOWLEDGED, "retry")
        self.dead = self._counter(families.SUBSCRIBE_ACKNOWLEDGED, "dead")
        self.expired = self._counter(families.SUBSCRIBE_ACKNOWLEDGED, "expired")
        self.redelivered = self._counter(families.SUBSCRIBE_REDELIVERED)
        self.blocked = self._counter(families.SUBSCRIBE_BLOCKED)
        self.commit_failures = self._counter(families.GROUP_COMMIT_FAILURES)
        self.leases_not_moved = self._counter(families.GROUP_LEASES_NOT_MOVED)
        self.rebalances = self._counter(families.GROUP_REBALANCES)
        self.lines += GROUP_GAUGES


class ClusterCells:
    """What is published to, and read from, one cluster."""

    __slots__ = ("age", "batch", "duplicates", "handoff", "maybe_written", "settle")

    def __init__(self, rows: Rows, cluster: str) -> None:
        labels = (cluster,)
        self.maybe_written = rows.counter(families.PUBLISH_MAYBE_WRITTEN, labels)
        self.handoff = rows.counter(families.PUBLISH_HANDOFF, labels)
        self.duplicates = rows.counter(families.PUBLISH_DUPLICATES, labels)
        self.batch = rows.histogram(families.PUBLISH_BATCH, labels)
        self.age = rows.histogram(families.SUBSCRIBE_AGE, labels)
        self.settle = rows.histogram(families.SUBSCRIBE_SETTLE, labels)


_NOWHERE = Producer()


class Counted:
    """The cells that a permission's traffic is counted in, kept with it once they were found."""

    __slots__ = ("cluster", "producer", "topic")

    def __init__(self) -> None:
        self.topic: TopicCells | None = None
        self.producer = _NOWHERE
        """Of the topic, once it was found."""
        self.cluster: ClusterCells | None = None
