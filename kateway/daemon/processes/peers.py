"""Keeps what a process knows of the live ones beside it: where they are reached, and their last figures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

MOST_PROBLEM_BYTES = 65536
"""Of problems in an answer between a process and its supervisor."""
MOST_BRIEF_BYTES = 2048
"""Of those that go to all processes twice a second."""


@attrs.frozen(kw_only=True)
class Figures:
    """What a process says of itself every second."""

    connections: int = 0
    readers: int = 0
    groups: int = 0
    bytes_in_flight: int = 0
    requests_waiting: int = 0
    requests_refused: int = 0
    audit_events_dropped: int = 0
    links: Sequence[str] = ()
    """The gateways that it has a link to."""
    configuration: Mapping[str, Any] = attrs.field(factory=dict)
    """As the status tells it."""
    cpu_seconds: float = 0.0
    resident_bytes: int = 0
    unhealthy: Mapping[str, str] = attrs.field(factory=dict)
    """Why, by the parts that are not healthy."""


@attrs.frozen(kw_only=True)
class Peer:
    """A live process of this host that serves."""

    index: int
    pid: int
    generation: int
    started: float = 0.0
    """Seconds since the epoch."""
    silent_seconds: float = 0.0
    """For how long it has given no sign of life."""
    figures: Figures = Figures()


class Peers:
    """The live processes, this one among them, by their indexes. ``run_directory`` is that of their sockets."""

    def __init__(self, run_directory: Path, index: int, generation: int) -> None:
        self.run_directory = run_directory
        self.index = index
        """This process's own."""
        self.generation = generation
        self.missing: Mapping[int, str] = {}
        """Why processes do not serve that did, by their indexes."""
        self._live: dict[int, Peer] = {}
        self._watchers: list[Callable[[], None]] = []

    @property
    def live(self) -> tuple[Peer, ...]:
        """Those that serve, in the order of their indexes; of a generation that is being replaced the newer."""
        return tuple(self._live[index] for index in sorted(self._live))

    @property
    def others(self) -> tuple[Peer, ...]:
        """Those beside this one."""
        return tuple(peer for peer in self.live if peer.index != self.index)

    def socket_path(self, index: int) -> Path:
        """Where a process listens for what is passed on to it; one of an upgrade serves beside its predecessor."""
        return self._path(index, self._pid(index))

    def path_of(self, index: int, pid: int) -> Path:
        """Where the process of this number listens for what is passed on to it, or the one that came after it."""
        path = self._path(index, pid)
        return path if path.exists() else self.socket_path(index)

    def _path(self, index: int, pid: int) -> Path:
        return self.run_directory / f"process-{index}-{pid}.sock"

    @property
    def replaces(self) -> bool:
        """Whether a process of a former generation serves in this one's place."""
        present = self._live.get(self.index)
        return present is not None and present.pid != os.getpid() and present.generation < self.generation

    @property
    def in_place(self) -> bool:
        """Whether this process is the one of its index."""
        present = self._live.get(self.index)
        return present is not None and present.pid == os.getpid()

    def admin_path(self, index: int) -> Path:
        """Where a process answers what one of the others asks on behalf of an operator."""
        return self.run_directory / f"admin-{index}-{self._pid(index)}.sock"

    def _pid(self, index: int) -> int:
        return os.getpid() if index == self.index else self._live[index].pid if index in self._live else 0

    def watch(self, changed: Callable[[], None]) -> None:
        """Has ``changed`` called whenever a process has come, gone or been replaced."""
        self._watchers.append(changed)

    def take(self, peers: Iterable[Peer]) -> None:
        """Takes over what the supervisor tells."""
        before = {(peer.index, peer.pid) for peer in self._live.values()}
        self._live = {peer.index: peer for peer in peers}
        if {(peer.index, peer.pid) for peer in self._live.values()} != before:
            for changed in tuple(self._watchers):
                changed()


def peer_table(peer: Peer, *, brief: bool = False) -> dict[str, Any]:
    """A peer as it goes over the link; ``brief``: without those of its figures that have no bound of a few bytes."""
    if brief:
        peer = attrs.evolve(peer, figures=attrs.evolve(peer.figures, links=(), configuration={}))
    return attrs.asdict(peer)


def peer_from_table(table: Mapping[str, Any]) -> Peer:
    """Reads one; members that another version has added are passed over."""
    return Peer(
        index=table["index"],
        pid=table["pid"],
        generation=table["generation"],
        started=table.get("started", 0.0),
        silent_seconds=table.get("silent_seconds", 0.0),
        figures=figures_from_table(table.get("figures", {})),
    )


def figures_from_table(table: Mapping[str, Any]) -> Figures:
    """Reads a process's figures, as ``peer_from_table`` does."""
    known = {field.name for field in attrs.fields(Figures)}
    return Figures(**{name: value for name, value in table.items() if name in known})


def encode(message: Mapping[str, Any]) -> bytes:
    """A message of the link between a process and its supervisor."""
    return json.dumps(message).encode()


def fitting(problems: Sequence[str], most_bytes: int) -> list[str]:
    """Returns as many problems as fit into so much of a message, which a link carries whole or not at all; a last line
    says how many there are beyond: a file with a thousand faults of one kind has 130 kB of them.
    """
    size = 0
    for number, problem in enumerate(problems):
        size += len(json.dumps(problem)) + 2
        if size > most_bytes:
            return [*problems[:number], f"and {len(problems) - number} more, which the log names"]
    return list(problems)
