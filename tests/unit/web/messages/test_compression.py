"""Which responses are compressed, and that each piece can be decoded when it has come."""

from __future__ import annotations

import math
import zlib

import cramjam
import pytest

from kateway.web.messages.compression import Gzip, Zstd, compressor

NDJSON = b"application/x-ndjson"


def chosen(accept_encoding: bytes | None, content_type: bytes = NDJSON, size: float = math.inf) -> bytes | None:
    found = compressor(accept_encoding, content_type, size)
    return None if found is None else found.encoding


@pytest.mark.parametrize(
    ("accept_encoding", "encoding"),
    [
        (None, None),
        (b"", None),
        (b"identity", None),
        (b"br", None),
        (b"gzip", b"gzip"),
        (b"GZIP, br", b"gzip"),
        (b"gzip, zstd", b"zstd"),
        (b"zstd;q=0.5, gzip;q=0.8", b"gzip"),
        (b"gzip;q=0", None),
        (b"*", b"zstd"),
        (b"*;q=0.1, zstd;q=0", b"gzip"),
        (b"gzip;q=nonsense", None),
    ],
)
def test_the_clients_preference_counts(accept_encoding: bytes | None, encoding: bytes | None) -> None:
    assert chosen(accept_encoding) == encoding


def test_response_that_is_small_or_no_text_stays_as_it_is() -> None:
    assert chosen(b"gzip", size=255) is None
    assert chosen(b"gzip", size=256) == b"gzip"
    assert chosen(b"gzip", b"application/octet-stream") is None
    assert chosen(b"gzip", b"application/vnd.kateway.frames") is None


def test_each_gzip_piece_is_readable_when_it_has_come() -> None:
    gzip, reader = Gzip(), zlib.decompressobj(16 + zlib.MAX_WBITS)
    assert [reader.decompress(gzip.piece(data)) for data in (b"one\n" * 500, b"two\n")] == [b"one\n" * 500, b"two\n"]
    assert reader.decompress(gzip.end()) == b""
    assert reader.eof


def test_zstd_pieces_are_one_stream() -> None:
    zstd = Zstd()
    whole = zstd.piece(b"one\n" * 500) + zstd.piece(b"two\n") + zstd.end()
    assert bytes(cramjam.zstd.decompress(whole)) == b"one\n" * 500 + b"two\n"
