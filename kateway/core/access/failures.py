"""Locks out wrong credentials, and not the right ones behind the same address.

Failures are counted by (address, name), the name being a key or ``bearer``, ``admin``; and by address over all names.
A pair with ``max_failures`` within the window is refused without a look at its secret; with ``max_address_failures``
the address is, but for names that were right from there of late. Credentials that were right from there of late are
looked at all the same: a neighbour's guesses, or its revoked key, lock no other caller out.

An IPv6 address stands for its /64, of which one caller has all. Bounded in each table; no timers. No secret is kept,
only its digest, whose key is this process's own.
"""

from __future__ import annotations

import ipaddress
import os
from collections import deque
from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import Final, Generic, TypeVar

from kateway.config.schema import AuthConfig
from kateway.errors import TooManyFailures

MOST_OF_A_NAME: Final = 65
"""A key has at most 64 characters: all longer names with the same beginning count together."""

K = TypeVar("K", bound=Hashable)


class Failures:
    """Counts wrong credentials and remembers right ones. ``seconds`` is a clock that never goes back."""

    def __init__(
        self,
        *,
        seconds: Callable[[], float],
        max_failures: int,
        max_address_failures: int,
        window_seconds: float,
        remembered_seconds: float,
        max_tracked: int,
    ) -> None:
        self._seconds = seconds
        self._remembered = remembered_seconds
        self._digest = blake2b(key=os.urandom(32), digest_size=16)
        self.pairs: _Times[tuple[str, bytes]] = _Times(max_failures, window_seconds, max_tracked)
        """By address and name."""
        self.addresses: _Times[str] = _Times(max_address_failures, window_seconds, max_tracked)
        self.right: dict[bytes | tuple[str, bytes], float] = {}
        """When the digest of credentials, and a pair of address and name, were right last; the latest come last."""
        self._max_right = 2 * max_tracked

    def refuse(self, address: str, name: bytes, proof: bytes) -> None:
        """Raises ``TooManyFailures`` for credentials that are not to be looked at."""
        if not self.pairs.seen:
            return
        now = self._seconds()
        pair = (_block(address), name[:MOST_OF_A_NAME])
        wait = self.pairs.wait(pair, now)
        if wait and self._was_right(self._of(pair, proof), now):
            return
        if not wait:
            wait = self.addresses.wait(pair[0], now)
            if not wait or self._was_right(pair, now):
                return
        raise TooManyFailures(retry_after_seconds=wait)

    def wrong(self, address: str, name: bytes, proof: bytes) -> None:
        """Counts a failure. Credentials that were right (their key is revoked) are looked at no more when locked."""
        now = self._seconds()
        pair = (_block(address), name[:MOST_OF_A_NAME])
        self.right.pop(self._of(pair, proof), None)
        self.pairs.add(pair, now)
        self.addresses.add(pair[0], now)

    def note_right(self, address: str, name: bytes, proof: bytes) -> None:
        """Remembers right credentials. Hot: once for each request that its connection does not remember."""
        pair = (_block(address), name[:MOST_OF_A_NAME])
        now, right = self._seconds(), self.right
        for known in (pair, self._of(pair, proof)):
            right.pop(known, None)
            right[known] = now
        while len(right) > self._max_right:
            del right[next(iter(right))]

    def _was_right(self, known: bytes | tuple[str, bytes], now: float) -> bool:
        at = self.right.get(known)
        return at is not None and at + self._remembered > now

    def _of(self, pair: tuple[str, bytes], proof: bytes) -> bytes:
        digest = self._digest.copy()
        # neither an address nor a name that can be right has a NUL in it
        digest.update(b"%b\0%b\0%b" % (pair[0].encode("utf-8", "replace"), pair[1], proof))
        return digest.digest()


class _Times(Generic[K]):
    """When each failed, at most ``most`` times, the latest last; the one that failed last comes last."""

    def __init__(self, most: int, window_seconds: float, max_tracked: int) -> None:
        self._most = most
        self._window = window_seconds
        self._max_tracked = max_tracked
        self.seen: dict[K, deque[float]] = {}

    def wait(self, key: K, now: float) -> float:
        """Returns the seconds until the lock ends; 0: there is none."""
        times = self.seen.get(key)
        if times is None or len(times) < self._most:
            return 0.0
        wait = times[0] + self._window - now
        return wait if wait > 1e-6 else 0.0

    def add(self, key: K, now: float) -> None:
        times = self.seen.pop(key, None)
        if times is None:
            times = deque(maxlen=self._most)
            self._prune(now)
        times.append(now)
        self.seen[key] = times

    def _prune(self, now: float) -> None:
        while self.seen:
            oldest = next(iter(self.seen))
            if len(self.seen) < self._max_tracked and self.seen[oldest][-1] + self._window > now:
                return
            del self.seen[oldest]


def _block(address: str) -> str:
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64))


def build_failures(config: AuthConfig, seconds: Callable[[], float]) -> Failures:
    """The memory of failures that the configuration asks for; ``seconds`` is a clock that never goes back."""
    return Failures(
        seconds=seconds,
        max_failures=config.max_failures,
        max_address_failures=config.max_address_failures,
        window_seconds=config.failure_window_seconds,
        remembered_seconds=config.right_remembered_seconds,
        max_tracked=config.max_tracked_addresses,
    )
