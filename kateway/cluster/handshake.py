"""Begins a link: both ends prove that they know the shared secret, each over the other's fresh nonce. Pure.

::

    dialer                                    acceptor
      │── magic, nonce, name, address ─────────►│   the address that it dialed: a proof is good for one gateway only
      │◄─────────────────────────────── nonce ──│
      │── proof ───────────────────────────────►│   wrong: 403, and the connection is closed
      │◄───────────────────── proof and name ───│
      │◄═══════════ frames, each with a code ══►│   under keys that come of secret and nonces, one each way

The acceptor says nothing of itself before the dialer's proof. A proof names its side, so that none can be sent back.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from secrets import token_bytes
from struct import Struct
from typing import NamedTuple

MAGIC = b"kateway-link 1\n"
NONCE_BYTES = 32
PROOF_BYTES = 32
MOST_NAME_BYTES = 255
_LENGTH = Struct(">B")


class Refused(Exception):
    """The other end does not prove that it knows the secret, or does not speak as a gateway does."""


class Elsewhere(Exception):
    """A link is meant for another process behind this address."""

    def __init__(self, index: int, said: bytes) -> None:
        super().__init__(index)
        self.index = index
        self.said = said
        """All that came so far: the other process has to hear it."""


class Keys(NamedTuple):
    """The keys of the frames of an established link."""

    sending: bytes
    receiving: bytes


class Dialer:
    """The end that opened the connection. ``feed`` returns what is to be sent; done when ``keys`` is set."""

    def __init__(self, secret: bytes, name: str, address: str, nonce: bytes | None = None) -> None:
        self.keys: Keys | None = None
        self.peer = ""
        self.rest = b""
        """What came behind the handshake."""
        self._secret = secret
        self._nonce = token_bytes(NONCE_BYTES) if nonce is None else nonce
        self._said = self._nonce + _text(name) + _text(address)
        self._talk: bytes | None = None
        self._buffer = b""

    def begin(self) -> bytes:
        return MAGIC + self._said

    def feed(self, data: bytes) -> bytes:
        """``Refused``."""
        self._buffer += data
        if self._buffer.startswith(b"HTTP/"):
            raise Refused("it refuses the link")
        if self._talk is None:
            if len(self._buffer) < NONCE_BYTES:
                return b""
            self._talk = self._said + self._buffer[:NONCE_BYTES]
            self._buffer = self._buffer[NONCE_BYTES:]
            return _proof(self._secret, b"dialer", self._talk) + self.feed(b"")
        if len(self._buffer) <= PROOF_BYTES:
            return b""
        name = _read_text(self._buffer, PROOF_BYTES)
        if name is None:
            return b""
        text, end = name
        expected = _proof(self._secret, b"acceptor", self._talk + _text(text))
        if not hmac.compare_digest(expected, self._buffer[:PROOF_BYTES]):
            raise Refused("it does not know the secret")
        self.peer = text
        self.keys = _keys(self._secret, self._talk, dialed=True)
        self.rest = self._buffer[end:]
        return b""


class Acceptor:
    """The end that was connected to, under one of the ``addresses``; none: whichever was dialed."""

    def __init__(
        self,
        secret: bytes,
        name: str,
        addresses: frozenset[str],
        nonce: bytes | None = None,
        sibling: Callable[[str], int | None] = lambda _address: None,
    ) -> None:
        """``sibling`` finds the process that an address is of, where it is not this one."""
        self._sibling = sibling
        self.keys: Keys | None = None
        self.peer = ""
        self.rest = b""
        self._secret = secret
        self._name = name
        self._addresses = addresses
        self._nonce = token_bytes(NONCE_BYTES) if nonce is None else nonce
        self._talk: bytes | None = None
        self._buffer = b""

    def feed(self, data: bytes) -> bytes:
        """``Refused``, ``Elsewhere``."""
        self._buffer += data
        if self._talk is None:
            if not MAGIC.startswith(self._buffer[: len(MAGIC)]):
                raise Refused("it is no gateway")
            start = len(MAGIC) + NONCE_BYTES
            name = _read_text(self._buffer, start)
            address = None if name is None else _read_text(self._buffer, name[1])
            if name is None or address is None:
                return b""
            self.peer = name[0]
            sibling = self._sibling(address[0])
            if sibling is not None:
                raise Elsewhere(sibling, self._buffer)
            if self._addresses and address[0] not in self._addresses:
                raise Refused(f"it looks for another gateway, at {address[0]}")
            self._talk = self._buffer[len(MAGIC) : address[1]] + self._nonce
            self._buffer = self._buffer[address[1] :]
            return self._nonce + self.feed(b"")
        if len(self._buffer) < PROOF_BYTES:
            return b""
        if not hmac.compare_digest(_proof(self._secret, b"dialer", self._talk), self._buffer[:PROOF_BYTES]):
            raise Refused("it does not know the secret")
        self.keys = _keys(self._secret, self._talk, dialed=False)
        self.rest = self._buffer[PROOF_BYTES:]
        own = _text(self._name)
        return _proof(self._secret, b"acceptor", self._talk + own) + own


def _proof(secret: bytes, label: bytes, talk: bytes) -> bytes:
    return hmac.digest(secret, label + b"\0" + talk, "sha256")


def _keys(secret: bytes, talk: bytes, *, dialed: bool) -> Keys:
    dialers, acceptors = _proof(secret, b"dialer's frames", talk), _proof(secret, b"acceptor's frames", talk)
    return Keys(dialers, acceptors) if dialed else Keys(acceptors, dialers)


def _text(text: str) -> bytes:
    encoded = text.encode()[:MOST_NAME_BYTES]
    return _LENGTH.pack(len(encoded)) + encoded


def _read_text(data: bytes, at: int) -> tuple[str, int] | None:
    if len(data) <= at:
        return None
    end = at + 1 + data[at]
    if len(data) < end:
        return None
    try:
        return data[at + 1 : end].decode(), end
    except UnicodeDecodeError as error:
        raise Refused("it is no gateway") from error
