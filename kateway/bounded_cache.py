"""A dictionary with a bound, for values that can be computed again."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedCache(dict[K, V]):
    """Keeps at most ``most`` entries. When it is full it is emptied: entries in use come back at once, and a lookup
    stays a plain dictionary's (keeping an order of use would cost more than the misses do).
    """

    __slots__ = ("_most",)

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def keep(self, key: K, value: V) -> V:
        """Adds an entry and returns its value."""
        if len(self) >= self._most:
            self.clear()
        self[key] = value
        return value
