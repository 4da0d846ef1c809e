"""Finds the gateways that hold a group's partitions: the group's coordinator says it, by what its members are called.

A gateway's members append their gateway's name and address to their client id. What the coordinator says is kept for
seconds, for each group that is asked for here; gateways tell each other nothing, and nothing grows with their number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from twisted.internet.defer import Deferred

from kateway.bounded_cache import BoundedCache
from kateway.cluster.interface import NO_HOLDERS, UNIX, Holders, Home
from kateway.config.addresses import parse_address
from kateway.shield import shield
from kateway.storage.interface import GroupMember, GroupMembers

T = TypeVar("T")

MOST_GROUPS = 20000
"""Of which is remembered where they are held."""
_LABEL = re.compile(r"@([A-Za-z0-9_-]{1,64})@([\x21-\x3f\x41-\x7e]{1,200})")


def label(home: Home) -> str:
    """What a gateway's members append to their client id."""
    return f"@{home.gateway}@{home.address}"


def labelled(client_id: str) -> Home | None:
    """The gateway of a member; ``None`` where it is none."""
    found = _LABEL.search(client_id)
    if found is None:
        return None
    home = Home(found[1], found[2])
    if not home.address.startswith(UNIX):
        try:
            parse_address(home.address.partition("/")[0]).host.encode("idna")
        except ValueError:
            return None  # another program's, in which such signs mean something else
    return home


class _Heard(NamedTuple):
    members: Sequence[GroupMember]
    until: float


class CoordinatorDirectory:
    """Asks coordinators by the clusters' stores; those of stores without members elsewhere are not there."""

    def __init__(self, stores: Mapping[str, GroupMembers], seconds: Callable[[], float], keep_seconds: float) -> None:
        self._stores = stores
        self._seconds = seconds
        self._keep_seconds = keep_seconds
        self._heard: BoundedCache[tuple[str, str], _Heard] = BoundedCache(MOST_GROUPS)
        self._asking: dict[tuple[str, str], Deferred[Sequence[GroupMember] | None]] = {}
        """One question for all that ask it while it is under way."""

    async def find(self, cluster: str, group: str, topic: str, *, fresh: bool = False) -> Holders:
        """Who holds a topic's partitions in a group."""
        store = self._stores.get(cluster)
        if store is None:
            return NO_HOLDERS
        members: Sequence[GroupMember] | None
        heard = self._heard.get((cluster, group))
        if fresh or heard is None or heard.until <= self._seconds():
            members = await self._ask(store, cluster, group)
        else:
            members = heard.members
        if members is None:
            return Holders(0, {}, rebalancing=True)
        homes: dict[int, Home] = {}
        foreign: set[int] = set()
        count = 0
        for member in members:
            partitions = member.assigned.get(topic, ())
            count += bool(partitions) or topic in member.topics
            home = labelled(member.client_id)
            if home is None:
                foreign.update(partitions)
            else:
                homes.update(dict.fromkeys(partitions, home))
        return Holders(
            count, homes, rebalancing=not all(member.settled for member in members), foreign=frozenset(foreign)
        )

    async def _ask(self, store: GroupMembers, cluster: str, group: str) -> Sequence[GroupMember] | None:
        key = (cluster, group)
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = Deferred.fromCoroutine(store.members(group))
            asking.addBoth(self._asked, key)
        members = await shield(asking)
        if members:  # while it rebalances there is nothing to be remembered
            self._heard.keep(key, _Heard(members, self._seconds() + self._keep_seconds))
        else:
            self._heard.pop(key, None)
        return members

    def _asked(self, outcome: T, key: tuple[str, str]) -> T:
        del self._asking[key]
        return outcome
