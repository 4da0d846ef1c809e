"""Decodes request bodies by their ``Content-Encoding``: gzip and zstd, in memory bounded by what a body may have.

A body may hold several gzip members or zstd frames, as both formats allow. ``TooLarge`` beyond the limit, found out
while decoding: never more than the limit is held. ``BadRequest`` where the body is cut short or corrupt,
``UnsupportedMediaType`` for every other coding.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

from kateway.errors import BadRequest, TooLarge, UnsupportedMediaType
from kateway.web.exchange import Header

Decode = Callable[[bytes, int], bytes]
"""From a body and the most bytes that it may decode to, to the decoded body."""

_GZIP_WBITS = 31
_GZIP_SLICE_BYTES = 4096
"""Behind each member zlib copies the rest of its input: a megabyte of empty members, fed whole, is copied
50,000 times.
"""
_FIRST_GUESS_BYTES = 65536


def decoder(headers: Sequence[Header]) -> Decode | None:
    """The decoder that a request's ``Content-Encoding`` names; ``None`` where the body is sent as it is."""
    codings: list[bytes] = []
    for name, value in headers:
        if name == b"content-encoding":
            codings += [coding.strip().lower() for coding in value.split(b",")]
    named = [coding for coding in codings if coding not in (b"", b"identity")]
    if not named:
        return None
    decode = _DECODERS.get(named[0])
    if decode is None or len(named) > 1:
        raise UnsupportedMediaType(
            "send the body with one Content-Encoding, gzip or zstd, or with none",
            headers=(("Accept-Encoding", "gzip, zstd"),),
        )
    return decode


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body decodes to more than {max_bytes} bytes (http.max_body_bytes)")


def gunzip(body: bytes, max_bytes: int) -> bytes:
    """RFC 1952: one member or several, one behind the other."""
    pieces: list[bytes] = []
    left = max_bytes
    unpacker = zlib.decompressobj(_GZIP_WBITS)
    begun = False
    for start in range(0, len(body), _GZIP_SLICE_BYTES):
        data = body[start : start + _GZIP_SLICE_BYTES]
        while data:
            if unpacker.eof:
                unpacker = zlib.decompressobj(_GZIP_WBITS)
            begun = True
            try:
                piece = unpacker.decompress(data, left + 1)
            except zlib.error as error:
                raise BadRequest(f"the body is not gzip: {error}") from error
            left -= len(piece)
            if left < 0:
                raise _too_large(max_bytes)
            pieces.append(piece)
            data = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
    if not begun or not unpacker.eof:
        raise BadRequest("the body is not gzip: it is cut short")
    return b"".join(pieces)


def unzstd(body: bytes, max_bytes: int) -> bytes:
    """RFC 8878: one frame or several; skippable ones are skipped.

    The buffer grows fourfold until the result fits, or may not: at worst a third of the work is done twice.
    """
    import cramjam  # here: most processes never need its megabytes

    if not body:
        raise BadRequest("the body is not zstd: it is cut short")
    size = min(max(_FIRST_GUESS_BYTES, 4 * len(body)), max_bytes)
    while True:
        buffer = bytearray(size)
        try:
            length = cramjam.zstd.decompress_into(body, buffer)
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise BadRequest(f"the body is not zstd: {error}") from error
            if size >= max_bytes:
                raise _too_large(max_bytes) from error
            size = min(4 * size, max_bytes)
            continue
        return bytes(memoryview(buffer)[:length])


_DECODERS: dict[bytes, Decode] = {b"gzip": gunzip, b"x-gzip": gunzip, b"zstd": unzstd}
