"""Lets elastic topics grow: watches their load and takes each change through its steps. One gateway at a time does.

The steps are in the registry (``Placement``), each written on condition that the one before it is as it was, so that
the gateway that leads may be replaced between any two of them, and two that both take themselves for it do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import orjson
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.core.elastic import Controller, Sample
from kateway.core.growth_report import Watched, seen, shown
from kateway.core.growth_steps import GrowthEvents, GrowthSteps, within
from kateway.core.live_gateways import LiveGateways
from kateway.core.topic_load import TopicLoad
from kateway.errors import Conflict, KatewayError, PreconditionFailed
from kateway.registry.interface import Registry, Snapshot, Topic, TopicName
from kateway.storage.interface import Store

LOOK_SECONDS = 0.25
"""While a change is under way."""
QUIET_LOOK_SECONDS = 1.0
LONGEST_STEP_SECONDS = 15.0
"""Of a sample, of a step, and of a question to the registry: a store or a registry that does not answer keeps a topic's
keys held back.
"""
MOST_AT_ONCE = 16
"""Topics of a cluster that are looked at together, of those that change and of those that do not."""
LONGEST_GAP_SECONDS = 2.0
"""Between two looks at the list: one that comes and goes meanwhile is not seen. A gateway that is killed stays in the
list for its session.
"""
REST_SECONDS = 30.0
"""After a look at a topic that broke unforeseen."""
MOST_REPORTED = 500
"""Topics of which the gateway that leads tells the others: a node of ZooKeeper's takes 1 MB."""

_log = Logger()


class Growths:
    """The growth of all elastic topics. ``gone_seconds`` and ``window_ms``: as in ``GrowthSteps``. ``stays_because``:
    why this gateway makes no topic grow; empty where it may lead.
    """

    def __init__(
        self,
        name: str,
        registry: Registry,
        stores: Mapping[str, Store],
        clock: IReactorTime,
        now_ms: Callable[[], int],
        events: GrowthEvents,
        *,
        gone_seconds: float,
        sustained_seconds: float,
        sample_seconds: float,
        window_ms: int,
        stays_because: str = "",
    ) -> None:
        self.leading = False
        self.stays_because = stays_because
        self._name = name
        self._registry = registry
        self._stores = stores
        self._clock = clock
        self._now_ms = now_ms
        self._gone_seconds = gone_seconds
        self._sustained_seconds = sustained_seconds
        self._sample_seconds = sample_seconds
        self._gateways = LiveGateways()
        self._steps = GrowthSteps(
            registry, stores, self._gateways, clock, now_ms, events, gone_seconds=gone_seconds, window_ms=window_ms
        )
        self._watched: dict[TopicName, Watched] = {}
        self._at_once: dict[tuple[str, bool], int] = {}
        """How many topics are looked at, by cluster and whether they change."""
        self._next_look = 0.0
        self._listed_at = 0.0
        self._seen: Snapshot | None = None
        self._topics: list[Topic] = []
        """The elastic topics of the snapshot that was seen last."""

    # --- looks ------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Takes each change a step further, where this gateway leads; to be called several times a second. Costs
        nothing while no topic is elastic. Does not wait for the steps: a cluster that does not answer holds up its own
        topics alone.
        """
        now = self._clock.seconds()
        topics = self._elastic_topics()
        if now < self._next_look or not (topics or self.leading):
            return
        self._next_look = now + QUIET_LOOK_SECONDS
        if not await self._lead(now):
            return
        former, self._watched = self._watched, {}
        for topic in topics:
            self._watched[topic.name] = former.pop(topic.name) if topic.name in former else self._watch(topic)
        for gone in former.values():
            gone.end()
        # those whose keys wait come first, then each in its turn
        turns = [(not self._changes(topic), self._watched[topic.name].looked_at, topic) for topic in topics]
        for quiet, _looked_at, topic in sorted(turns, key=lambda turn: turn[:2]):
            self._begin_look(topic, (topic.cluster, quiet), now)
        if any(self._changes(topic) for topic in topics):
            self._next_look = now + LOOK_SECONDS

    async def _lead(self, now: float) -> bool:
        """Whether this gateway leads, and knows which others there are."""
        try:
            leads = await within(LONGEST_STEP_SECONDS, self._clock, self._registry.lead(self.report()))
            if leads:
                placing = await within(LONGEST_STEP_SECONDS, self._clock, self._registry.placing())
                self._gateways.look(placing, now, self._gone_seconds)
                self._listed_at = now
        except KatewayError:
            self.leading = False
            if now - self._listed_at > LONGEST_GAP_SECONDS:
                self._stand_back()
            raise
        self.leading = leads
        if not leads:
            self._stand_back()
        return leads

    def _stand_back(self) -> None:
        """Forgets what only a gateway knows that leads without a break."""
        self.leading = False
        for watched in self._watched.values():
            watched.end()
        self._watched = {}
        self._gateways.forget()

    def stop(self) -> None:
        """Ends the looks under way; another gateway may go on from where they were."""
        self._stand_back()

    def _changes(self, topic: Topic) -> bool:
        placement = self._registry.snapshot.placements.get(topic.name)
        return placement is not None and placement.state != "settled"

    def _elastic_topics(self) -> list[Topic]:
        """Those of the registry's snapshot; looked for once in each, as there may be ten thousand others."""
        snapshot = self._registry.snapshot
        if snapshot is not self._seen:
            self._seen = snapshot
            self._topics = [
                topic
                for topic in snapshot.topics.values()
                if (topic.elastic is not None or topic.name in snapshot.placements) and topic.state != "retired"
            ]
        return self._topics

    def _watch(self, topic: Topic) -> Watched:
        store = self._stores.get(topic.cluster)
        load = None if store is None else TopicLoad(store, topic.stored_as)
        return Watched(load, Controller(self._sustained_seconds, self._sample_seconds))

    # --- one topic --------------------------------------------------------------------------------------------

    def _begin_look(self, topic: Topic, kind: tuple[str, bool], now: float) -> None:
        watched = self._watched[topic.name]
        resting = now < watched.rests_until and not self._steps.overdue(topic)
        if watched.looking is not None or resting or self._at_once.get(kind, 0) >= MOST_AT_ONCE:
            return

        def looked(failure: object) -> None:
            watched.looking = None
            self._at_once[kind] -= 1
            if isinstance(failure, Failure) and not failure.check(CancelledError):
                _log.failure("a look at {topic} broke", failure, topic="/".join(topic.name))

        self._at_once[kind] = self._at_once.get(kind, 0) + 1
        watched.looked_at = now
        watched.looking = looking = Deferred.fromCoroutine(self._look_at(topic, watched))
        looking.addBoth(looked)

    async def _look_at(self, topic: Topic, watched: Watched) -> None:
        if not self._changes(topic):
            try:
                await within(LONGEST_STEP_SECONDS, self._clock, self._sample(topic, watched))
            except KatewayError as error:
                _log.debug("{topic}: no sample: {error}", topic="/".join(topic.name), error=error)
            except CancelledError:
                raise
            except Exception:
                _log.failure("a sample of {topic} broke; its steps go on", topic="/".join(topic.name))
        try:
            if watched.unfinished:
                # the step before did not come to its end, for whatever reason
                await within(LONGEST_STEP_SECONDS, self._clock, self._steps.end_overdue(topic, watched))
            watched.unfinished = True
            await within(LONGEST_STEP_SECONDS, self._clock, self._steps.take(topic, watched))
            watched.unfinished = False
        except (Conflict, PreconditionFailed) as error:
            # another gateway, or a person, was quicker
            _log.debug("{topic}: {error}", topic="/".join(topic.name), error=error)
        except KatewayError as error:
            watched.waits_for = str(error)
        except CancelledError:
            raise
        except Exception as error:
            watched.waits_for = f"it broke: {error!r}"
            watched.rests_until = self._clock.seconds() + REST_SECONDS
            _log.failure("a look at {topic} broke; the other topics go on", topic="/".join(topic.name))

    async def _sample(self, topic: Topic, watched: Watched) -> None:
        now = self._clock.seconds()
        rules, placement = topic.elastic, self._registry.snapshot.placements.get(topic.name)
        due = watched.sampled_at is None or now - watched.sampled_at >= self._sample_seconds
        if rules is None or placement is None or watched.load is None or not due:
            return
        watched.sampled_at = now
        rate = await watched.load.bytes_per_second(now)
        watched.sample = Sample(now, rate, self._readers("/".join(topic.name)))
        since = None if not placement.since else max(self._now_ms() - placement.since, 0) / 1000
        watched.decision = watched.controller.decide(watched.sample, placement.partitions, rules, since)

    def _readers(self, topic: str) -> int:
        """Counts the readers of the group that has the most, at all gateways."""
        groups: dict[str, int] = {}
        for entry in self._gateways.live.values():
            for group, readers in entry.readers.get(topic, {}).items():
                groups[group] = groups.get(group, 0) + readers
        return max(groups.values(), default=0)

    # --- what is told -----------------------------------------------------------------------------------------

    def report(self) -> bytes:
        """Returns what this gateway sees and would do, for those that do not lead."""
        first = islice(self._watched.items(), MOST_REPORTED)
        topics = {"/".join(name): seen(watched) for name, watched in first}
        return orjson.dumps({"gateway": self._name, "topics": topics})

    async def rows(self) -> tuple[str, dict[str, dict[str, Any]]]:
        """Returns the name of the gateway that leads, and of each elastic topic what is seen, was done and would be."""
        try:
            told = orjson.loads((self.report() if self.leading else await self._registry.leader_report()) or b"{}")
        except (ValueError, KatewayError):
            told = {}
        snapshot = self._registry.snapshot
        rows = {}
        for name, topic in sorted(snapshot.topics.items()):
            placement = snapshot.placements.get(name)
            if topic.elastic is None and placement is None:
                continue
            text = "/".join(name)
            store = self._stores.get(topic.cluster)
            in_store = None if store is None else store.partitions(topic.stored_as)
            sees = told.get("topics", {}).get(text, seen(None, self.stays_because))
            rows[text] = {**shown(topic, placement, in_store), **sees}
        return told.get("gateway", ""), rows
