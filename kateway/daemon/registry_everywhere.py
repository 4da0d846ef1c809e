"""Has a change of the registry answered when it is in force in every process of the gateway.

Each process follows the registry by itself. Without this a publish with a new key was refused in every fifth case in
the first moments after the key was made: it came to a process that had not heard of it.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import deferLater

from kateway.observe.parts import OtherProcesses
from kateway.registry.interface import Registry

IN_FORCE_SECONDS = 1.0
"""A change is in force on every gateway within a second: a process that has not heard of it then is not waited for."""
LOOK_SECONDS = 0.005
QUESTION = "registry"


class RegistryEverywhere:
    """Waits for the other processes; and is asked by them. Their revisions have to be those of one server."""

    def __init__(self, registry: Registry, others: OtherProcesses, reactor: Any) -> None:
        self._registry = registry
        self._others = others
        self._reactor = reactor

    async def wait(self) -> None:
        """Waits until the others have what this process has."""
        await self._others.ask(QUESTION, self._registry.snapshot.revision, seconds=IN_FORCE_SECONDS)

    async def caught_up(self, revision: int) -> bool:
        """Answers another process when this one has its revision, or after a second."""
        end = self._reactor.seconds() + IN_FORCE_SECONDS
        while self._registry.snapshot.revision < revision and self._reactor.seconds() < end:
            await deferLater(self._reactor, LOOK_SECONDS)
        return self._registry.snapshot.revision >= revision
