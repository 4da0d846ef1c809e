"""Takes the changes of elastic topics' partitions from step to step, each written on condition of the one before."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NoReturn, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from kateway.core.growth_report import Watched, named
from kateway.core.key_places import KeyPlace, target
from kateway.core.live_gateways import LiveGateways
from kateway.errors import KatewayError, Unavailable
from kateway.registry.interface import ABSENT, Elastic, Growth, Placement, Registry, Topic
from kateway.storage.interface import Store

GROUPS_SECONDS = 3.0
"""How old the list of groups that read a topic may be."""
GROUPS_ANSWER_SECONDS = 10.0
"""For so long their positions are asked for, all together: less than a step may take."""
PAUSE_SECONDS = 10.0
"""Between two changes at least, those by hand included: keys that wait get their turn."""
MOST_GROWTHS = 10
"""Of the last changes that a placement tells of."""

R = TypeVar("R")

_log = Logger()


def within(seconds: float, clock: IReactorTime, work: Coroutine[Deferred[Any], Any, R]) -> Deferred[R]:
    """Ends work that takes too long, with ``Unavailable``."""

    def late(_failure: object, _seconds: float) -> NoReturn:
        raise Unavailable(f"no answer within {seconds:g} s")

    return Deferred.fromCoroutine(work).addTimeout(seconds, clock, late)


class GrowthEvents(Protocol):
    """What is told of changes: to the audit and the metrics."""

    def grown(self, topic: str, was: int, now: int, bound_hit: bool) -> None:
        """A topic went over to other partitions."""

    def given_up(self, topic: str, why: str) -> None:
        """A change was announced and not carried out."""


class GrowthSteps:
    """The steps of one gateway that leads. ``gone_seconds``: after so long nothing that a gateway placed which has left
    the registry is on its way any more; 0 where there is one gateway. ``window_ms``: so long an idempotency key is
    looked for where it was placed before.
    """

    def __init__(
        self,
        registry: Registry,
        stores: Mapping[str, Store],
        gateways: LiveGateways,
        clock: IReactorTime,
        now_ms: Callable[[], int],
        events: GrowthEvents,
        *,
        gone_seconds: float,
        window_ms: int,
    ) -> None:
        self._registry = registry
        self._stores = stores
        self._gateways = gateways
        self._clock = clock
        self._now_ms = now_ms
        self._events = events
        self._gone_seconds = gone_seconds
        self._window_ms = window_ms

    async def take(self, topic: Topic, watched: Watched) -> None:
        """Takes a topic's next step, if it is time for one."""
        placement = self._registry.snapshot.placements.get(topic.name)
        if topic.cluster not in self._stores:
            watched.waits_for = f"the gateway that leads has no cluster {topic.cluster}: give all the same ones"
            # one that was announced by another gateway ends all the same
            await self.end_overdue(topic, watched)
        elif placement is None:
            await self._begin(topic, watched)
        elif placement.state == "announced":
            await self._go_over(topic, placement, watched)
        elif placement.state == "reading":
            await self._wait_for_readers(topic, placement, watched)
        else:
            await self._consider(topic, placement, watched)

    async def _begin(self, topic: Topic, watched: Watched) -> None:
        """Gives a topic its first placement: as a change from the store's, though it may have no record yet. Some may
        be on their way, from gateways that do not know that it is elastic.
        """
        behind = self._gateways.behind("/".join(topic.name), 0)
        watched.waits_for = self._unsure() or (
            f"publishes from before it was elastic may be under way at {named(behind)}" if behind else ""
        )
        if watched.waits_for:
            return
        # gateways place by as many partitions as the store shows them
        partitions = len(await self._ends(topic, 1))
        application, name, version = topic.name
        from_store = Placement(
            application=application,
            topic=name,
            version=version,
            hash="murmur2",
            partitions=partitions,
            murmur2_partitions=partitions,
            generation=self._now_ms(),
        )
        await self._announce(from_store, KeyPlace("jump", partitions), "it is elastic now", ABSENT)

    async def _consider(self, topic: Topic, placement: Placement, watched: Watched) -> None:
        """Begins a change where one is to be made."""
        store, rules = self._stores[topic.cluster], topic.elastic
        partitions = placement.partitions
        known = await store.topic(topic.stored_as)
        if known.partitions < partitions:
            # made anew by others: keys would find no partition
            await store.add_partitions(topic.stored_as, partitions)
        wanted, why = None, ""
        if rules is None and placement.hash == "murmur2":
            if placement.changed <= self._now_ms() - self._window_ms:
                await self._registry.delete_placement(topic.name, placement.etag)
            return
        if rules is None:
            in_store = len(await self._ends(topic, partitions))
            wanted, why = KeyPlace("murmur2", in_store), "it is not elastic any more"
        elif placement.hash == "murmur2":
            wanted, why = KeyPlace("jump", partitions), "it is elastic again"
        elif topic.partitions is not None and topic.partitions > partitions:
            wanted, why = KeyPlace("jump", topic.partitions), "its entry says so"
        decision = watched.decision
        if wanted is not None and placement.since and self._now_ms() - placement.since < PAUSE_SECONDS * 1000:
            watched.waits_for = "the last change has just ended"
            return
        if wanted is None and rules is not None and decision is not None and decision.action == "grow":
            watched.waits_for = "dry_run: it only says so" if rules.dry_run else ""
            if rules.dry_run or decision.partitions <= partitions:
                return
            wanted, why = KeyPlace("jump", decision.partitions), decision.reason
        if wanted is None:
            watched.waits_for = ""
            return
        behind = self._gateways.behind("/".join(topic.name), placement.generation)
        watched.waits_for = self._unsure() or (
            f"{named(behind)} did not say that it knows the partitions in force" if behind else ""
        )
        if watched.waits_for:
            return
        if known.partitions < wanted.partitions:
            await store.add_partitions(topic.stored_as, wanted.partitions)
        # keys are held back from the announcement on: not for a change that cannot be carried out just now
        await self._ends(topic, wanted.partitions)
        await self._announce(placement, wanted, why, placement.etag)

    async def _ends(self, topic: Topic, least: int) -> Mapping[int, int]:
        """Returns the ends of all partitions that the store has now, the first ``least`` among them; ``Unavailable``
        while one has no leader.
        """
        store = self._stores[topic.cluster]
        await store.topics()
        ends = await store.offsets(topic.stored_as, "latest")
        for partition in range(least):
            if partition not in ends:
                raise Unavailable(f"the store does not tell the end of partition {partition}")
        return ends

    async def _announce(self, placement: Placement, wanted: KeyPlace, why: str, expected: str) -> None:
        announced = attrs.evolve(
            placement,
            state="announced",
            generation=placement.generation + 1,
            next_hash=wanted.hash,
            next_partitions=wanted.partitions,
            murmur2_partitions=max(placement.murmur2_partitions, _murmur2(placement.hash, placement.partitions)),
            why=why[:1000],
            since=self._now_ms(),
            fence={},
        )
        await self._registry.put_placement(announced, expected)

    async def _go_over(self, topic: Topic, placement: Placement, watched: Watched) -> None:
        """Puts the new partitions in force as soon as no gateway writes by the old ones."""
        now, name = self._clock.seconds(), "/".join(topic.name)
        behind = self._gateways.behind(name, placement.generation)
        watched_for = now - (self._gateways.watched_since or now)
        if not behind and watched_for >= self._gone_seconds:
            ends = await self._ends(topic, placement.partitions)
            reading = attrs.evolve(
                placement,
                state="reading",
                generation=placement.generation + 1,
                changed=self._now_ms(),
                fence={str(partition): ends[partition] for partition in range(placement.partitions)},
            )
            watched.groups_at = None
            watched.caught_up.clear()
            await self._registry.put_placement(reading, placement.etag)
            return
        watched.waits_for = f"{named(behind)} may still write by the old partitions" if behind else self._unsure()
        await self.end_overdue(topic, watched)

    def overdue(self, topic: Topic) -> bool:
        """Whether a topic's keys have been held back for longer than they may be, before a change is in force."""
        placement = self._registry.snapshot.placements.get(topic.name)
        return placement is not None and placement.state == "announced" and self._over(topic, placement)

    async def end_overdue(self, topic: Topic, watched: Watched) -> None:
        """Gives a change up that is not in force in time, whatever keeps it from that: its keys are held back."""
        placement = self._registry.snapshot.placements.get(topic.name)
        if placement is None or not self.overdue(topic):
            return
        name, why = "/".join(topic.name), f"not carried out within handover_seconds: {watched.waits_for}"
        given_up = attrs.evolve(placement, **_SETTLED, generation=placement.generation + 1, since=self._now_ms())
        await self._registry.put_placement(given_up, placement.etag)
        _log.warn("{topic}: {partitions} partitions {why}", topic=name, partitions=placement.next_partitions, why=why)
        self._events.given_up(name, why)

    async def _wait_for_readers(self, topic: Topic, placement: Placement, watched: Watched) -> None:
        """Lets the keys that moved go on as soon as every group has read the old partitions up to the fence."""
        over = self._over(topic, placement)
        try:
            asking = self._unread(topic, placement, watched)
            watched.unread = await within(GROUPS_ANSWER_SECONDS, self._clock, asking)
        except KatewayError as error:
            if not over:
                raise
            watched.unread = [str(error)]
        if watched.unread and not over:
            watched.waits_for = f"not read up to the fence yet: {named(watched.unread)}"
            return
        bound_hit, name = bool(watched.unread), "/".join(topic.name)
        wanted = target(placement)
        held = max(self._now_ms() - placement.since, 0) / 1000
        growth = Growth(
            at=self._now_ms(),
            was=placement.partitions,
            now=wanted.partitions,
            why=placement.why,
            held_seconds=round(held, 1),
            bound_hit=bound_hit,
        )
        settled = attrs.evolve(
            placement,
            **_SETTLED,
            generation=placement.generation + 1,
            hash=wanted.hash,
            partitions=wanted.partitions,
            murmur2_partitions=max(placement.murmur2_partitions, _murmur2(wanted.hash, wanted.partitions)),
            since=self._now_ms(),
            growths=[*placement.growths, growth][-MOST_GROWTHS:],
        )
        await self._registry.put_placement(settled, placement.etag)
        if bound_hit:
            _log.warn(
                "{topic}: handover_seconds were over before these had read the old partitions up to the fence, and may "
                "see keys out of order: {unread}",
                topic=name,
                unread=named(watched.unread),
            )
        self._events.grown(name, growth.was, growth.now, bound_hit)
        watched.unread, watched.waits_for = (), ""

    async def _unread(self, topic: Topic, placement: Placement, watched: Watched) -> list[str]:
        """Names the groups with a member that have not read the old partitions up to the fence."""
        store, now = self._stores[topic.cluster], self._clock.seconds()
        if watched.groups_at is None or now - watched.groups_at >= GROUPS_SECONDS:
            watched.groups = await store.reading_groups(topic.stored_as)
            watched.groups_at = now
        if not watched.groups:
            return []
        earliest = await store.offsets(topic.stored_as, "earliest")
        fence = {int(partition): end for partition, end in placement.fence.items()}
        left = {partition: end for partition, end in fence.items() if end > earliest.get(partition, 0)}
        if not left:
            return []
        unread = []
        for group in sorted(watched.groups - watched.caught_up):
            committed = await store.committed(group, topic.stored_as)
            for partition, end in left.items():
                at = committed.get(partition)
                if at is None or at.offset < end:
                    unread.append(f"group {group}, partition {partition}")
                    break
            else:
                # of many groups each look goes on where the one before it had no more time
                watched.caught_up.add(group)
        return unread

    def _over(self, topic: Topic, placement: Placement) -> bool:
        rules = topic.elastic or Elastic()
        return self._now_ms() - placement.since >= rules.handover_seconds * 1000

    def _unsure(self) -> str:
        return self._gateways.unsure(self._clock.seconds(), self._gone_seconds)


_SETTLED: dict[str, Any] = {"state": "settled", "next_hash": "jump", "next_partitions": 0, "why": "", "fence": {}}


def _murmur2(hashed: str, partitions: int) -> int:
    return partitions if hashed == "murmur2" else 0
