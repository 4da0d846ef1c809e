"""Keeps one application from taking all the room that a cluster has for messages under way."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kateway.model import Message
from kateway.storage.interface import RECORD_OVERHEAD_BYTES

TIMES_FREE = 4
"""So one application alone may have four fifths of the room, two have four ninths each, and some is always left."""


class InflightShares:
    """Counts the bytes under way of each application to one cluster, against ``max_bytes``.

    An application may have ``TIMES_FREE`` times what is free (dynamic thresholds, Choudhury and Hahne 1998): nothing is
    set apart for those that send nothing, and one that begins finds room.
    """

    __slots__ = ("_held", "_max_bytes", "_total", "on_empty")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: dict[str, int] = {}
        self._total = 0
        self.on_empty: Callable[[], None] | None = None
        """Called when nothing is under way any more."""

    @property
    def under_way(self) -> bool:
        """Whether messages are on their way."""
        return self._total > 0

    def take(self, application: str, size: int) -> bool:
        """Counts bytes that are sent on their way; false where the application has its share already. Hot."""
        held = self._held.get(application, 0)
        total = self._total + size
        # one message at a time always goes: a store that is empty takes one of any size
        if held and held + size > TIMES_FREE * (self._max_bytes - total):
            return False
        self._held[application] = held + size
        self._total = total
        return True

    def release(self, application: str, size: int) -> None:
        """Takes back what ``take`` has counted."""
        self._total -= size
        left = self._held[application] - size
        if left:
            self._held[application] = left
        else:
            del self._held[application]
        if not self._total and self.on_empty is not None:
            self.on_empty()

    def held(self, application: str) -> int:
        """Returns an application's bytes under way."""
        return self._held.get(application, 0)


def weight(messages: Sequence[Message]) -> int:
    """Returns the bytes that messages cost while they are under way."""
    if len(messages) == 1:
        # by far the most are: a generator less
        message = messages[0]
        return len(message.value or b"") + len(message.key or b"") + RECORD_OVERHEAD_BYTES
    return sum([len(each.value or b"") + len(each.key or b"") + RECORD_OVERHEAD_BYTES for each in messages])
