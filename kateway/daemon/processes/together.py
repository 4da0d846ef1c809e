"""Makes one answer of what the processes say of themselves: the load, the health, the list of processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kateway.daemon.processes.peers import Figures, Peer
from kateway.model import Health


def summed(own: Mapping[str, int], others: Iterable[Peer]) -> dict[str, int]:
    """The load of all processes; ``own`` is this one's, as of now."""
    found = dict(own)
    for peer in others:
        for name in found:
            found[name] += getattr(peer.figures, name)
    return found


def configuration_of_all(own: Mapping[str, Any], others: Iterable[Figures]) -> Mapping[str, Any]:
    """Of the process that has reloaded most often: one that was started since has not."""
    found = [own, *(one.configuration for one in others if one.configuration)]
    return max(found, key=lambda each: (each["generation"], each is own))


def health_of_all(own: Mapping[str, Health], others: Iterable[Figures]) -> dict[str, Health]:
    """A part is healthy where it is for any process: one that has just been started takes a second to connect, and a
    load balancer must not take the others away for that.
    """
    figures = list(others)
    return {
        name: Health(True, "", health.details)
        if not health.healthy and any(name not in one.unhealthy for one in figures)
        else health
        for name, health in own.items()
    }


def row(peer: Peer) -> dict[str, Any]:
    """A process as ``GET /admin/v1/processes`` shows it."""
    figures = peer.figures
    return {
        "index": peer.index,
        "pid": peer.pid,
        "generation": peer.generation,
        "started": peer.started,
        "connections": figures.connections,
        "readers": figures.readers,
        "groups": figures.groups,
        "bytes_in_flight": figures.bytes_in_flight,
        "configuration_generation": figures.configuration.get("generation"),
        "cpu_seconds": figures.cpu_seconds,
        "resident_bytes": figures.resident_bytes,
        "unhealthy": dict(figures.unhealthy),
    }
