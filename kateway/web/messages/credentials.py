"""Credentials in a request's headers: keys and secrets, Basic, Bearer, undecoded."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from kateway.core.access.authentication import Credentials, Purpose
from kateway.errors import Unauthorized
from kateway.web.exchange import Header

_NAMES = frozenset({b"pubkey", b"subkey", b"secret", b"authorization"})


Shown = tuple[bytes, bytes, bytes, bytes]
"""``Pubkey``, ``Subkey``, ``Secret`` and ``Authorization`` as they stand; empty where there is none."""


def shown(headers: Sequence[Header]) -> Shown:
    """Reads the credentials from a request's headers (names in lower case) in one pass: this runs for every request."""
    pubkey = subkey = secret = authorization = b""
    for name, value in headers:
        if name in _NAMES:
            if name == b"pubkey":
                pubkey = value
            elif name == b"secret":
                secret = value
            elif name == b"subkey":
                subkey = value
            else:
                authorization = value
    return pubkey, subkey, secret, authorization


def credentials(shown: Shown, peer: str, purpose: Purpose, subject: str = "") -> Credentials:
    """The credentials of a request. Of ``Pubkey`` and ``Subkey`` the one for the purpose counts, else the other;
    both come before ``Authorization``. ``Unauthorized`` where ``Authorization: Basic`` cannot be read.
    """
    pubkey, subkey, secret, authorization = shown
    key = (pubkey or subkey) if purpose == "publish" else (subkey or pubkey)
    token = b""
    if authorization:
        scheme, _, rest = authorization.partition(b" ")
        scheme = scheme.lower()
        if scheme == b"bearer":
            token = rest.strip()
        elif scheme == b"basic" and not key:
            key, secret = _basic(rest.strip())
    return Credentials(peer, key, secret, token, subject)


def _basic(encoded: bytes) -> tuple[bytes, bytes]:
    try:
        key, colon, secret = base64.b64decode(encoded, validate=True).partition(b":")
    except binascii.Error as error:
        raise Unauthorized("the Basic credentials are not base64 of key:secret") from error
    if not colon or not key:
        raise Unauthorized("the Basic credentials are not key:secret")
    return key, secret
