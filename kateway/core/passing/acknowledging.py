"""Passes acknowledgements on to the gateways that hold their partitions, also while a partition changes hands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from kateway.cluster.interface import NO_HOLDERS, Holders, Home, place_of
from kateway.config.schema import ClusterConfig
from kateway.core.delivery.batch import Ack
from kateway.core.groups.memberships import MOVING, NOT_DELIVERED, Key, Memberships
from kateway.core.groups.retained import AWAY_SECONDS
from kateway.core.passing import messages
from kateway.errors import GatewayGone, GatewayUnavailable, KatewayError, NotHere

LOOK_AGAIN_SECONDS = 0.5
"""Between two attempts to find the gateway that has a lease, while its partition changes hands, or the one that has a
reader for a client whose own gateway has no partition.
"""
Outcomes = list[KatewayError | None]


class Finding(Protocol):
    def __call__(self, key: Key, *, fresh: bool) -> Awaitable[Holders]:
        """Finds the gateways that hold a group's partitions."""


class Acknowledging:
    """Finds the gateway of each acknowledgement and has it applied there. ``name``: this gateway's own."""

    def __init__(
        self,
        name: str,
        groups: Memberships,
        find: Finding,
        call: Callable[[Home, bytes, str], Awaitable[bytes]],
        clock: IReactorTime,
        config: ClusterConfig,
    ) -> None:
        self._name = name
        self._groups = groups
        self._find = find
        self._call = call
        self._clock = clock
        self._config = config

    async def acknowledge(self, key: Key, acks: Sequence[Ack], *, sync: bool, answered: set[str]) -> Outcomes:
        """As ``Memberships.acknowledge``, wherever the partitions are held; ``answered`` gets the gateways' names.

        ``GatewayUnavailable`` where no acknowledgement could be passed on.
        """
        member = self._groups.live.get(key)
        if member is not None and member.awaits(acks):
            await member.rebalancing.over()
        began = self._clock.seconds()
        found: Outcomes = [messages.NOT_HERE] * len(acks)
        # what the coordinator said may be some seconds old: it is asked again where it was wrong
        holders = NO_HOLDERS
        for fresh in (False, True):
            if open_ := _open(found):
                holders = await self._round(key, acks, open_, found, sync, answered, fresh=fresh)
        broken = _broken(found)
        if broken and self._clock.seconds() - began < self._config.request_timeout_seconds:
            # not late: a link ended, as one to a gateway that stops does; those that were applied may be so once more
            holders = await self._again(key, acks, broken, found, sync, answered)
        await self._follow(key, acks, found, sync, answered, holders)
        failed = [outcome for outcome in found if isinstance(outcome, GatewayUnavailable)]
        if failed and len(failed) == len(found):
            raise failed[0]
        return found

    async def _follow(
        self, key: Key, acks: Sequence[Ack], found: Outcomes, sync: bool, answered: set[str], holders: Holders
    ) -> None:
        """Answers those that no gateway holds: those below the commits were acknowledged. A lease that is in the
        commit, or with a gateway that gives it up or is about to get it, or may be anywhere while the group rebalances,
        is on its way to the next owner and waited for.
        """
        until = self._clock.seconds() + AWAY_SECONDS
        store, _group, topic = key
        partitions = await self._groups.partitions(store, topic) if _open(found) else 0
        while left := _open(found):
            outcomes = await self._groups.acknowledged_before(*key, [acks[index] for index in left])
            moving, unknown = [], []
            elsewhere = 0
            for index, outcome in zip(left, outcomes, strict=True):
                changes = self._changes_hands(acks[index].partition, found[index], holders, partitions)
                found[index] = outcome
                if outcome is MOVING or (outcome is not None and changes):
                    moving.append(index)
                elif outcome is not None:
                    unknown.append(index)
            if unknown:
                # the next owner may have come since the coordinator was asked: its first commit is without the leases
                holders = await self._anew(key, acks, unknown, found, sync, answered)
                open_ = set(unknown).intersection(_open(found))
                elsewhere = len(unknown) - len(open_)
                for index in sorted(open_):
                    if self._changes_hands(acks[index].partition, found[index], holders, partitions):
                        moving.append(index)
                    else:
                        found[index] = NOT_DELIVERED
            if not moving or self._clock.seconds() >= until:
                for index in moving:
                    found[index] = MOVING
                if len(left) > elsewhere:
                    answered.add(self._name)
                return
            if not holders.members and not holders.rebalancing:
                await self._groups.hold(*key)
            holders = await self._again(key, acks, moving, found, sync, answered)

    def _changes_hands(self, partition: int, outcome: KatewayError | None, holders: Holders, partitions: int) -> bool:
        """Whether a partition that is not here may be on its way, as the coordinator and the gateways have said."""
        home = holders.homes.get(partition)
        if home is None:
            # a cooperative group's leader assigns a partition that is to move to no member until it is given up
            unassigned = holders.members > 0 and partition < partitions and partition not in holders.foreign
            return holders.rebalancing or unassigned
        # named as its holder, and alive: it gives the partition up, or is about to get it
        told = isinstance(outcome, NotHere) and outcome is not messages.NOT_HERE
        return holders.rebalancing or told or home.gateway == self._name or self._replaced(home, outcome)

    def _replaced(self, home: Home, outcome: KatewayError | None) -> bool:
        """Whether a partition's holder is another process of this gateway that cannot be reached: one that an upgrade
        replaces lives on until it has left its groups, and its successor has its address already.
        """
        other, own = place_of(home.gateway), place_of(self._name)
        mine = other is not None and own is not None and other.gateway == own.gateway
        return isinstance(outcome, GatewayGone) and mine

    async def _again(
        self, key: Key, acks: Sequence[Ack], indexes: Sequence[int], found: Outcomes, sync: bool, answered: set[str]
    ) -> Holders:
        await deferLater(self._clock, LOOK_AGAIN_SECONDS)
        return await self._anew(key, acks, indexes, found, sync, answered)

    async def _anew(
        self, key: Key, acks: Sequence[Ack], indexes: Sequence[int], found: Outcomes, sync: bool, answered: set[str]
    ) -> Holders:
        for index in indexes:
            found[index] = messages.NOT_HERE
        return await self._round(key, acks, indexes, found, sync, answered, fresh=True)

    async def _round(
        self,
        key: Key,
        acks: Sequence[Ack],
        indexes: Sequence[int],
        found: Outcomes,
        sync: bool,
        answered: set[str],
        *,
        fresh: bool,
    ) -> Holders:
        """Has those that have a home applied there; answers with the holders, as far as they were asked for."""
        member = self._groups.live.get(key)
        held = {} if member is None else member.dispatch.owned_partitions
        away = [index for index in indexes if acks[index].partition not in held]
        holders = await self._find(key, fresh=fresh) if away else NO_HOLDERS
        homes = holders.homes
        by_home: dict[Home | None, list[int]] = {}
        for index in indexes:
            partition = acks[index].partition
            home = None if partition in held else homes.get(partition)
            if home is None and partition not in held:
                continue
            by_home.setdefault(home, []).append(index)
        # those held here first: a partition may go while other gateways are asked
        for home, mine in sorted(by_home.items(), key=lambda each: each[0] is not None):
            part = [acks[index] for index in mine]
            if home is None:
                outcomes = await self._groups.acknowledge(*key, part, sync=sync)
                answered.add(self._name)
            elif home.gateway == self._name:
                continue  # the coordinator's word is old: this gateway holds it no more
            else:
                outcomes = await self._at(home, key, part, sync, answered)
            for index, outcome in zip(mine, outcomes, strict=True):
                found[index] = outcome
        return holders

    async def _at(self, home: Home, key: Key, acks: Sequence[Ack], sync: bool, answered: set[str]) -> Outcomes:
        request = messages.request("acknowledge", *key, acks=messages.ack_list(acks), sync=sync)
        try:
            outcomes = messages.outcomes_of(await self._call(home, request, "acknowledge"))
        except (GatewayUnavailable, messages.Malformed) as error:
            failed = error if isinstance(error, KatewayError) else GatewayUnavailable(str(error))
            return [failed] * len(acks)
        if len(outcomes) != len(acks):
            amiss = GatewayUnavailable(f"the gateway {home.gateway} answered amiss; is it of another version?")
            return [amiss] * len(acks)
        if not all(isinstance(outcome, NotHere) for outcome in outcomes):
            answered.add(home.gateway)
        return outcomes


def _open(found: Outcomes) -> list[int]:
    """The indexes of acknowledgements that no gateway has applied."""
    return [index for index, outcome in enumerate(found) if isinstance(outcome, (NotHere, GatewayGone))]


def _broken(found: Outcomes) -> list[int]:
    """The indexes of acknowledgements whose gateway did not answer, or amiss."""
    failed = {index for index, outcome in enumerate(found) if isinstance(outcome, GatewayUnavailable)}
    return sorted(failed.difference(_open(found)))
