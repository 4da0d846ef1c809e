"""Joins what answers on the two listeners: the calls of the admin API, history, figures, trees, the listeners."""

from __future__ import annotations

import time
from typing import Protocol

from kateway.core.plugins import PluginList
from kateway.daemon import sampling
from kateway.daemon.assembly import open_mode
from kateway.daemon.exposing import Exposing
from kateway.daemon.listening import Listening
from kateway.daemon.observing import Observing
from kateway.daemon.operating import Operating, Part
from kateway.daemon.parts import Parts
from kateway.daemon.registry_everywhere import QUESTION, RegistryEverywhere
from kateway.daemon.sign_in import SignIn
from kateway.daemon.status import Status
from kateway.errors import Denied
from kateway.observe.exposition import Sampler
from kateway.observe.parts import ALONE, OtherProcesses
from kateway.observe.process import process
from kateway.web.admin.api import AdminEdge, Running
from kateway.web.admin.host import HostCalls
from kateway.web.admin.rights import may
from kateway.web.admin.troubles import TroubleCalls
from kateway.web.exchange import Request
from kateway.web.site.tree import admin_tree, public_tree


class Process(Running, Protocol):
    """The running process, as the admin API's calls steer it."""

    async def upgrade(self) -> int:
        """Has what is installed now take over; gives its generation."""


class HttpParts:
    """One process's. ``running`` is what calls reload, drain and upgrade."""

    def __init__(self, parts: Parts, running: Process) -> None:
        self._parts = parts
        reactor, counting = parts.reactor, parts.counting
        others = ALONE if parts.worker is None else parts.worker.others
        self._others: OtherProcesses = others
        self._everywhere = (
            RegistryEverywhere(parts.registry, others, parts.reactor)
            if parts.worker is not None and parts.settings.registry.driver == "zookeeper"
            else None
        )
        self.status = Status(parts, lambda: self.listening)
        self.observing = self._build_observing()
        self.operating = Operating(
            lambda: parts.settings,
            parts.names,
            parts.gateway,
            parts.groups,
            parts.administration,
            reactor,
            parts.transforms,
            PluginList(parts.watches, parts.storing.clusters),
            parts.admitting.quotas,
            self.observing,
            counting.publishes,
            TroubleCalls(
                parts.names, counting.errors, counting.slowest, counting.changes, lambda: parts.audit.newest, others
            ),
            self._check_caller,
            parts.growing.growths,
            lambda actor, ended: self.sign_in.sessions.on_end(actor, ended),  # noqa: PLW0108  # it is made below
            self.status.status,
            others,
        )
        shared = (lambda _name: None) if parts.worker is None else parts.worker.shared
        self.sign_in = SignIn(
            lambda: parts.settings, parts.administration, parts.name, reactor, counting.refused, shared
        )
        self.admin_edge = AdminEdge(
            running,
            parts.administration,
            self.sign_in.guard,
            (
                *self.operating.calls,
                self.sign_in.calls,
                HostCalls(self.status.processes, running.upgrade, parts.administration),
            ),
            None if self._everywhere is None else self._everywhere.wait,
        )
        self.exposing = Exposing(
            parts.settings,
            reactor,
            parts.name,
            counting.series,
            self._all_samplers(),
            lambda: self.admin_edge.guard,
            parts.watches,
            parts.worker,
            parts.groups.turns,
        )
        metrics = self.exposing.edge
        self.public_tree = public_tree(
            reactor,
            parts.edges.plane.handle,
            self.status.health,
            lambda: self.listening.draining,
            lambda: parts.settings.http.cors_origins,
        )
        self.admin_tree = admin_tree(
            reactor,
            self.admin_edge,
            self.status.health,
            lambda: self.listening.draining,
            None if metrics is None else metrics.handle,
        )
        self.listening = Listening(
            parts.settings,
            reactor,
            counting,
            parts.edges.handler,
            self.public_tree,
            self.admin_tree,
            parts.worker,
            parts.kept,
        )

    @property
    def answerers(self) -> dict[str, Part]:
        """This process's part of each answer, by what the others ask for."""
        edge = self.exposing.edge
        found: dict[str, Part] = dict(self.operating.parts)
        if edge is not None:
            found["figures"] = lambda _arguments: edge.samples()
        if self._everywhere is not None:
            found[QUESTION] = self._everywhere.caught_up
        return found

    def _check_caller(self, request: Request, call: str) -> None:
        """Raises where the caller of a stream, that one of the admin API's calls began, would not be let in now."""
        if not may(self.admin_edge.guard.identify(request), call):
            raise Denied("the right to this stream is gone")

    def _build_observing(self) -> Observing | None:
        """What keeps the history; ``None`` where nothing is counted or kept."""
        parts = self._parts
        series = parts.counting.series
        if series is None or not parts.settings.history.enabled:
            return None
        return Observing(
            parts.settings.history,
            series,
            parts.names,
            parts.gateway,
            parts.groups,
            parts.storing.breakers,
            parts.registry,
            parts.storing.stores,
            [name for name, cluster in parts.settings.storage.items() if cluster.driver != "embedded"],
            parts.counting.changes,
            self._samplers(),
            parts.edges.subscriptions.count_blocked,
            parts.directory,
            parts.reactor,
            time.time,
            self._others,
            parts.data,
        )

    def _samplers(self) -> list[Sampler]:
        """What is sampled of few things at once: not of each group, nor of each application."""
        parts, storing = self._parts, self._parts.storing
        samplers: list[Sampler] = [
            sampling.build,
            process,
            lambda: sampling.http(self.listening.factories),
            lambda: sampling.configuration(parts.reloads, lambda: self.listening.draining, len(self.sign_in.sessions)),
            lambda: sampling.stores(storing.stores, storing.handoffs, storing.breakers, storing.health),
            lambda: sampling.audit(parts.audit),
            parts.growing.sampled,
            lambda: sampling.tracing(parts.spans.tracing),
        ]
        if parts.clustering is not None:
            samplers.append(parts.clustering.sampled)
        if parts.worker is not None:
            index = parts.worker.index
            samplers.append(lambda: sampling.process_up(index))
        if not open_mode(parts.settings):
            samplers.append(lambda: sampling.registry(parts.settings.registry.driver, parts.registry.health))
        return samplers

    def _all_samplers(self) -> list[Sampler]:
        """What ``/metrics`` has beside what was counted."""
        parts, samplers = self._parts, self._samplers()
        series = parts.counting.series
        if series is not None:
            left = tuple if self.observing is None else self.observing.left
            samplers.append(lambda: sampling.groups(parts.groups, parts.edges.subscriptions, series.wall, left))
        if not open_mode(parts.settings):
            samplers.append(lambda: sampling.quotas(parts.admitting.quotas, parts.registry.snapshot))
        return samplers
