"""Authenticates by key and secret: checks the registry's salted hash once and remembers it by a keyed digest.

The digest's key is this process's own, and no secret is kept here. An entry holds only while the snapshot has
the very hash that was matched, so a revoked, rotated or replaced key is refused from the moment the snapshot changes.
An unknown key is checked against hashes that match nothing: it takes as long as a wrong secret and is told the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import blake2b

from kateway.bounded_cache import BoundedCache
from kateway.core.access.authentication import AuthenticatorContext, Credentials, Purpose, SnapshotNow, check_kind
from kateway.errors import Unauthorized
from kateway.model import Principal
from kateway.registry.interface import Key
from kateway.registry.secrets import NO_SECRET_HASH, matches

HASHES_OF_A_KEY = 2
"""Its secret's, and for a time after a rotation its former one's."""

_WRONG = "the key is unknown or its secret is wrong"


class KeySecret:
    """Authenticates by the registry's keys."""

    challenge = 'Basic realm="kateway", charset="UTF-8"'

    def __init__(self, *, snapshot: SnapshotNow, now: Callable[[], float], max_cached: int = 10_000) -> None:
        self._snapshot = snapshot
        self._now = now
        self._digest = blake2b(key=os.urandom(32), digest_size=16)
        self._matched: BoundedCache[bytes, tuple[Principal, str]] = BoundedCache(max_cached)
        """By the digest of key and secret: the principal, and the hash that they matched."""

    def authenticate(self, credentials: Credentials, purpose: Purpose) -> Principal | None:
        """The key's application; ``None`` where no key is shown."""
        shown = credentials.key
        if not shown:
            return None
        digest = self._digest.copy()
        # a key has no NUL in it, so no two pairs of key and secret run into the same bytes
        digest.update(shown + b"\0" + credentials.secret)
        pair = digest.digest()
        known = self._matched.get(pair)
        if known is not None:
            principal, hashed = known
            key = self._snapshot().keys.get(principal.key)
            if key is not None and key.application == principal.application:
                if key.secret_hash == hashed:
                    check_kind(key, purpose)
                    return principal
                if hashed in key.hashes(int(self._now() * 1000)):
                    check_kind(key, purpose)
                    return _principal(key, hashed)
            del self._matched[pair]
        return self._check(shown, credentials.secret, pair, purpose)

    def _check(self, shown: bytes, secret: bytes, pair: bytes, purpose: Purpose) -> Principal:
        key = self._snapshot().keys.get(shown.decode("utf-8", "replace"))
        hashes = () if key is None else key.hashes(int(self._now() * 1000))
        given = secret.decode("utf-8", "surrogateescape")
        matched = None
        # every hash, found or not: how many there are and which one matched shall not be told by the time it takes
        for hashed in (*hashes, *(NO_SECRET_HASH,) * (HASHES_OF_A_KEY - len(hashes))):
            if matches(given, hashed):
                matched = hashed
        if key is None or matched is None:
            raise Unauthorized(_WRONG)
        principal = _principal(key, matched)
        self._matched.keep(pair, (principal, matched))
        check_kind(key, purpose)
        return principal


def _principal(key: Key, hashed: str) -> Principal:
    """A former secret's ends with its grace."""
    expires = None if hashed == key.secret_hash else key.rotated_until / 1000
    return Principal(key.application, key.key, expires)


def key_secret_authenticator(context: AuthenticatorContext) -> KeySecret:
    """The entry point ``key-secret``."""
    return KeySecret(snapshot=context.snapshot, now=context.now, max_cached=context.config.max_cached_secrets)
