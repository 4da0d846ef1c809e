"""Tells the state of the gateway: its health, its status and load, its processes, its entry in the registry."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from kateway import __version__
from kateway.daemon.assembly import open_mode
from kateway.daemon.listening import Listening
from kateway.daemon.parts import Parts
from kateway.daemon.processes.peers import Figures, Peer
from kateway.daemon.processes.together import configuration_of_all, row, summed
from kateway.daemon.storing import health_row
from kateway.model import Health
from kateway.observe.parts import UNANSWERED
from kateway.observe.process import cpu_seconds, resident_bytes
from kateway.registry.interface import GatewayEntry


class Status:
    """One gateway's; asks no server. ``listening`` gives what is made later than this."""

    def __init__(self, parts: Parts, listening: Callable[[], Listening]) -> None:
        self._parts = parts
        self._listening = listening
        self._worker = parts.worker

    def health(self) -> Mapping[str, Health]:
        """Of each part in use, by its name in the configuration. A registry that is away leaves its last snapshot in
        force, so it degrades the gateway and does not make it unready (``web/site/health.py``).
        """
        parts = self._parts.storing.parts()
        if not open_mode(self._parts.settings):
            parts["registry"] = self._parts.registry.health()
        return parts if self._worker is None else self._worker.health_of_all(parts)

    def figures(self) -> Figures:
        """What the other processes are told of this one."""
        unhealthy = {name: health.reason for name, health in self._parts.storing.parts().items() if not health.healthy}
        return Figures(
            **self._own_load(),
            **self._own_counts(),
            links=() if self._parts.clustering is None else self._parts.clustering.linked(),
            configuration=self._parts.reloads.status(),
            unhealthy=unhealthy,
        )

    def processes(self) -> list[dict[str, Any]]:
        """What ``GET /admin/v1/processes`` lists."""
        if self._worker is not None:
            return [row(peer) for peer in self._worker.peers.live]
        figures = attrs.evolve(self.figures(), cpu_seconds=cpu_seconds(), resident_bytes=resident_bytes())
        generation, started = self._parts.kept.generation, self._parts.began
        return [row(Peer(index=0, pid=os.getpid(), generation=generation, started=started, figures=figures))]

    def status(self) -> Mapping[str, Any]:
        """What ``GET /admin/v1/status`` answers."""
        parts, worker = self._parts, self._worker
        return {
            "version": __version__,
            "uptime_seconds": round(time.time() - (parts.began if worker is None else worker.inherited.began), 1),
            "configuration": parts.reloads.status()
            if worker is None
            else configuration_of_all(parts.reloads.status(), (peer.figures for peer in worker.peers.others)),
            "stores": parts.storing.status(),
            "registry": {"driver": parts.settings.registry.driver, **health_row(parts.registry.health())},
            **self._load(),
            **(self._own_counts() if worker is None else summed(self._own_counts(), worker.peers.others)),
            **({UNANSWERED: list(worker.others.absent)} if worker is not None and worker.others.absent else {}),
        }

    def entry(self) -> GatewayEntry:
        """What the list of gateways has of this one."""
        parts, listening = self._parts, self._listening()
        clustering = parts.clustering
        return GatewayEntry(
            name=parts.name,
            public=tuple(listening.public_addresses),
            admin=tuple(listening.admin_addresses),
            cluster="" if clustering is None else clustering.advertised,
            links=self._linked(),
            version=__version__,
            started=round((parts.began if self._worker is None else self._worker.inherited.began) * 1000),
            load=self._load(),
            processes=1 if self._worker is None else self._worker.inherited.count,
            # of several each has an entry of its own for what it places
            placed={} if self._worker is not None else parts.growing.topics.placed(),
            readers={} if self._worker is not None else parts.growing.readers(),
        )

    def _linked(self) -> tuple[str, ...]:
        """The gateways, or processes of them, that any process has a link to."""
        clustering, worker = self._parts.clustering, self._worker
        found = set(() if clustering is None else clustering.linked())
        if worker is not None:
            found = found.union(*(peer.figures.links for peer in worker.peers.others))
            found -= {f"{self._parts.name}-{index}" for index in range(worker.inherited.count)}
        return tuple(sorted(found))

    def _load(self) -> dict[str, int]:
        """Of all processes of the gateway."""
        own = self._own_load()
        return own if self._worker is None else summed(own, self._worker.peers.others)

    def _own_counts(self) -> dict[str, int]:
        parts = self._parts
        return {
            "requests_waiting": parts.edges.turns.waiting,
            "requests_refused": parts.edges.turns.refused,
            "audit_events_dropped": parts.audit.dropped,
        }

    def _own_load(self) -> dict[str, int]:
        public = self._listening().public
        return {
            "readers": self._parts.groups.readers,
            "groups": self._parts.groups.groups,
            "connections": public.connections,
            "bytes_in_flight": public.bytes_in_flight,
        }
