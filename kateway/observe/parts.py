"""Asks every process of a gateway for its part of an answer, and names those that gave none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

UNANSWERED = "unanswered_processes"
"""The member of an answer that names the processes whose part it lacks; there is none where it lacks no part."""
PART_SECONDS = 2.0
"""So long an answer waits for a process's part, unless it says otherwise."""


class Parts(NamedTuple):
    """What the other processes answered, by their indexes."""

    by_process: Mapping[int, Any]
    unanswered: tuple[int, ...] = ()
    """Those that did not in time, or do not run just now."""

    @property
    def all(self) -> Iterator[Any]:
        """The answers without the processes' indexes."""
        return iter(self.by_process.values())

    @property
    def named(self) -> dict[str, Any]:
        """What an answer says of the parts that it lacks."""
        return {UNANSWERED: list(self.unanswered)} if self.unanswered else {}

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The same for an answer that is no JSON."""
        if not self.unanswered:
            return ()
        return ((b"Kateway-Unanswered-Processes", ",".join(map(str, self.unanswered)).encode()),)


NO_PARTS = Parts({})


class OtherProcesses(Protocol):
    """The other processes of the gateway, which are asked all at once."""

    @property
    def index(self) -> int | None:
        """This process's own; ``None`` where it is the only one."""

    @property
    def absent(self) -> Sequence[int]:
        """Those that do not serve, or have given no sign of life for longer than an answer waits."""

    async def ask(self, what: str, arguments: Any = None, *, seconds: float = PART_SECONDS) -> Parts:
        """Has them answer; both ways as JSON."""


class NoOthers:
    """Of a gateway with one process."""

    index = None
    absent = ()

    async def ask(self, what: str, arguments: Any = None, *, seconds: float = PART_SECONDS) -> Parts:
        """Nothing is asked."""
        return NO_PARTS


ALONE = NoOthers()
