"""Limits warnings of the same text to one a minute: what they tell of may happen with every request."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from kateway.bounded_cache import BoundedCache

PAUSE_SECONDS = 60.0
"""Between two lines of the same text."""
MOST_TEXTS = 200
_log = Logger()


class RareLog:
    """Warns of each thing once a minute. ``seconds`` is a clock."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._said: BoundedCache[str, float] = BoundedCache(MOST_TEXTS)

    def warn(self, text: str) -> None:
        """Logs a line, where it was not logged within the last minute."""
        now = self._seconds()
        if now - self._said.get(text, -PAUSE_SECONDS) >= PAUSE_SECONDS:
            self._said.keep(text, now)
            _log.warn("{text}", text=text)
