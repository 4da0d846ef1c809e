"""Says what a process that goes on as a member of a group has to know, where the one before it has not left the group.

A member is not bound to a connection: a coordinator knows it by its id, and hears of it by heartbeats. Places and
leases are in the last commit (``core/delivery/moved_leases.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class PassedMember(NamedTuple):
    """A member of one group, for one topic, in a generation in which no rebalance is under way."""

    group: str
    topic: str
    member: str
    """Its id at the coordinator."""
    generation: int
    """Of the group; by the consumer protocol the member's epoch."""
    by_consumer_protocol: bool
    partitions: Sequence[int]
    session_seconds: float
    """For how long the coordinator keeps a member that it does not hear of."""
    heard_at: float
    """When it was heard last, in seconds of the host's clock that both processes go by."""
    client_id: str = ""
    """As the member called itself when it joined."""
    reset: str = "earliest"
    instance: str | None = None
    """Its own name, where it has one."""
    cooperative: bool = False
    """Whether what it holds stays its own through the next join; of the classic protocol."""
    led: Mapping[str, int] = {}
    """How many partitions the topics had that it has to look after, as the group's leader; of the classic protocol."""
    topic_id: str = ""
    """In hexadecimal digits; of the consumer protocol."""

    def table(self) -> dict[str, Any]:
        """The member as it goes to the other process."""
        return self._asdict()


def member_from_table(table: Mapping[str, Any]) -> PassedMember:
    """Reads one; fields that another version has added are passed over. ``TypeError`` where one is missing."""
    known = {name: value for name, value in table.items() if name in PassedMember._fields}
    return PassedMember(**known)._replace(partitions=tuple(table["partitions"]))
