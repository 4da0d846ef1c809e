"""Authenticates to a broker: PLAIN (RFC 4616), SCRAM (RFC 5802, 7677), OAUTHBEARER (RFC 7628).

A mechanism is a generator: it yields the bytes to send and is sent the answers; their transport is for ``sasl``.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator
from functools import lru_cache

MAX_ITERATIONS = 1_000_000
"""Of a SCRAM password's hash: more would hold up the reactor."""
MAX_REASON_CHARACTERS = 200

Conversation = Generator[bytes, bytes, None]
"""A mechanism: yields bytes to send, is sent the answers."""


class AuthenticationFailed(Exception):
    """The broker refuses the credentials, or cannot prove that it knows them."""


def plain(username: str, password: str) -> Conversation:
    """PLAIN: fit for TLS only."""
    yield b"\0" + username.encode() + b"\0" + password.encode()


def scram(algorithm: str, username: str, password: str, nonce: str | None = None) -> Conversation:
    """SCRAM with ``sha256`` or ``sha512``, without channel binding. Checks that the server knows the password too."""
    nonce = nonce or b64encode(os.urandom(24)).decode()
    first = f"n={username.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
    server_first = (yield b"n,," + first.encode()).decode()
    said = _attributes(server_first)
    if not said.get("r", "").startswith(nonce) or "s" not in said or not said.get("i", "").isdigit():
        raise AuthenticationFailed(f"the broker's SCRAM challenge is no answer to ours ({said.get('e', 'malformed')})")
    iterations = int(said["i"])
    if not 1 <= iterations <= MAX_ITERATIONS:
        raise AuthenticationFailed(f"the broker asks for {iterations} iterations")
    salted = _salted(algorithm, password, said["s"], iterations)
    client_key = hmac.digest(salted, b"Client Key", algorithm)
    without_proof = f"c=biws,r={said['r']}"
    signed = f"{first},{server_first},{without_proof}".encode()
    signature = hmac.digest(hashlib.new(algorithm, client_key).digest(), signed, algorithm)
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    final = _attributes((yield f"{without_proof},p={b64encode(proof).decode()}".encode()).decode())
    expected = hmac.digest(hmac.digest(salted, b"Server Key", algorithm), signed, algorithm)
    if not hmac.compare_digest(final.get("v", "").encode(), b64encode(expected)):
        raise AuthenticationFailed(f"the broker does not prove that it knows the password ({final.get('e', '')})")


def _attributes(message: str) -> dict[str, str]:
    return {part[0]: part[2:] for part in message.split(",") if part[1:2] == "="}


@lru_cache(maxsize=16)
def _salted(algorithm: str, password: str, salt: str, iterations: int) -> bytes:
    """Takes milliseconds; a broker gives each connection the same salt."""
    return hashlib.pbkdf2_hmac(algorithm, password.encode(), b64decode(salt), iterations)


def oauthbearer(token: str) -> Conversation:
    """OAUTHBEARER: fit for TLS only. The token identifies us."""
    refusal = yield b"n,,\x01auth=Bearer " + token.encode() + b"\x01\x01"
    if refusal:
        # RFC 7628 3.2.3: the reason comes as a challenge; the failure itself when that was answered
        yield b"\x01"
        reason = refusal.decode("utf-8", "replace")[:MAX_REASON_CHARACTERS]
        raise AuthenticationFailed(f"the broker does not take the token: {reason}")


MECHANISMS: dict[str, Callable[[str, str], Conversation]] = {
    "PLAIN": plain,
    "SCRAM-SHA-256": lambda username, password: scram("sha256", username, password),
    "SCRAM-SHA-512": lambda username, password: scram("sha512", username, password),
    "OAUTHBEARER": lambda _username, token: oauthbearer(token),
}
"""By name; each takes the user's name and secret."""
