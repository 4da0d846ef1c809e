"""Joins the parts below the listeners, in the order in which one needs the other: storage, registry, groups, access,
clustering, the gateway's rules, edges.

``assembly`` says how a part is made.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from kateway import __version__
from kateway.cluster.interface import Place, process_name
from kateway.config.schema import Config
from kateway.core.access.shared_rates import SharedRates
from kateway.core.administration import Administration
from kateway.core.audit.events import build_audit
from kateway.core.elastic_entries import ElasticEntries
from kateway.core.gateway import Gateway
from kateway.core.groups.memberships import Memberships
from kateway.core.operator.naming import Names
from kateway.core.transforms.in_force import TransformsInForce
from kateway.core.transforms.plugged import TransformPlugins
from kateway.daemon.admitting import Admitting
from kateway.daemon.assembly import (
    build_idempotency,
    build_registry,
    build_shares,
    build_watches,
    data_directory,
    open_mode,
    sink_context,
    topic_creation,
)
from kateway.daemon.clustering import Clustering
from kateway.daemon.counting import Counting
from kateway.daemon.elastic_sharing import registry_faults, unshared
from kateway.daemon.going_on import GoingOn
from kateway.daemon.growing import Growing
from kateway.daemon.leaving import LeavingForDead
from kateway.daemon.message_edges import MessageEdges
from kateway.daemon.periodic import RegularWork
from kateway.daemon.processes.in_place import Kept, take_kept
from kateway.daemon.processes.worker import Worker
from kateway.daemon.reload import Reloads
from kateway.daemon.spans import Spans
from kateway.daemon.storing import Storing
from kateway.registry.interface import Transforms
from kateway.registry.read_only import OpenRegistry


class Parts:
    """One process's. ``tell_registry`` writes the gateway's entry anew; ``worker`` is the side of the supervisor,
    where it is one of several processes.
    """

    def __init__(self, settings: Config, reactor: Any, worker: Worker | None, tell_registry: Callable[[], Any]) -> None:
        self.settings = settings
        """Those in force; replaced by a reload."""
        self.reactor = reactor
        self.worker = worker
        self.began = time.time()
        self.kept = Kept() if worker is not None else take_kept(os.environ)
        self.name = self.kept.gateway or f"gateway-{secrets.token_hex(6)}"
        if worker is not None:
            self.name = worker.inherited.gateway
        member_name = self.name if worker is None else process_name(Place(self.name, worker.index, os.getpid()))
        """What passes records on: each process has its own, and its successor in an upgrade another."""
        self.regular = RegularWork(reactor)
        self.reloads = Reloads(time.time)

        self.data = data = data_directory(settings)
        """What all processes share."""
        self.directory = data if worker is None or worker.index == 0 else data / f"process-{worker.index}"
        """Where this process keeps what is its own."""
        self.watches = build_watches(settings)
        self.counting = counting = Counting(settings, reactor)
        alone = not settings.cluster.endpoint and worker is None
        self.storing = storing = Storing(
            settings,
            reactor,
            data,
            counting,
            self._breaker_tripped,
            None if alone else self._member_label,
            *((None, 1) if worker is None else (worker.index, worker.inherited.generation)),
        )
        stores = storing.stores
        self.registry = build_registry(settings.registry, reactor, data, registry_faults(settings))
        counting.follow(self.registry)
        self.groups = Memberships(stores.__getitem__, reactor, settings.delivery)
        self.audit = build_audit(sink_context(settings, reactor, data, stores), time.time, self.watches)
        self.transforms = TransformsInForce(lambda: self.registry.snapshot, time.time, TransformPlugins(self.watches))
        self.admitting = admitting = Admitting(
            settings,
            reactor,
            self.registry,
            stores,
            self.audit,
            self.transforms,
            counting,
            self.watches,
            None if worker is None else SharedRates(worker.inherited.quotas).bucket,
            None if worker is None else worker.readers,
        )
        self.growing = Growing(
            settings,
            self.name,
            self.registry,
            stores,
            storing.handoffs,
            self.groups,
            self.audit,
            counting.series,
            counting.changes,
            reactor,
            tell_registry,
            None if worker is None else worker.index,
            unshared(settings),
        )
        self.clustering = None
        if not alone:
            passed = settings.cluster, member_name, reactor, stores, self.groups, self.transforms
            siblings = None if worker is None else worker.peers
            adopt = None if worker is None else partial(worker.listen, "cluster", certificates=[])
            self.clustering = Clustering(*passed, counting.series, siblings, adopt)
        self.leaving = (
            None
            if worker is None
            else LeavingForDead(worker, stores, reactor, settings.delivery.session_timeout_seconds)
        )
        goes_on_with = [name for name, store in stores.items() if hasattr(store, "go_on")]
        self.going_on = GoingOn(goes_on_with, self.groups, self.clustering, self.leaving)
        shares = build_shares(settings)
        self.gateway = Gateway(
            topic_creation(settings),
            storing.breakers,
            build_idempotency(settings, reactor),
            self.groups,
            reactor,
            storing.handoffs,
            shares,
            counting.stores,
            elastic=self.growing.topics.topics,
            passing=None if self.clustering is None else self.clustering.passing,
        )
        self.spans = Spans(reactor, counting.series, {"service.version": __version__, "service.instance.id": self.name})
        self.edges = MessageEdges(
            settings.http,
            self.gateway,
            admitting.admission,
            reactor,
            counting,
            self.spans.tracing,
            lambda: self.settings.http.cors_origins,
        )
        self.administration = Administration(
            self.registry,
            stores,
            self.audit,
            time.time,
            just_used=admitting.just_used,
            own=[name for name, cluster in settings.storage.items() if cluster.driver == "embedded"],
            breakers=storing.breakers,
            handoffs=storing.handoffs,
            elastic=ElasticEntries(settings.elastic.max_topics, unshared(settings)),
        )
        self.groups.turns.last_request = lambda: self.edges.turns.handled_at
        self.groups.turns.used_seconds = time.thread_time
        self.groups.turns.under_way = lambda: any(one.under_way for one in shares.values())
        for one in shares.values():
            one.on_empty = self.groups.turns.answered
        self.names = Names(stores, None if open_mode(settings) else admitting.snapshot)

    def configure_transforms(self, entries: Iterable[Transforms]) -> None:
        """Puts the configuration's transforms in force; with a registry there are none."""
        if isinstance(self.registry, OpenRegistry):
            self.registry.configure(entries)

    def _member_label(self) -> str:
        return "" if self.clustering is None else self.clustering.label()

    def _breaker_tripped(self, cluster: str, state: str) -> None:
        self.audit.record("gateway", f"breaker.{state}", cluster, "ok", change=True)
