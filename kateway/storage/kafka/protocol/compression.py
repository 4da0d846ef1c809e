"""Compresses Kafka's record batches by the number of a codec: gzip, snappy, lz4 or zstd.

Decompression is bounded: beyond the limit it raises ``CorruptRecords`` and never exhausts the memory.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import cramjam

from kateway.errors import CorruptRecords

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)

CODECS = {"none": NONE, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}

MAX_DECOMPRESSED_BYTES = 134217728
"""Most bytes that a batch may decompress to by default: a hundred times the brokers' default limit."""

_GZIP_LEVEL = 1  # level 9 compresses at 9 MB/s, level 1 at ten times that for a few percent more bytes
_GZIP_WBITS = 31
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_BYTES = 32768
_LZ4_MAGIC = b"\x04\x22\x4d\x18"
_LZ4_HEADER = (
    _LZ4_MAGIC + b"\x60\x40\x82"
)  # version 1, independent blocks of at most 64 KiB: all that Java's reader takes
_LZ4_BLOCK_BYTES = 65536
_FIRST_GUESS_BYTES = 65536


def compress(codec: int, data: bytes) -> bytes:
    """Compresses a batch's records section as Kafka's Java client does."""
    if codec == GZIP:
        packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
        return packer.compress(data) + packer.flush()
    if codec == SNAPPY:
        return _compress_xerial(data)
    if codec == LZ4:
        return _compress_lz4(data)
    if codec == ZSTD:
        return bytes(cramjam.zstd.compress(data))
    return data


def decompress(codec: int, data: bytes, *, legacy: bool = False, max_bytes: int = MAX_DECOMPRESSED_BYTES) -> bytes:
    """Decompresses a batch's records section. ``legacy``: it comes from a message set of magic 0, whose lz4 frames
    carry a wrong header checksum. ``CorruptRecords`` where it is broken, larger than ``max_bytes`` or of a codec
    that is not in any specification.
    """
    try:
        if codec == GZIP:
            return _decompress_gzip(data, max_bytes)
        if codec == SNAPPY:
            return _decompress_snappy(data, max_bytes)
        if codec == LZ4:
            return _growing(cramjam.lz4.decompress_into, _mend_lz4_header(data) if legacy else data, max_bytes)
        if codec == ZSTD:
            return _growing(cramjam.zstd.decompress_into, data, max_bytes)
    except (zlib.error, cramjam.DecompressionError, struct.error) as error:
        raise CorruptRecords(f"records cannot be decompressed: {error}") from error
    if codec == NONE:
        return data
    raise CorruptRecords(f"records are compressed by unknown codec {codec}")


def _too_large(max_bytes: int) -> CorruptRecords:
    return CorruptRecords(f"records decompress to more than {max_bytes} bytes")


def _decompress_gzip(data: bytes, max_bytes: int) -> bytes:
    unpacker = zlib.decompressobj(_GZIP_WBITS)
    plain = unpacker.decompress(data, max_bytes)
    if not unpacker.eof:
        if len(plain) >= max_bytes:
            raise _too_large(max_bytes)
        raise CorruptRecords("records cannot be decompressed: the gzip stream is cut off")
    return plain


def _growing(into: Callable[[bytes, bytearray], int], data: bytes, max_bytes: int) -> bytes:
    """Decompresses into a buffer of bounded size, made four times larger until the result fits or may not fit."""
    size = min(max(_FIRST_GUESS_BYTES, 4 * len(data)), max_bytes)
    while True:
        buffer = bytearray(size)
        try:
            length = into(data, buffer)
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise
            if size >= max_bytes:
                raise _too_large(max_bytes) from error
            size = min(4 * size, max_bytes)
            continue
        return bytes(memoryview(buffer)[:length])


def _compress_xerial(data: bytes) -> bytes:
    parts = [_XERIAL_HEADER]
    for start in range(0, len(data), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(data[start : start + _XERIAL_BLOCK_BYTES]))
        parts.append(len(block).to_bytes(4, "big"))
        parts.append(block)
    return b"".join(parts)


def _decompress_snappy(data: bytes, max_bytes: int) -> bytes:
    """Takes xerial's framing, as Java writes it, and a bare block, as librdkafka does."""
    if not data.startswith(_XERIAL_MAGIC):
        if cramjam.snappy.decompress_raw_len(data) > max_bytes:
            raise _too_large(max_bytes)
        return bytes(cramjam.snappy.decompress_raw(data))
    parts: list[bytes] = []
    total = 0
    position = len(_XERIAL_HEADER)
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        position += 4
        if size > len(data) - position:
            raise CorruptRecords("records cannot be decompressed: a snappy block is cut off")
        block = data[position : position + size]
        total += cramjam.snappy.decompress_raw_len(block)
        if total > max_bytes:
            raise _too_large(max_bytes)
        parts.append(bytes(cramjam.snappy.decompress_raw(block)))
        position += size
    return b"".join(parts)


def _compress_lz4(data: bytes) -> bytes:
    parts = [_LZ4_HEADER]
    for start in range(0, len(data), _LZ4_BLOCK_BYTES):
        block = data[start : start + _LZ4_BLOCK_BYTES]
        packed = bytes(cramjam.lz4.compress_block(block, store_size=False))
        if len(packed) < len(block):
            parts += (len(packed).to_bytes(4, "little"), packed)
        else:  # the top bit says: not compressed
            parts += ((len(block) | 0x80000000).to_bytes(4, "little"), block)
    parts.append(b"\0\0\0\0")
    return b"".join(parts)


def _mend_lz4_header(data: bytes) -> bytes:
    """Puts the right header checksum into a frame: Kafka's first one covered the magic number too (KIP-57)."""
    if len(data) < 7 or not data.startswith(_LZ4_MAGIC):
        return data
    end = 14 if data[4] & 0x08 else 6
    return data[:end] + bytes(((_xxh32_short(data[4:end]) >> 8) & 0xFF,)) + data[end + 1 :]


def _xxh32_short(data: bytes) -> int:
    """xxHash-32 with seed 0 of fewer than 16 bytes (xxHash specification, steps 1 to 7 without the stripes)."""
    mask = 0xFFFFFFFF
    value = (374761393 + len(data)) & mask
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        value = (value + int.from_bytes(data[start : start + 4], "little") * 3266489917) & mask
        value = (((value << 17) | (value >> 15)) & mask) * 668265263 & mask
    for byte in data[whole:]:
        value = (value + byte * 374761393) & mask
        value = (((value << 11) | (value >> 21)) & mask) * 2654435761 & mask
    value = (value ^ (value >> 15)) * 2246822519 & mask
    value = (value ^ (value >> 13)) * 3266489917 & mask
    return value ^ (value >> 16)
