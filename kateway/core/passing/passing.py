"""Passes on what this gateway does not hold: the group's coordinator says which gateway does.

A gateway reads a group by a membership of its own as long as the group has more partitions than members. Where it gets
none of them, or would get none, its clients read at the gateways that have them. An acknowledgement goes to the gateway
that holds its partition.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count
from typing import Any

import orjson
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from kateway.cluster.interface import Directory, Holders, Home, Linked, Linking
from kateway.config.schema import ClusterConfig
from kateway.core.delivery.batch import Ack
from kateway.core.delivery.confirmation import Connection
from kateway.core.groups.group_reader import GroupReader
from kateway.core.groups.membership import Membership
from kateway.core.groups.memberships import Key, Memberships
from kateway.core.groups.reader import Reader
from kateway.core.groups.wanted import MOST_PARTITIONS, Wanted
from kateway.core.passing import messages
from kateway.core.passing.acknowledging import LOOK_AGAIN_SECONDS, Acknowledging
from kateway.core.passing.joined_reader import JoinedReader
from kateway.core.passing.remote_source import RemoteSource
from kateway.core.passing.succession import Succession
from kateway.core.transforms.in_force import View
from kateway.errors import (
    GatewayGone,
    GatewayUnavailable,
    KatewayError,
    NotHere,
    TooManyConsumers,
    Unavailable,
)

OWN = Home("", "")
"""This gateway, among those at which a response can be read."""
MOST_UNSETTLED_LOOKS = 6
"""So often a rebalance is waited for in which partitions have no holder: the cooperative protocol gives a new member
nothing before the others have given up what is to be its, which takes them a second.
"""
LOOKS_SECONDS = 2.0
"""For so long a gateway that holds a group's partitions and gives no reader is asked again, before its client hears of
it or a membership of this one joins the group.
"""
NEXT_LOOK_SECONDS = 0.1
_log = Logger()


class PassingOn:
    """This gateway's side of what it passes on. ``name``: this gateway's own."""

    def __init__(
        self,
        name: str,
        groups: Memberships,
        directory: Directory,
        links: Linking,
        clock: IReactorTime,
        config: ClusterConfig,
    ) -> None:
        self.name = name
        self._groups = groups
        self._directory = directory
        self._links = links
        self._clock = clock
        self._config = config
        self._moving: dict[Membership, Deferred[None]] = {}
        """Whose readers are moved. One that has ended may be among them beside the one in its place."""
        self._stopped = False
        self.succession = Succession(clock)
        self._renamed: dict[str, str] = {}
        """Processes that have passed their members on, with the one that goes on."""
        self.counts: dict[str, int] = {}
        """How many requests were passed on, by what they ask."""
        self.acknowledge = Acknowledging(name, groups, self._find, self._call, clock, config).acknowledge
        groups.empty_handed = self._empty_handed

    def stop(self) -> None:
        """Moves no reader any more."""
        self._stopped = True
        for moving in list(self._moving.values()):
            moving.cancel()

    # --- acknowledgements --------------------------------------------------------------------------------------------

    def holds(self, key: Key, acks: Iterable[Ack]) -> bool:
        """Whether this gateway has every partition that is acknowledged."""
        member = self._groups.live.get(key)
        return member is not None and all(ack.partition in member.dispatch.owned_partitions for ack in acks)

    # --- questions ---------------------------------------------------------------------------------------------------

    async def unacknowledged(self, key: Key, answered: set[str]) -> dict[int, tuple[int, float]]:
        """As ``Memberships.unacknowledged``, of all gateways that hold partitions. ``GatewayUnavailable``."""
        found: dict[int, tuple[int, float]] = {}
        for home in await self._others(key):
            try:
                answer = await self._call(home, messages.request("unacknowledged", *key), "unacknowledged")
            except GatewayGone:
                continue  # its readers are gone with it
            found.update({partition: (count, seconds) for partition, count, seconds in orjson.loads(answer)})
            answered.add(home.gateway)
        own = self._groups.unacknowledged(*key)
        found.update(own)
        if own or not answered:
            answered.add(self.name)
        return found

    async def let_go(self, key: Key) -> None:
        """As ``Memberships.let_go``, at all gateways that hold partitions. ``GroupBusy``, ``GatewayUnavailable``."""
        for home in await self._others(key):
            try:
                await self._call(home, messages.request("let_go", *key), "let_go")
            except GatewayGone:
                continue
        await self._groups.let_go(*key)

    async def dead_letters_written(self, key: Key) -> None:
        """As ``Memberships.dead_letters_written``; a home that cannot be asked is not waited for."""
        await self._groups.dead_letters_written(*key)
        for home in await self._others(key):
            try:
                await self._call(home, messages.request("dead_letters_written", *key), "dead_letters_written")
            except GatewayUnavailable:
                continue

    async def _others(self, key: Key) -> list[Home]:
        homes = (await self._find(key)).homes
        return sorted({home for home in homes.values() if home.gateway != self.name})

    def goes_on_as(self, former: str, now: str) -> None:
        """Members that are called by one process's name are another's: it was them, and has passed them on."""
        self._renamed[former] = now

    async def _find(self, key: Key, *, fresh: bool = False) -> Holders:
        """``Unavailable`` where the coordinator does not say it in time."""
        holders = await self._ask(key, fresh)
        if not self._renamed:
            return holders
        homes = {
            partition: Home(self._renamed.get(home.gateway, home.gateway), home.address)
            for partition, home in holders.homes.items()
        }
        return holders._replace(homes=homes)

    async def _ask(self, key: Key, fresh: bool) -> Holders:

        def late(_failure: object, seconds: float) -> Holders:
            raise Unavailable(f"the group's coordinator did not answer within {seconds:g} s")

        finding = Deferred.fromCoroutine(self._directory.find(*key, fresh=fresh))
        return await finding.addTimeout(self._config.request_timeout_seconds, self._clock, late)

    async def _call(self, home: Home, request: bytes, what: str) -> bytes:
        self.counts[what] = self.counts.get(what, 0) + 1
        link = await self._links.link(home)
        return await link.call(request, self._config.request_timeout_seconds)

    # --- readers -----------------------------------------------------------------------------------------------------

    async def reader(self, key: Key, wanted: Wanted, connection: Connection) -> GroupReader:
        """A reader of the group: of this gateway's membership or of another's, and of further gateways' while that one
        gives nothing.
        """
        reader = await self._reader(key, wanted, connection)
        if wanted.partitions <= 1:
            return reader
        return JoinedReader(reader, _Elsewhere(self, key, wanted, connection), self._clock)

    async def _reader(self, key: Key, wanted: Wanted, connection: Connection) -> Reader:
        await self.succession.wait_for(key)
        member = self._groups.live.get(key)
        if member is not None and (member.dispatch.all or member.available_since is None):
            try:
                return self._here(key, wanted, connection)
            except TooManyConsumers:
                # perhaps another gateway has partitions without a reader
                reader = await self._elsewhere(key, wanted, connection, fresh=False, full=True)
                if reader is None:
                    raise
                return reader
        reader = await self._elsewhere(key, wanted, connection, fresh=member is not None)
        return self._here(key, wanted, connection) if reader is None else reader

    def _here(self, key: Key, wanted: Wanted, connection: Connection) -> Reader:
        reader = self._groups.reader(key, wanted, connection)
        reader.wanted = wanted
        return reader

    async def _elsewhere(
        self, key: Key, wanted: Wanted, connection: Connection, *, fresh: bool, full: bool = False
    ) -> Reader | None:
        """A reader at another gateway; ``None`` where a membership of this one would get partitions. ``full``: those of
        this one have readers.
        """
        until = self._clock.seconds() + LOOKS_SECONDS
        for look in count():
            again = fresh or look > 0
            try:
                holders = await self._find(key, fresh=again)
            except Unavailable:
                return None  # the membership reports what ails the store
            homes = self._by_chance(holders)
            if not homes or (holders.members < wanted.partitions and not full):
                return None
            failures: list[KatewayError] = []
            for home in homes:
                try:
                    source = await self.open(home, key, wanted)
                except (TooManyConsumers, GatewayUnavailable) as error:
                    failures.append(error)
                    continue
                return _reading(source, home, wanted, connection)
            if crowded := next((error for error in failures if isinstance(error, TooManyConsumers)), None):
                raise crowded
            if self._clock.seconds() < until and any(not isinstance(error, GatewayGone) for error in failures):
                # it stops, or its links end with it, and its successor in an upgrade has the membership in a moment:
                # to join would be a rebalance
                if again:
                    await deferLater(self._clock, NEXT_LOOK_SECONDS)
                continue
            told = [error for error in failures if not isinstance(error, (NotHere, GatewayGone))]
            if not told and full and again:
                # the partitions of a gateway that has ended get another home when its session is over
                told = [error for error in failures if isinstance(error, GatewayUnavailable)]
            if told:
                raise told[0]
            if again:
                break
        return None

    def _by_chance(self, holders: Holders) -> list[Home]:
        """Other gateways, by a chance that grows with what they hold: so all partitions are read in the end."""
        homes = [home for home in holders.homes.values() if home.gateway != self.name]
        random.shuffle(homes)
        return list(dict.fromkeys(homes))

    async def other_homes(self, key: Key, partitions: int, besides: Collection[str]) -> list[Home]:
        """Gateways that hold some of a topic's ``partitions``, other than those named; ``OWN`` is this one."""
        member = self._groups.live.get(key)
        held = 0 if member is None else len(member.dispatch.all)
        own = [OWN] if held and OWN.gateway not in besides else []
        if held >= partitions:
            return own
        try:
            holders = await self._find(key)
        except KatewayError:
            return own  # the reader that there is tells what ails the store
        return own + [home for home in self._by_chance(holders) if home.gateway not in besides]

    def own(self, key: Key, wanted: Wanted, connection: Connection) -> Reader:
        """A reader of this gateway's membership, for a client that reads elsewhere: a rebalance has given it partitions
        since. It does not move. ``NotHere``, ``TooManyConsumers``, ``Conflict``.
        """
        member = self._groups.live.get(key)
        if member is None or not member.dispatch.all:
            raise NotHere(messages.NOT_HERE.detail)
        return member.reader(wanted, connection)

    async def open(self, home: Home, key: Key, wanted: Wanted) -> RemoteSource:
        self.counts["read"] = self.counts.get("read", 0) + 1
        request = messages.request(
            "read",
            *key,
            mode=wanted.mode,
            reset=wanted.reset,
            short=wanted.short,
            ack_timeout=wanted.ack_timeout,
            max_deliveries=wanted.max_deliveries,
            partitions=wanted.partitions,
            view=_view(wanted.view),
            names=wanted.names,
            client=[*wanted.client],
            spare=wanted.spare,
        )
        link: Linked = await self._links.link(home)
        source = RemoteSource(self._clock, self._groups.config)
        source.attach(link.open(request, source))

        def late(_failure: object, seconds: float) -> None:
            raise GatewayUnavailable(f"the gateway {home.gateway} gave no reader within {seconds:g} s; try again")

        try:
            await source.opened.addTimeout(self._config.request_timeout_seconds, self._clock, late)
        except BaseException:
            source.give_up()
            raise
        return source

    # --- readers whose partitions have gone ---------------------------------------------------------------------------

    def _empty_handed(self, key: Key, member: Membership) -> None:
        """A rebalance has left this gateway's membership without partitions."""
        if member.readers and member not in self._moving and not self._stopped:
            moving = self._moving[member] = Deferred.fromCoroutine(self._move_all(key, member))
            moving.addErrback(lambda failure: failure.trap(CancelledError) and None)
            moving.addErrback(lambda failure: _log.failure("moving readers to another gateway broke", failure))
            moving.addBoth(lambda _: self._moving.pop(member, None) and None)

    async def _move_all(self, key: Key, member: Membership) -> None:
        """Moves the readers of a membership without partitions to gateways that have some, until none is left, or some
        partitions have come.
        """
        for look in count():
            await deferLater(self._clock, LOOK_AGAIN_SECONDS)
            for reader in list(member.readers):
                if member.dispatch.all or self._groups.live.get(key) is not member:
                    return
                wanted = reader.wanted
                if wanted is None:
                    # a client of another gateway: that one finds out where to read
                    # raised by its next take, so an error of its own: each raise of one adds to its traceback
                    reader.fail(NotHere(messages.NOT_HERE.detail))
                    continue
                # while records are unsettled they are the old membership's business
                if not reader.reading or reader.unsettled():
                    continue
                try:
                    await self._move(key, member, reader, wanted, patient=look < MOST_UNSETTLED_LOOKS)
                except CancelledError:
                    raise
                except Exception:
                    _log.failure("moving a reader to another gateway broke; it is tried again")
            if not member.readers:
                return

    async def _move(self, key: Key, member: Membership, reader: Reader, wanted: Wanted, *, patient: bool) -> None:
        try:
            holders = await self._find(key, fresh=True)
        except KatewayError:
            return  # the coordinator is asked again
        if patient and len(holders.homes) < wanted.partitions < MOST_PARTITIONS:
            return
        homes = self._by_chance(holders)
        for home in homes:
            try:
                source = await self.open(home, key, wanted)
            except KatewayError:
                continue
            if member.dispatch.all or not reader.reading or reader.unsettled() or reader not in member.readers:
                source.give_up()
                return
            reader.wanted = None
            reader.move_to(source)
            reader.gateway = home.gateway
            source.serve(reader)
            return


class _Elsewhere:
    """Where else a reader's group can be read (``joined_reader.Elsewhere``)."""

    def __init__(self, passing: PassingOn, key: Key, wanted: Wanted, connection: Connection) -> None:
        self._passing = passing
        self._key = key
        self._wanted = wanted._replace(spare=True)
        self._connection = connection

    async def homes(self, besides: Collection[str]) -> Sequence[Home]:
        return await self._passing.other_homes(self._key, self._wanted.partitions, besides)

    async def reader(self, home: Home) -> Reader:
        if home is OWN:
            # its own client: no spare one
            return self._passing.own(self._key, self._wanted._replace(spare=False), self._connection)
        source = await self._passing.open(home, self._key, self._wanted)
        return _reading(source, home, self._wanted, self._connection)


def _reading(source: RemoteSource, home: Home, wanted: Wanted, connection: Connection) -> Reader:
    # what its client sees is made at the home
    reader = Reader(source, wanted._replace(view=None), connection)
    reader.gateway = home.gateway
    source.serve(reader)
    return reader


def _view(view: View | None) -> Mapping[str, Any] | None:
    if view is None:
        return None
    return {
        "subscriber": view.subscriber,
        "topic": view.topic,
        "filter": None if view.extra is None else view.extra.text,
        "dead": view.dead,
    }
