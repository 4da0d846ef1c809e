"""Says what a process needs to go on with a membership that the one before it has passed on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from kateway.storage.passed_member import PassedMember, member_from_table


class PassedMembership(NamedTuple):
    """A membership: its member at the store, and its own rules."""

    cluster: str
    max_deliveries: int
    member: PassedMember

    @property
    def key(self) -> tuple[str, str, str]:
        """Store, group and topic."""
        return self.cluster, self.member.group, self.member.topic

    def table(self) -> dict[str, Any]:
        """The membership as it goes to the other process."""
        return {"cluster": self.cluster, "max_deliveries": self.max_deliveries, "member": self.member.table()}


def membership_from_table(table: Mapping[str, Any]) -> PassedMembership:
    """Reads one. ``KeyError`` or ``TypeError`` where a field is missing."""
    return PassedMembership(table["cluster"], table["max_deliveries"], member_from_table(table["member"]))


class Taker(NamedTuple):
    """The process that goes on with memberships, as the one before it sees it."""

    wants: Callable[[str], bool]
    """Whether it has a cluster of this name."""
    give: Callable[[PassedMembership], Awaitable[bool]]
    """Gives it a membership; ``False`` where that cannot be done."""
    keep_from: Callable[[tuple[str, str, str]], Awaitable[None]]
    """Tells it that a membership, by store, group and topic, was left: it does not come."""
