"""Audit events as lines of text in a file."""

from collections.abc import Sequence
from pathlib import Path

import attrs

from kateway.core.audit.events import Event, SinkContext


class Lines:
    """Appends a line for each event."""

    @attrs.frozen
    class Options:
        path: str

    def __init__(self, context: SinkContext, options: Options) -> None:
        self._in_thread = context.in_thread
        self._path = Path(options.path)

    async def write(self, events: Sequence[Event]) -> None:
        lines = [f"{each.actor} {each.action} {each.object} {each.outcome}\n" for each in events]
        await self._in_thread(lambda: self._append("".join(lines)))

    def _append(self, text: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)

    async def close(self) -> None:
        """Nothing is held open."""
