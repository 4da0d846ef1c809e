"""Describes groups: those that this process reads from its own state, any one with its store's figures.

A figure that is not known is ``None``, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from kateway.core.gateway import Gateway
from kateway.core.groups.dispatch import OwnedPartition
from kateway.core.groups.membership import Membership
from kateway.core.groups.reader import Reader
from kateway.core.operator.naming import GroupPlace
from kateway.errors import KatewayError
from kateway.gathering import gathered
from kateway.storage.interface import Store, Subscription

MOST_LOOKS = 100
"""Partitions in which the oldest record of one group is looked for."""


class PartitionState(NamedTuple):
    """One partition of a group."""

    partition: int
    end: int | None
    committed: int | None
    lag: int | None
    leased: int | None
    """Records that readers of this gateway have and have not acknowledged; ``None`` where it is not read here."""
    oldest_seconds: float | None
    """The age of the first record that is not committed; ``None`` also where there is none."""
    oldest_leased_seconds: float | None
    """For how long readers have had the oldest of their records."""


class ReaderState(NamedTuple):
    """One reader of this gateway."""

    caller: str
    address: str
    mode: str
    kind: str
    """``poll`` that ends soon, or ``stream``."""
    seconds: float
    waiting: bool
    """It has taken all that there was."""
    blocked: bool
    """Its client's window is closed."""
    blocked_share: float | None
    """Of its time, how much its client had no room in; ``None`` where that is not counted."""
    partitions: tuple[int, ...]
    unsettled: int | None
    """Records on their way to its client; ``None`` where it leases records."""


class GroupState(NamedTuple):
    """A group, as far as it is known here."""

    partitions: Sequence[PartitionState]
    readers: Sequence[ReaderState]
    rebalancing: bool
    last_error: str | None
    complete: bool
    """Whether ``partitions`` are all that the topic has."""

    @property
    def lag(self) -> int | None:
        """Records that are not committed; ``None`` unless it is known of every partition."""
        if not self.complete or any(each.lag is None for each in self.partitions):
            return None
        return sum(each.lag or 0 for each in self.partitions)

    @property
    def unacknowledged(self) -> int:
        """Records with readers of this gateway."""
        return sum(each.leased or 0 for each in self.partitions)

    @property
    def oldest_seconds(self) -> float | None:
        """The age of the oldest record that is not committed."""
        ages = [each.oldest_seconds for each in self.partitions if each.lag != 0]
        return None if not ages or None in ages or not self.complete else max(age for age in ages if age is not None)

    @property
    def oldest_unacknowledged_seconds(self) -> float | None:
        """For how long readers have had the oldest of their records; ``None`` where they have none."""
        return max((each.oldest_leased_seconds or 0.0 for each in self.partitions if each.leased), default=None)


NOT_READ = GroupState([], [], False, None, False)
"""Of a group that is not read here, without its store's figures."""


def live_state(member: Membership, store: Store, topic: str) -> GroupState:
    """Describes a membership of this process without asking its store."""
    now = member.now()
    partitions = [_known(owned, member.dispatch.subscription, now) for owned in member.dispatch.all]
    total = store.partitions(topic)
    return GroupState(
        partitions,
        [_reader(member, reader, now) for reader in member.readers],
        bool(member.rebalancing),
        None if member.last_error is None else member.last_error.detail,
        total is not None and len(partitions) == total,
    )


async def full_state(
    gateway: Gateway, group: GroupPlace, member: Membership | None, clock: IReactorTime, now_ms: int
) -> GroupState:
    """Describes a group with its store's figures; ``member`` is this process's membership."""
    place = group.place
    lags = await gateway.lag(place, group.group)
    live = None if member is None else live_state(member, place.store, place.topic)
    here = {} if live is None else {each.partition: each for each in live.partitions}
    behind = [(lag.partition, lag.end - lag.lag) for lag in lags if lag.lag]
    ages = await _ages(place.store, place.topic, behind[:MOST_LOOKS], now_ms)
    partitions = [
        PartitionState(
            lag.partition,
            lag.end,
            lag.committed,
            lag.lag,
            here[lag.partition].leased if lag.partition in here else None,
            ages.get(lag.partition),
            here[lag.partition].oldest_leased_seconds if lag.partition in here else None,
        )
        for lag in lags
    ]
    if live is None:
        return GroupState(partitions, [], False, None, True)
    return live._replace(partitions=partitions, complete=True)


def _known(owned: OwnedPartition, subscription: Subscription | None, now: float) -> PartitionState:
    ledger = owned.delivery
    position = to_come = None
    if subscription is not None:
        position, to_come = subscription.position(owned.partition), subscription.lag(owned.partition)
    end = None if position is None or to_come is None else position + to_come
    committed = None if ledger.committed is None else ledger.committed.offset
    # a group that has committed nothing is behind from where it started
    done = next((place for place in (committed, ledger.origin, position) if place is not None), None)
    leased, oldest = ledger.unacknowledged(now)
    return PartitionState(
        owned.partition,
        end,
        committed,
        None if end is None or done is None else max(end - done, 0),
        leased,
        None,
        round(oldest, 1) if leased else None,
    )


def _reader(member: Membership, reader: Reader, now: float) -> ReaderState:
    auto = reader.mode == "auto"
    owned = member.dispatch.portions[reader].owned_partitions if auto else member.dispatch.all
    return ReaderState(
        *reader.client,
        reader.mode,
        "poll" if reader.short else "stream",
        round(now - reader.since, 1),
        reader.hungry,
        reader.blocked,
        None if reader.blocked_seconds is None else _share(reader.blocked_seconds, now - reader.since),
        tuple(sorted(each.partition for each in owned)),
        reader.unsettled_records if auto else None,
    )


def _share(part: float, whole: float) -> float:
    return round(min(part / whole, 1.0), 3) if whole > 0 else 0.0


async def _ages(store: Store, topic: str, places: Sequence[tuple[int, int]], now_ms: int) -> dict[int, float]:
    """The age of the first record at or behind each place, where there is one."""

    async def age(partition: int, offset: int) -> tuple[int, float | None]:
        try:
            records = (await store.read(topic, partition, offset, max_bytes=1, wait_seconds=0)).records
        except KatewayError:  # retention took it meanwhile, or its broker is away
            return partition, None
        return partition, round(max(now_ms - records[0].timestamp, 0) / 1000, 1) if records else None

    asked = [Deferred.fromCoroutine(age(*place)) for place in places]
    found = await gathered(asked)
    return {partition: seconds for partition, seconds in found if seconds is not None}
