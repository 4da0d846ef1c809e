"""Describes the situation of a group, for its verdict: from its watch, its membership, its breaker and its quota."""

from __future__ import annotations

from collections.abc import Callable

from kateway.core.breaker import Breakers
from kateway.core.groups.dispatch import OwnedPartition
from kateway.core.groups.membership import Membership
from kateway.observe.bundles import Labels
from kateway.observe.group_watch import GroupWatch, GroupWatches
from kateway.observe.history import MINUTES, History
from kateway.observe.verdicts import RISING_MINUTES, Poison, Situation, Verdict, verdict

UNREAD_SECONDS = 10.0
"""A group whose clients poll is read, though none may be there at a moment."""
NOTABLE_RISE = 1.001
"""What is less may be the coarseness of what is kept."""
OF_NO_LOOK = frozenset({"abandoned", "poisoned", "store"})
PERHAPS_READ = Verdict("unknown", "the store has its place, and it was not read here since the gateway's start")
NOT_WATCHED = Verdict("unknown", "no look at it was taken yet")


class Situations:
    """Of the groups that are watched. ``alone``: whether no other gateway may have readers; ``throttled`` gives how
    often an application was refused within the last minute.
    """

    def __init__(
        self,
        watches: GroupWatches,
        history: History,
        breakers: Breakers,
        throttled: Callable[[str], float],
        alone: Callable[[], bool],
        seconds: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self.watches = watches
        self._history = history
        self._breakers = breakers
        self._throttled = throttled
        self._alone = alone
        self._seconds = seconds
        self._wall = wall

    def watch(self, labels: Labels) -> GroupWatch | None:
        """Returns what is known of a group lately."""
        return self.watches.by_labels.get(labels)

    def of(
        self, labels: Labels, member: Membership | None, cluster: str, lag: int | None = None
    ) -> tuple[Situation | None, bool]:
        """Returns how a group is, as far as this process knows, and whether a look at it was taken, which may not tell;
        ``member`` is this process's membership, ``lag`` what it is known to be behind.
        """
        watch = self.watch(labels)
        if watch is not None and member is None and watch.found_in == "shared store":
            return None, True
        if watch is not None:
            return self.situation(labels, watch, member, cluster, lag), True
        if member is None:
            return None, False
        return self.situation(labels, GroupWatch(member.since), member, cluster, lag), False

    def situation(
        self, labels: Labels, watch: GroupWatch, member: Membership | None, cluster: str, lag: int | None
    ) -> Situation:
        """Gathers what is known of a group now."""
        unacknowledged = busy = None
        last_error = None
        if member is None:
            lag = watch.lag if lag is None else lag
        else:
            if lag is None and (found := member.lag(int(self._wall() * 1000))) is not None:
                lag = found[0]
            unacknowledged = sum(count for count, _ in member.unacknowledged().values())
            busy = self._busy(watch, member, unacknowledged)
            last_error = None if member.last_error is None else member.last_error.detail
        readers = self._readers(watch, member)
        return Situation(
            lag,
            readers,
            self._unread_seconds(watch, member),
            unacknowledged,
            watch.delivered,
            None if member is None else poison(member),
            self._throttled(labels[4]),
            watch.commit_failures,
            self._breakers[cluster].state == "open",
            last_error,
            watch.blocked_share,
            watch.ended,
            watch.expired,
            busy,
            # only of a group that is behind is it told, and it is a third of the work
            self._rising_minutes(labels) if lag and readers != 0 else None,
            watch.drain_seconds(self._seconds(), lag),
            watch.growth(self._seconds(), lag),
        )

    def _readers(self, watch: GroupWatch, member: Membership | None) -> int | None:
        here = 0 if member is None else len(member.readers)
        if here:
            return here
        unread = self._unread_seconds(watch, member)
        if unread is None or (member is not None and unread < UNREAD_SECONDS):
            return 1
        return 0 if self._alone() else None

    def _unread_seconds(self, watch: GroupWatch, member: Membership | None) -> float | None:
        if member is None:
            return watch.unread_seconds(self._seconds())
        return None if member.unread_since is None else self._seconds() - member.unread_since

    def _busy(self, watch: GroupWatch, member: Membership, unacknowledged: int) -> bool:
        """Whether no reader waits for records. Between two polls a client works on what it was given."""
        if not member.readers:
            unread = self._unread_seconds(watch, member)
            return bool(watch.delivered) and unread is not None and unread < UNREAD_SECONDS
        return all(not reader.hungry or unacknowledged for reader in member.readers)

    def _rising_minutes(self, labels: Labels) -> int | None:
        """For how many minutes running the age has risen, or the lag where no age is known."""
        rings = self._history.find("group", labels)
        if rings is None:
            return None
        for series in ("oldest_seconds", "lag"):
            minutes = rings.points(series, MINUTES, self._wall(), (RISING_MINUTES + 2) * 60).figures
            rising = rises(minutes)
            if rising is not None:
                return rising
        return None


def judged(situation: Situation | None, looked: bool) -> Verdict:
    """Returns how a group does."""
    if situation is None:
        return PERHAPS_READ if looked else NOT_WATCHED
    found = verdict(situation)
    # what needs no look is told before the first one
    return found if looked or found.state in OF_NO_LOOK else NOT_WATCHED


def rises(minutes: list[float | None]) -> int | None:
    """How often running, up to the last, a figure is more than the one before; ``None`` where the last two are not
    known.
    """
    if minutes[-1] is None or minutes[-2] is None:
        return None
    count = 0
    for before, after in zip(minutes[-2::-1], minutes[::-1], strict=False):
        if before is None or after is None or after <= before * NOTABLE_RISE:
            break
        count += 1
    return count


def poison(member: Membership) -> Poison | None:
    """Returns the record at the committed edge that was delivered most often, of all partitions."""
    found = [edge for edge in map(_edge, member.dispatch.all) if edge is not None]
    return max(found, key=lambda edge: edge.attempts, default=None)


def _edge(owned: OwnedPartition) -> Poison | None:
    """The first record of a partition that is not done, with its deliveries."""
    ledger = owned.delivery
    for offset, lease in ledger.leases.items.items():
        at_edge = ledger.floor is None or lease.start <= ledger.floor
        return Poison(owned.partition, offset, lease.attempts) if at_edge else None
    for batch in ledger.in_flight:
        if batch.attempts:
            return Poison(owned.partition, batch.first, batch.attempts[0])
    return None
