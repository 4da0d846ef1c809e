"""Joins the parts of elastic topics: where their keys go, how they grow, what is told of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from heapq import nlargest
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from kateway.config.schema import Config
from kateway.core.audit.events import Audit
from kateway.core.elastic_topics import ElasticTopics
from kateway.core.groups.memberships import Memberships
from kateway.core.growths import Growths
from kateway.core.key_index import LEEWAY_MS
from kateway.daemon.periodic import RegularWork
from kateway.observe import families
from kateway.observe.exposition import Sampled
from kateway.observe.series import Series
from kateway.observe.troubles import Changes
from kateway.registry.interface import GatewayEntry, Registry
from kateway.storage.interface import Handoff, Store

LOOK_SECONDS = 0.1
"""Costs a comparison while no topic is elastic."""
GROWTH_SECONDS = 0.25
MOST_TOLD_READERS = 1000
"""Of topics and groups, those with the most readers: a node of ZooKeeper's takes 1 MB."""

_log = Logger()


class Growing:
    """One gateway's. ``tell_registry`` writes its entry anew."""

    def __init__(
        self,
        settings: Config,
        name: str,
        registry: Registry,
        stores: Mapping[str, Store],
        handoffs: Mapping[str, Handoff],
        groups: Memberships,
        audit: Audit,
        series: Series | None,
        changes: Changes,
        reactor: Any,
        tell_registry: Callable[[], Any],
        process: int | None,
        stays_because: str,
    ) -> None:
        """``process``: which of several it is. ``stays_because``: why topics cannot be elastic here, or empty."""
        config = settings.elastic
        # unique also among those that were killed: what they had sent is still on its way
        self.process_name = "" if process is None else f"{name}-{process}-{secrets.token_hex(4)}"
        self._registry = registry
        self._groups = groups
        self._audit = audit
        self._series = series
        self._changes = changes
        self._tell_registry = tell_registry
        self._regular = RegularWork(reactor)
        lease_seconds = config.lease_seconds if settings.registry.driver == "zookeeper" else 0.0

        def kept(cluster: str, topic: str) -> bool:
            return cluster in handoffs and handoffs[cluster].holds(topic)

        self.topics = ElasticTopics(
            stores,
            reactor,
            lambda: registry.unheard_since,
            self,
            self._told,
            registry.gateways,
            kept=kept,
            lease_seconds=lease_seconds,
            max_held_bytes=config.max_held_bytes,
        )
        self.growths = Growths(
            name,
            registry,
            stores,
            reactor,
            lambda: time.time_ns() // 1_000_000,
            self,
            gone_seconds=config.gone_seconds if lease_seconds else 0.0,
            sustained_seconds=config.sustained_seconds,
            sample_seconds=config.sample_seconds,
            window_ms=round(settings.publish.idempotency_window_seconds * 1000) + LEEWAY_MS,
            stays_because=stays_because,
        )

    def start(self, regular: RegularWork) -> None:
        """Goes by the registry from now on, and makes topics grow where it may lead. A stop ends ``regular`` at once,
        and the looks at keys only when all publishes have ended.
        """
        self.topics.update(self._registry.snapshot)
        self._registry.watch(self.topics.update)
        if not self.growths.stays_because:
            regular.every(GROWTH_SECONDS, self.growths.look)
        elif self.topics.topics:
            names = sorted(topic.name for topic in self.topics.topics.values())
            _log.error("{topics}: {why}", topics=", ".join(names[:10]), why=self.growths.stays_because)
        self._regular.every(LOOK_SECONDS, self._look)

    def process_entry(self, started_ms: int) -> GatewayEntry:
        """Returns what one of several processes says of itself to the gateway that leads."""
        return GatewayEntry(
            name=self.process_name, started=started_ms, placed=self.topics.placed(), readers=self.readers()
        )

    async def _look(self) -> None:
        self.topics.look()

    def stop(self) -> None:
        """Answers what is held back."""
        self._regular.stop()
        self.growths.stop()
        self.topics.stop()

    def _told(self) -> None:
        telling = Deferred.fromCoroutine(self._tell_registry())
        telling.addErrback(lambda failure: _log.failure("the registry could not be told of keys placed", failure))

    def readers(self) -> dict[str, dict[str, int]]:
        """Counts the readers of elastic topics here, by topic and group, for this gateway's entry."""
        found: dict[str, dict[str, int]] = {}
        if self.topics.topics:
            counted = [
                (len(member.readers), topic.name, group)
                for (cluster, group, stored), member in self._groups.live.items()
                if (topic := self.topics.topics.get((cluster, stored))) is not None and member.readers
            ]
            for readers, name, group in nlargest(MOST_TOLD_READERS, counted):
                found.setdefault(name, {})[group] = readers
        return found

    def sampled(self) -> Iterator[Sampled]:
        """What is held back just now."""
        yield families.ELASTIC_HELD, (), float(self.topics.room.held_messages)

    # --- what is counted and told ----------------------------------------------------------------------------

    def held(self, messages: int) -> None:
        self._count(families.ELASTIC_WAITED, messages)

    def not_released(self, messages: int) -> None:
        self._count(families.ELASTIC_REFUSED, messages)

    def grown(self, topic: str, was: int, now: int, bound_hit: bool) -> None:
        self._count(families.ELASTIC_GROWTHS, 1)
        if bound_hit:
            self._count(families.ELASTIC_BOUND, 1)
        _log.info("{topic}: its keys go to {now} partitions, no longer to {was}", topic=topic, now=now, was=was)
        self._record(topic, "ok", {"partitions": was}, {"partitions": now})

    def given_up(self, topic: str, why: str) -> None:
        self._record(topic, "given-up", None, None)

    def _record(
        self, topic: str, outcome: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
    ) -> None:
        self._changes.note("topic.grow", topic, outcome)
        self._audit.record("gateway", "topic.grow", topic, outcome, change=True, before=before, after=after)

    def _count(self, family: families.Family, number: int) -> None:
        if self._series is not None:
            self._series.counter(family).value += number
