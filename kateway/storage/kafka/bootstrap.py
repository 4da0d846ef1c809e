"""The brokers to begin with: configured, or found by somebody who knows (ZooKeeper)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from kateway.errors import ConfigError, KatewayError
from kateway.storage.kafka.connection import Address

FIND_INTERVAL_SECONDS = 5.0
"""So often the question is asked again while none of the brokers that are known answers."""

DEFAULT_PORT = 9092

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
    return tuple(parse_address(broker) for broker in brokers)


def parse_address(text: str) -> Address:
    """``host``, ``host:port``, ``[v6]:port``; ``ConfigError`` for anything else."""
    host, colon, port = text.rpartition(":")
    if not colon or (host.startswith("[") and text.endswith("]")) or (":" in host and not host.startswith("[")):
        host, port = text, str(DEFAULT_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError([f"brokers: {text!r} is not host:port"])
    return Address(host, int(port))
