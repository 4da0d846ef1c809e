"""Lets this process give way: to what is installed now, to its successor under a supervisor, to none."""

from __future__ import annotations

import socket
from collections.abc import Callable

from kateway.config.schema import Config
from kateway.daemon.listening import Listening
from kateway.daemon.parts import Parts
from kateway.daemon.processes.handing_over import Successor
from kateway.daemon.processes.in_place import InPlace
from kateway.daemon.processes.supervisor import ANSWERED_SECONDS
from kateway.daemon.trial import try_out
from kateway.errors import ConfigError, Conflict, NotFound


class Upgrading:
    """One process's. ``end`` ends the process as TERM does; ``read`` reads the configuration file, and gives
    it with its text where it has no fault.
    """

    def __init__(
        self, parts: Parts, listening: Listening, end: Callable[[], object], read: Callable[[], tuple[Config, str]]
    ) -> None:
        self.end = end
        self.successor: Successor | InPlace | None = None
        """What takes the connections over when this process stops."""
        self._parts = parts
        self._listening = listening
        self._read = read

    async def drain(self, gateway: str) -> None:
        """Does what TERM does, once the call for it is answered. ``NotFound``; ``Conflict`` for another process."""
        if gateway != self._parts.name:
            others = {each.name: each for each in await self._parts.registry.gateways()}
            if gateway not in others:
                raise NotFound(f"there is no live gateway {gateway}; GET gateways names those that there are")
            where = ", ".join(others[gateway].admin) or "its own admin listener"
            raise Conflict(f"{gateway} is another process: ask it to drain at {where}")
        if self._parts.worker is not None:
            await self._parts.worker.ask("drain")
        elif isinstance(self.successor, InPlace):
            # it drains already, for what is installed now
            self.successor.end()
        elif not self._listening.draining:
            self._parts.reactor.callLater(ANSWERED_SECONDS, self.end)

    async def upgrade(self) -> int:
        """Has what is installed now take over; gives its generation. ``ConfigError`` names every problem."""
        parts = self._parts
        if parts.worker is not None:
            answered = await parts.worker.ask("upgrade")
            return int(answered["generation"])
        upgrade = InPlace(parts.reactor, parts.kept.generation + 1, parts.name)
        settings, text = self._read()
        try_out(parts.settings, settings)
        await upgrade.check(parts.settings.process.start_seconds, text)
        try:
            if self.successor is not None or self._listening.draining:
                raise ConfigError(["the gateway is stopping"])
            self._listening.keep(upgrade)
            before = parts.settings.storage
            upgrade.clusters = frozenset(
                name for name, cluster in settings.storage.items() if before.get(name) == cluster
            )
        except BaseException:
            upgrade.give_up()
            raise
        self.successor = upgrade
        # behind the answer
        parts.reactor.callLater(0, upgrade.start)
        return upgrade.generation

    def retire(self, successor: socket.socket | None) -> None:
        """Gives way to the process at the other end: connections go there at the boundary of a request; to none: they
        end behind an answer.
        """
        self.successor = None if successor is None else Successor(successor, self._parts.reactor)
        self._parts.reactor.stop()
