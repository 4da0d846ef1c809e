"""Compressed responses: what ``Accept-Encoding`` allows, as a stream that is flushed with every batch.

Only text forms of some size, or that may grow, are worth it. A batch's records become one piece: the client has them
all or none, as nothing can be read of a part of a compressed block for sure.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

from kateway.web.params import Cache

WORTH_IT_BYTES = 256
GZIP_LEVEL = 1
"""Nine takes ten times as long for a few per cent."""


class Compressor(Protocol):
    """Turns pieces of a body into pieces of its encoding; each can be decoded as soon as it has arrived."""

    encoding: bytes

    def piece(self, data: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class Gzip:
    """RFC 1952, one member."""

    encoding = b"gzip"

    def __init__(self) -> None:
        self._stream = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)

    def piece(self, data: bytes) -> bytes:
        return self._stream.compress(data) + self._stream.flush(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        return self._stream.flush()


class Zstd:
    """RFC 8878: each piece a frame of its own, which decoders read as one stream."""

    encoding = b"zstd"

    def piece(self, data: bytes) -> bytes:
        import cramjam  # here: most processes never need its megabytes

        return bytes(cramjam.zstd.compress(data, level=1))

    def end(self) -> bytes:
        return b""


def _best(accept_encoding: bytes) -> Callable[[], Compressor] | None:
    """RFC 9110 12.5.3: zstd or gzip, whichever has the higher q; of equals zstd."""
    qualities: dict[bytes, float] = {}
    for part in accept_encoding.lower().split(b","):
        name, _, parameter = part.partition(b";")
        try:
            qualities[name.strip()] = float(parameter.strip().removeprefix(b"q=") or 1)
        except ValueError:
            qualities[name.strip()] = 0.0
    anything = qualities.get(b"*", 0.0)
    gzip, zstd = qualities.get(b"gzip", anything), qualities.get(b"zstd", anything)
    if max(gzip, zstd) <= 0:
        return None
    return Zstd if zstd >= gzip else Gzip


_cached = Cache(lambda raw: (_best(raw),))


def compressor(accept_encoding: bytes | None, content_type: bytes, size: float) -> Compressor | None:
    """A compressor for a body of at least ``size`` bytes, where the client takes one and it is worth it."""
    if accept_encoding is None or size < WORTH_IT_BYTES or content_type not in _TEXT:
        return None
    (best,) = _cached(accept_encoding)
    return None if best is None else best()


_TEXT = frozenset({b"application/x-ndjson", b"application/json", b"text/event-stream", b"text/plain"})
