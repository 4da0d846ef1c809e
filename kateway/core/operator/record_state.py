"""Finds the state of one record for one group: in a ledger of this process, else in the store's commits, and among
the group's dead letters.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from math import isfinite
from typing import Any, Literal, NamedTuple

from twisted.internet.interfaces import IReactorTime

from kateway.core.delivery.batch import NOT_KNOWN, Batch, Client
from kateway.core.delivery.batch import State as LeaseState
from kateway.core.delivery.offset_ranges import Ranges
from kateway.core.gateway import Gateway
from kateway.core.groups.dead_letters import HEADER_PREFIX, dead_letter_topic
from kateway.core.groups.dispatch import OwnedPartition
from kateway.core.groups.membership import Membership
from kateway.core.operator.naming import GroupPlace
from kateway.core.operator.peek import Bounds, peek
from kateway.core.reads import Start
from kateway.errors import TopicNotFound
from kateway.model import Committed, Record

State = Literal[
    "not-read", "in-flight", "leased", "waiting", "returned", "dying", "acknowledged", "committed", "dead"
]  # fmt: skip
"""``waiting``: put off by its client; ``returned``: its lease ended, it is for the next reader; ``dying``: on its way
to the dead letters. ``acknowledged`` goes before ``committed``, or beyond the committed offset.
"""
_OF_LEASE: dict[LeaseState, State] = {
    LeaseState.LEASED: "leased",
    LeaseState.WAITING: "waiting",
    LeaseState.READY: "returned",
    LeaseState.DYING: "dying",
}


class Death(NamedTuple):
    """Where a record lies among the dead letters, and why."""

    partition: int
    offset: int
    timestamp: int
    reason: str
    attempts: int | None


class RecordState(NamedTuple):
    """The state of a record for a group."""

    state: State
    here: bool
    """Whether this gateway reads its partition; else another one may have it in flight."""
    committed: int | None
    """The group's committed offset in its partition."""
    attempt: int | None = None
    """How often it was handed to a client, where that is known."""
    client: Client = NOT_KNOWN
    """The client that has it, or had it last."""
    lease: str | None = None
    until_seconds: float | None = None
    """Seconds from now until its lease or its delay ends."""
    since_seconds: float | None = None
    """For how long its client has had it."""
    death: Death | None = None
    reason: str | None = None
    """Why it dies, or died."""
    dead_unknown: bool = False
    """There are more dead letters than were looked through."""


async def record_state(
    gateway: Gateway,
    group: GroupPlace,
    member: Membership | None,
    partition: int,
    offset: int,
    bounds: Bounds,
    clock: IReactorTime,
    elsewhere: Callable[[], Coroutine[Any, Any, RecordState | None]] | None = None,
) -> RecordState:
    """Finds the state; ``member`` is this process's membership of the group, ``elsewhere`` gives what the process that
    holds the partition knows.
    """
    committed = (await gateway.committed(group.place, group.group)).get(partition)
    owned = None if member is None else member.dispatch.owned_partitions.get(partition)
    known = state_of_member(member, partition, offset, clock.seconds())
    if known is None and owned is None and elsewhere is not None:
        known = await elsewhere()
    place = None if committed is None else committed.offset
    if known is None:
        found = state_in_store(offset, committed)._replace(here=owned is not None)
    elif known.state == "acknowledged" and place is not None and offset < place:
        found = known._replace(state="committed", committed=place)
    else:
        found = known._replace(committed=place)
    if found.state not in {"acknowledged", "committed"}:
        return found
    death, complete = await _death(gateway, group, partition, offset, bounds, clock)
    if death is None:
        return found._replace(dead_unknown=not complete)
    return found._replace(state="dead", death=death, reason=death.reason, attempt=death.attempts)


def state_in_store(offset: int, committed: Committed | None) -> RecordState:
    """The state that a commit tells."""
    if committed is None:
        return RecordState("not-read", False, None)
    if offset < committed.offset:
        return RecordState("committed", False, committed.offset)
    done = offset in Ranges.decode(committed.offset, committed.metadata)
    return RecordState("acknowledged" if done else "not-read", False, committed.offset)


def state_of_member(member: Membership | None, partition: int, offset: int, now: float) -> RecordState | None:
    """The state that a membership of this process knows, its commits apart; ``None`` where it does not have the
    partition.
    """
    owned = None if member is None else member.dispatch.owned_partitions.get(partition)
    return None if owned is None or owned.delivery.floor is None else state_here(owned, offset, None, now)


def to_table(state: RecordState) -> dict[str, Any]:
    """Writes a state as JSON takes it."""
    return {**state._asdict(), "client": list(state.client), "death": None}


def from_table(table: Mapping[str, Any]) -> RecordState:
    """Reads a state that came as JSON."""
    return RecordState(**{**table, "client": Client(*table["client"])})


def state_here(owned: OwnedPartition, offset: int, committed: Committed | None, now: float) -> RecordState:
    """The state that a ledger of this process has."""
    ledger = owned.delivery
    place = None if committed is None else committed.offset
    lease = ledger.leases.items.get(offset)
    if lease is not None:
        return RecordState(
            _OF_LEASE[lease.state],
            True,
            place,
            lease.attempts,
            lease.holder,
            lease.token or None,
            lease.until - now if isfinite(lease.until) else None,
            now - lease.since,
            reason=lease.reason or None,
        )
    for batch in ledger.in_flight:
        if batch.start <= offset < batch.stop:
            client = owned.sent_to.client if owned.sent_to is not None else NOT_KNOWN
            attempt = _attempt(batch, offset)
            return RecordState("in-flight", True, place, attempt, client, since_seconds=now - batch.since)
    if (ledger.frontier is None or offset >= ledger.frontier) and not ledger.is_done(offset):
        return RecordState("not-read", True, place)
    if place is not None and offset < place:
        return RecordState("committed", True, place)
    return RecordState("acknowledged", True, place)


def _attempt(batch: Batch, offset: int) -> int:
    index = batch.up_to(offset) - 1
    return batch.attempts[index] if batch.attempts is not None and index >= 0 else 1


async def _death(
    gateway: Gateway, group: GroupPlace, partition: int, offset: int, bounds: Bounds, clock: IReactorTime
) -> tuple[Death | None, bool]:
    """Looks for a record among the newest dead letters; and whether it has looked at all of them."""
    queue = group.place._replace(topic=dead_letter_topic(group.place.topic, group.group))
    try:
        partitions = (await gateway.topic(queue)).partitions
    except TopicNotFound:
        return None, True
    into = partition % partitions
    named = {"partition": b"%d" % partition, "offset": b"%d" % offset}

    def is_it(record: Record) -> bool:
        headers = dict(record.headers)
        return all(headers.get(HEADER_PREFIX + name) == value for name, value in named.items())

    read = gateway.read(queue, into, Start("last", bounds.max_records))
    peeked = await peek(read, is_it, 1, bounds, clock)
    if not peeked.found:
        earliest = next((first for number, first, _end in await gateway.ends(queue) if number == into), 0)
        begun = into not in peeked.spans or peeked.spans[into].first <= earliest
        return None, begun and peeked.stopped == "end"
    ((_, letter),) = peeked.found
    headers = dict(letter.headers)
    attempts = headers.get(f"{HEADER_PREFIX}attempts") or b""
    return Death(
        into,
        letter.offset,
        letter.timestamp,
        (headers.get(f"{HEADER_PREFIX}reason") or b"").decode(errors="replace"),
        int(attempts) if attempts.isdigit() else None,
    ), True
