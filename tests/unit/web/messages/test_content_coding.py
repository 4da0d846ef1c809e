"""Encoded request bodies come out as they were before, or are refused; never is more held than a body may have."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable

import cramjam
import pytest

from kateway.errors import BadRequest, TooLarge, UnsupportedMediaType
from kateway.web.messages.content_coding import Decode, decoder, gunzip, unzstd


def zstd(data: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(data))


BOTH = pytest.mark.parametrize(("encode", "decode"), [(gzip.compress, gunzip), (zstd, unzstd)], ids=["gzip", "zstd"])
Encode = Callable[[bytes], bytes]


@BOTH
@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 1_000_000])
def test_body_at_the_limit_decodes_and_one_byte_more_is_too_large(encode: Encode, decode: Decode, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert decode(encode(data), size) == data
    with pytest.raises(TooLarge):
        decode(encode(data + b"y"), size)


@BOTH
def test_several_members_or_frames_are_one_body(encode: Encode, decode: Decode) -> None:
    assert decode(encode(b"one") + encode(b"") + encode(b"two") * 3000, 10_000) == b"one" + b"two" * 3000
    with pytest.raises(TooLarge):
        decode(encode(b"12345") * 3, 14)


@BOTH
def test_every_truncation_and_what_follows_the_end_is_refused(encode: Encode, decode: Decode) -> None:
    whole = encode(b"a body")
    for end in range(len(whole)):
        with pytest.raises(BadRequest):
            decode(whole[:end], 100)
    for bad in (whole + b"junk", b"junk", encode(b"one") + whole[:-2]):
        with pytest.raises(BadRequest):
            decode(bad, 100)


@BOTH
def test_corrupt_body_is_refused(encode: Encode, decode: Decode) -> None:
    whole = bytearray(encode(bytes(range(256))))
    whole[0] ^= 0xFF
    with pytest.raises(BadRequest):
        decode(bytes(whole), 1000)


@BOTH
def test_bomb_is_refused_without_being_held(encode: Encode, decode: Decode) -> None:
    bomb = encode(bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decode(bomb, 1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_skippable_zstd_frames_are_skipped() -> None:
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    assert unzstd(skippable + zstd(b"x") + skippable, 10) == b"x"


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], None),
        ([b"identity"], None),
        ([b""], None),
        ([b"gzip"], gunzip),
        ([b"X-Gzip"], gunzip),
        ([b"identity, GZIP"], gunzip),
        ([b"zstd"], unzstd),
    ],
)
def test_content_encoding_names_the_decoder(values: list[bytes], found: Decode | None) -> None:
    assert decoder([(b"content-encoding", value) for value in values]) is found


@pytest.mark.parametrize("values", [[b"br"], [b"deflate"], [b"gzip, zstd"], [b"gzip", b"gzip"], [b"gzip;q=1"]])
def test_other_codings_are_refused_and_the_known_ones_named(values: list[bytes]) -> None:
    with pytest.raises(UnsupportedMediaType) as refused:
        decoder([(b"content-encoding", value) for value in values])
    assert ("Accept-Encoding", "gzip, zstd") in refused.value.headers
