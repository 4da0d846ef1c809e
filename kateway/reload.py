"""What a reload may change, and what became of the last one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs

from kateway.config import Config
from kateway.errors import ConfigError, KatewayError

IN_PLACE = frozenset({"admin", "auth", "delivery", "quotas", "http", "audit"})
"""Tables that can change while the gateway runs, but for ``FIXED``."""
FIXED = frozenset(
    {
        "http.public",
        "http.admin",
        "delivery.session_timeout_seconds",
        "auth.max_tracked_addresses",
        "auth.max_failures",
        "auth.failure_window_seconds",
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
    }
)


def cannot_change(old: Config, new: Config) -> list[str]:
    """Each difference that needs a restart, by its path."""
    problems = []
    for table in attrs.fields(Config):
        before, after = getattr(old, table.name), getattr(new, table.name)
        if before == after:
            continue
        if table.name not in IN_PLACE:
            problems.append(f"{table.name}: cannot change while the gateway runs; restart it")
            continue
        for field in attrs.fields(type(before)):
            path = f"{table.name}.{field.name}"
            if path in FIXED and getattr(before, field.name) != getattr(after, field.name):
                problems.append(f"{path}: cannot change while the gateway runs; restart it")
    return problems


class Reloads:
    """The configuration's generation, and the outcome of the last reload. ``now`` is seconds since the epoch."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.generation = 1
        self._now = now
        self._last: dict[str, Any] | None = None

    def succeeded(self) -> None:
        self.generation += 1
        self._note([])

    def failed(self, error: KatewayError) -> None:
        self._note(error.problems if isinstance(error, ConfigError) else [str(error)])

    def _note(self, problems: list[str]) -> None:
        at = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        self._last = {"at": at, "ok": not problems, "problems": problems}

    def status(self) -> dict[str, Any]:
        return {"generation": self.generation, "last_reload": self._last}
