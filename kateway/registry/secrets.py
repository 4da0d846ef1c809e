"""Secrets: made here, kept only as salted hashes, compared in constant time.

A hash is one round of SHA-256 over salt and secret, on purpose. Slow hashes (scrypt, PBKDF2) make *guessable*
secrets dear to guess; the gateway makes its secrets itself with 192 random bits, beyond guessing at any speed,
and a slow hash would hand every caller of a public port a way to spend our processor. A check takes microseconds.
Secrets of your own choosing in a registry file must be as long: ``hash_secret`` cannot tell.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets

SECRET_BYTES = 24
SALT_BYTES = 16

NO_SECRET_HASH = f"sha256${'0' * 2 * SALT_BYTES}${'0' * 64}"
"""Matches no secret: an unknown key is checked against it, so that it takes as long as a known one."""


def new_secret() -> str:
    """A secret of 192 random bits, in 32 characters that need no quoting anywhere."""
    return secrets.token_urlsafe(SECRET_BYTES)


def new_key() -> str:
    """Makes a name for a key: 96 random bits, so that none meets another."""
    # a leading dash would be taken for an option on a command line
    return "k" + secrets.token_hex(12)


def hash_secret(secret: str, salt: bytes | None = None) -> str:
    """The hash to keep of a secret: ``sha256$SALT$DIGEST`` in hex, with a random salt unless one is given."""
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    return f"sha256${salt.hex()}${_digest(secret, salt)}"


def matches(secret: str, hashed: str) -> bool:
    """Whether a secret is the one that was hashed, in a time that does not tell how nearly."""
    _scheme, salt, digest = hashed.split("$")
    return hmac.compare_digest(_digest(secret, bytes.fromhex(salt)), digest)


def _digest(secret: str, salt: bytes) -> str:
    # surrogates come from headers that are not UTF-8: they match nothing, but must not raise
    return hashlib.sha256(salt + secret.encode("utf-8", "surrogateescape")).hexdigest()
