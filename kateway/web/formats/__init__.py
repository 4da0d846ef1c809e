"""The wire forms of records, one module each, and how one is chosen.

A form turns the records of one partition into pieces of body, one piece a record, so that the edge can tell which
records a client has had from how many bytes it has had. Forms are made anew for each response: an array remembers
whether it needs a comma.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from kateway.model import Record


class Form(Protocol):
    """How records look in a response."""

    content_type: bytes
    one_chunk: bool
    """Whether a batch's pieces travel as one HTTP chunk; otherwise each is a chunk of its own."""
    heartbeat: bytes | None
    """Sent to a follower when nothing else is, so that both ends can tell the connection is alive."""
    opening: bytes
    """Bytes before the first record."""
    closing: bytes
    """Bytes after the last."""

    def encode(
        self,
        partition: int,
        records: Sequence[Record],
        attempts: Sequence[int] | None,
        leases: Sequence[str] | None,
    ) -> list[bytes]:
        """One piece for each record. ``attempts`` (1 for a first delivery) and ``leases`` go with the records."""
        ...
