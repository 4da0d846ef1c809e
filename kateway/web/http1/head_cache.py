"""Request heads that came before: parsed and found sound once, they need not be parsed again, byte for byte the same.

Programs send one head over and over. A head that says something of one request alone (an id of its own, an
expectation), or leaves open how its body comes, is not kept.
"""

from __future__ import annotations

from kateway.bounded_cache import BoundedCache
from kateway.web.exchange import Head, Request

MOST_HEADS = 1024
MOST_HEAD_BYTES = 4096
_END = b"\r\n\r\n"
_OF_ONE_REQUEST = frozenset((b"x-request-id", b"expect", b"transfer-encoding", b"upgrade", b"idempotency-key"))


class Heads:
    """The heads of all connections of a factory."""

    def __init__(self) -> None:
        self._table: BoundedCache[bytes, Head] = BoundedCache(MOST_HEADS)

    def __len__(self) -> int:
        return len(self._table)

    def clear(self) -> None:
        """Forgets all heads: other limits hold."""
        self._table.clear()

    def find(self, data: bytes) -> tuple[Head, bytes] | None:
        """Head and body, where ``data`` is one whole request and no more, and its head came before."""
        end = data.find(_END) + 4
        head = self._table.get(data[:end])
        return (head, data[end:]) if head is not None and len(data) == end + head.length else None

    def keep(self, data: bytes, request: Request, length: int) -> None:
        """Keeps the head of a sound request that may be followed by others, where ``data`` is it and no more."""
        end = data.find(_END) + 4
        if len(data) != end + length or end > MOST_HEAD_BYTES:
            return
        if any(name in _OF_ONE_REQUEST for name, _ in request.headers):
            return
        request.head = self._table.keep(data[:end], Head(request, length))
