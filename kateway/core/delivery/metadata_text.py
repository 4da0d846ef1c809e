"""Reads and writes what a commit's metadata is made of: numbers as varints, bytes in base 64 without its padding."""

from __future__ import annotations

from base64 import b64decode, b64encode

MAX_DECODED_BYTES = 1 << 20
"""A text that claims to hold more than this is not ours."""


def put(data: bytearray, value: int) -> None:
    """Adds a number that is not negative."""
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)


def text_of(data: bytes) -> str:
    return b64encode(data).rstrip(b"=").decode("ascii")


def bytes_of(text: str) -> bytes:
    """Reads what ``text_of`` wrote. ``ValueError`` (``binascii.Error`` is one) for foreign text."""
    return b64decode(text + "=" * (-len(text) % 4), validate=True)
