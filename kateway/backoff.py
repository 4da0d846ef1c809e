"""Pauses between attempts that double up to a bound."""

from __future__ import annotations


class Backoff:
    """``next`` returns ``first`` seconds, then twice as many each time, at most ``longest``."""

    __slots__ = ("_first", "_longest", "seconds")

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self.seconds = 0.0
        """The last pause; 0 after a success."""

    def next(self) -> float:
        """Returns the pause after a further failure."""
        self.seconds = min(max(self.seconds * 2, self._first), self._longest)
        return self.seconds

    def reset(self) -> None:
        """Begins again with the first pause: an attempt succeeded."""
        self.seconds = 0.0
