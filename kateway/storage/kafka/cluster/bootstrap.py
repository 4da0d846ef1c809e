"""Finds the brokers to begin with: configured ones, or those that a function finds (in ZooKeeper)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from kateway.config.addresses import Address, parse_address
from kateway.errors import ConfigError, KatewayError

FIND_INTERVAL_SECONDS = 5.0
"""So often the question is asked again while none of the brokers that are known answers."""

Discover = Callable[[], Coroutine[Any, Any, Sequence[str]]]
"""Finds brokers, ``host:port``, or raises a ``KatewayError`` that names the fault."""


class Bootstrap:
    """``addresses`` of brokers; none before the first ``find`` where they have to be found."""

    def __init__(self, clock: Any, configured: Iterable[str], discover: Discover | None) -> None:
        self.addresses = () if discover is not None else _parsed(configured)
        self._clock = clock
        self._discover = discover
        self._found_at = 0.0

    async def find(self) -> None:
        """Finds the brokers; to be called while none answers. Gives the last ones where none can be found now;
        raises the errors of ``Discover`` where none ever was.
        """
        now = self._clock.seconds()
        if self._discover is None or (self.addresses and now - self._found_at < FIND_INTERVAL_SECONDS):
            return
        try:
            self.addresses = _parsed(await self._discover())
        except KatewayError:
            if not self.addresses:
                raise
        self._found_at = self._clock.seconds()


def _parsed(brokers: Iterable[str]) -> tuple[Address, ...]:
    """``ConfigError`` names all that are no addresses."""
    found: list[Address] = []
    problems: list[str] = []
    for broker in brokers:
        try:
            found.append(parse_address(broker))
        except ValueError as error:
            problems.append(f"brokers: {error}")
    if problems:
        raise ConfigError(problems)
    return tuple(found)
