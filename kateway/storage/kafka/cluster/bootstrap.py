"""The brokers to begin with: configured, or found by somebody who knows (ZooKeeper)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from kateway.config.addresses import Address, parse_address
from kateway.errors import ConfigError, KatewayError

FIND_INTERVAL_SECONDS = 5.0
"""So often the question is asked again while none of the brokers that are known answers."""

Discover = Callable[[], Coroutine[Any, Any, Sequence[str]]]
"""Answers brokers, ``host:port``, or raises a ``KatewayError`` that says what is wrong."""


class Bootstrap:
    """``addresses`` of brokers; none before the first ``find`` where they have to be found."""

    def __init__(self, clock: Any, configured: Iterable[str], discover: Discover | None) -> None:
        self.addresses = () if discover is not None else _parsed(configured)
        self._clock = clock
        self._discover = discover
        self._found_at = 0.0

    async def find(self) -> None:
        """To be called while no broker answers. What was found before is good enough where nothing can be found now;
        raises what ``Discover`` does where nothing ever was.
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
