"""Compares configurations for what a reload may change, and keeps what became of the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from kateway.config.schema import Config
from kateway.errors import ConfigError

IN_PLACE = frozenset(
    {"admin", "auth", "delivery", "quotas", "http", "audit", "transforms", "plugins", "metrics", "tracing"}
)
"""Tables that can change while the gateway runs, but for ``FIXED``."""
FIXED = frozenset(
    {
        "http.public",
        "http.admin",
        "delivery.session_timeout_seconds",
        "delivery.instance_name",
        "auth.max_tracked_addresses",
        "auth.max_failures",
        "auth.max_address_failures",
        "auth.failure_window_seconds",
        "auth.right_remembered_seconds",
        "auth.note_used_interval_seconds",
        "quotas.max_tracked",
        "audit.sinks",
        "audit.file",
        "audit.max_file_bytes",
        "audit.max_files",
        "audit.topic",
        "audit.cluster",
        "audit.topic_timeout_seconds",
        "audit.max_queued_events",
        "audit.options",
        "metrics.enabled",
        "metrics.max_series",
        "metrics.sinks",
        "metrics.sink_interval_seconds",
        "metrics.options",
    }
)


def cannot_change(old: Config, new: Config) -> list[str]:
    """Each difference that needs a restart, by its path."""
    return [
        f"{path}: cannot change while the gateway runs; restart it"
        for path in _differences(old, new, "")
        if path in FIXED or path.partition(".")[0] not in IN_PLACE
    ]


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    """The paths of the options that are not the same; of a table that one of them lacks, its own."""
    if old == new:
        return
    before, after = _table(old), _table(new)
    if path in FIXED or type(old) is not type(new) or before is None or after is None:
        yield path
        return
    for name in {**before, **after}:
        inside = f"{path}.{name}".removeprefix(".")
        if name in before and name in after:
            yield from _differences(before[name], after[name], inside)
        else:
            yield inside


def _table(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, dict):
        return value
    return attrs.asdict(value, recurse=False) if attrs.has(type(value)) else None


class Reloads:
    """The configuration's generation, and the outcome of the last reload. ``now`` is seconds since the epoch."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.generation = 1
        self.last_good = True
        """Whether the last reload, or the start before any, succeeded."""
        self.last_at = now()
        """When that was."""
        self._now = now
        self._last: dict[str, Any] | None = None

    def succeeded(self) -> None:
        self.generation += 1
        self._note([])

    def failed(self, error: Exception) -> None:
        self._note(error.problems if isinstance(error, ConfigError) else [str(error)])

    def _note(self, problems: list[str]) -> None:
        self.last_good = not problems
        self.last_at = self._now()
        at = datetime.fromtimestamp(self.last_at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self._last = {"at": at, "ok": not problems, "problems": problems}

    def status(self) -> dict[str, Any]:
        return {"generation": self.generation, "last_reload": self._last}
