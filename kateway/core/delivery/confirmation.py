"""Names what a connection knows of the bytes that were sent on it: where they lie, how many its client has, its end.

The web layer's connections implement this and the delivery of records rests on it; it imports neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Span(NamedTuple):
    """Where the pieces of one write lie in the connection's stream of plaintext bytes sent.

    Piece *i* ends at ``start + sum(lengths[: i + 1])``; its chunk framing counts as part of it. To be looked
    into only when a connection ends: ``itertools.accumulate`` over the lengths.
    """

    start: int
    lengths: Sequence[int]
    end: int


class Watcher(Protocol):
    """Is notified by its connection of whether sent records have arrived."""

    def unsettled(self) -> bool:
        """Whether anything that was sent may still come back."""

    def asked(self) -> None:
        """The client's next request has begun to arrive, after everything of ours was handed to the socket."""

    def closed(self, confirmed: int, orderly: bool) -> None:
        """The connection is over. ``confirmed`` is the last ``Connection.confirmed()``, read before the descriptor
        was closed; ``orderly``: the client ended it with a FIN (and no reset came before or after it).
        """


class Connection(Protocol):
    """A client's connection, as far as delivery needs to know it."""

    def confirmed(self) -> int | None:
        """How many bytes of the stream (as ``Span`` counts them) the client's TCP has acknowledged.
        ``None`` where it cannot be known (no ``SIOCOUTQ``): then only settling counts.
        """

    def stalled(self) -> bool:
        """The client's window is shut, or has let nothing through since the last look, with bytes waiting."""

    def watch(self, watcher: Watcher) -> None: ...

    def unwatch(self, watcher: Watcher) -> None:
        """Forgets a watcher; one that is not watching is fine."""
