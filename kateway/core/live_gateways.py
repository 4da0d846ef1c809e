"""Keeps which gateways share the registry, how far each has come, and which have left and may write all the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kateway.registry.interface import GatewayEntry

Process = tuple[str, int]
"""A name, and when it started: one that was started anew under its name says nothing of what the former has sent."""


class LiveGateways:
    """The gateways that share the registry, and since when those are gone that went."""

    def __init__(self) -> None:
        self.live: Mapping[Process, GatewayEntry] = {}
        self.gone: dict[Process, tuple[float, GatewayEntry]] = {}
        self.watched_since: float | None = None

    def look(self, entries: Iterable[GatewayEntry], now: float, gone_seconds: float) -> None:
        live = {(entry.name, entry.started): entry for entry in entries}
        if self.watched_since is None:
            self.watched_since = now
        for process, entry in self.live.items():
            if process not in live:
                self.gone[process] = now, entry
        self.gone = {
            process: (since, entry)
            for process, (since, entry) in self.gone.items()
            if process not in live and now - since < gone_seconds
        }
        self.live = live

    def forget(self) -> None:
        self.live, self.gone, self.watched_since = {}, {}, None

    def unsure(self, now: float, gone_seconds: float) -> str:
        """Says which gateway may still write and cannot be asked; empty: none."""
        if self.gone:
            (name, _started), (since, _entry) = next(iter(self.gone.items()))
            return f"{name} left the registry {now - since:.0f} s ago and may still write"
        if self.watched_since is None or now - self.watched_since < gone_seconds:
            return "this gateway leads for too short a time to know which others may still write"
        return ""

    def behind(self, topic: str, generation: int) -> list[str]:
        """Names the live gateways that do not go by this generation, and those that went without doing so."""
        entries = [*self.live.values(), *(entry for _since, entry in self.gone.values())]
        return [entry.name for entry in entries if entry.placed.get(topic) != generation]
