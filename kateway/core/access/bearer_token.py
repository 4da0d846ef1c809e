"""Bearer tokens: JSON Web Tokens signed with a shared secret (HS) or by a key of a JWKS file (RS, PS, ES).

The algorithm is one that the configuration lists, never one that the token chooses freely, and a key is only used
with the algorithms of its own type. A token must say when it expires; the audience and the issuer are checked where
they are configured. A token that was good is remembered by a keyed digest until it expires.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import jwt
from jwt.exceptions import ExpiredSignatureError, PyJWKError, PyJWKSetError, PyJWTError

from kateway.bounded_cache import BoundedCache
from kateway.config.schema import JwtConfig
from kateway.core.access.authentication import KIND_FOR, AuthenticatorContext, Credentials, Purpose, SnapshotNow
from kateway.errors import ConfigError, CredentialsExpired, Denied, Unauthorized
from kateway.model import Principal

SHARED = frozenset({"HS256", "HS384", "HS512"})
SIGNED = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"})
KEY_TYPES: Mapping[str, str] = {"RS": "RSA", "PS": "RSA", "ES": "EC"}
CURVES: Mapping[str, str] = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
MIN_SECRET_BYTES = 32
"""RFC 7518 3.2: an HS256 key is at least as long as the hash."""
MAX_KEYS = 100
MAX_SUBJECT_CHARACTERS = 128


class BearerToken:
    """Authenticates by a JWT. ``keys`` are of a JWKS, ``secret`` is for HS; either may be empty."""

    challenge = 'Bearer realm="kateway"'

    def __init__(
        self,
        config: JwtConfig,
        *,
        keys: tuple[jwt.PyJWK, ...],
        secret: bytes,
        snapshot: SnapshotNow,
        now: Callable[[], float],
        max_cached: int = 10_000,
    ) -> None:
        self._config = config
        self._keys = keys
        self._secret = secret
        self._snapshot = snapshot
        self._now = now
        self._digest = blake2b(key=os.urandom(32), digest_size=16)
        self._known: BoundedCache[bytes, tuple[Principal, frozenset[str] | None]] = BoundedCache(max_cached)

    def authenticate(self, credentials: Credentials, purpose: Purpose) -> Principal | None:
        """The application that the token's claim names; ``None`` without a token."""
        token = credentials.token
        if not token:
            return None
        if len(token) > self._config.max_token_bytes:
            raise Unauthorized("the token is too long")
        digest = self._digest.copy()
        digest.update(token)
        seen = digest.digest()
        known = self._known.get(seen)
        if known is None:
            known = self._known.keep(seen, self._verify(token))
        principal, kinds = known
        if principal.expires is not None and principal.expires <= self._now():
            # it stays known: to verify it again for each request would cost more than to remember it
            raise CredentialsExpired("the token has expired")
        if principal.application not in self._snapshot().applications:
            raise Denied("the token's application is not registered")
        kind = KIND_FOR[purpose]
        if kinds is not None and kind is not None and kind not in kinds:
            raise Denied(f"the token is not good to {purpose}")
        return principal

    def _verify(self, token: bytes) -> tuple[Principal, frozenset[str] | None]:
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if algorithm not in self._config.algorithms:
                raise Unauthorized("the token is signed with an algorithm that is not accepted")
            claims = self._decode(token, algorithm, header.get("kid"))
        except ExpiredSignatureError as error:
            raise CredentialsExpired("the token has expired") from error
        except (PyJWTError, ValueError, TypeError) as error:
            # the reason would only help a forger; the log is no place for tokens either
            raise Unauthorized("the token is not good here") from error
        return self._principal(claims), self._kinds(claims)

    def _decode(self, token: bytes, algorithm: str, kid: object) -> dict[str, Any]:
        failure: PyJWTError | None = None
        for key in self._candidates(algorithm, kid):
            try:
                return self._decode_with(key, token, algorithm)
            except jwt.InvalidSignatureError as error:
                failure = error
        raise failure or Unauthorized("the token is signed with a key that is not known here")

    def _decode_with(self, key: Any, token: bytes, algorithm: str) -> dict[str, Any]:
        # times are checked below, by our clock
        options: Any = {"require": ["exp"], "verify_aud": bool(self._config.audience), **_NO_TIMES}
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._config.audience or None,
            issuer=self._config.issuer or None,
            options=options,
        )
        now, leeway = self._now(), self._config.leeway_seconds
        if _number(claims, "exp") + leeway <= now:
            raise ExpiredSignatureError
        if "nbf" in claims and _number(claims, "nbf") - leeway > now:
            raise jwt.ImmatureSignatureError
        return claims

    def _candidates(self, algorithm: str, kid: object) -> list[Any]:
        """The keys that may have signed it: of the algorithm's own type, and of the token's key id where both say."""
        if algorithm in SHARED:
            return [self._secret] if self._secret else []
        fitting = [key for key in self._keys if _fits(key, algorithm)]
        named = [key for key in fitting if kid is not None and key.key_id == kid]
        return named or [key for key in fitting if kid is None or key.key_id is None]

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        application = claims.get(self._config.application_claim)
        if not isinstance(application, str) or not application:
            raise Unauthorized(f"the token does not name its application (claim {self._config.application_claim})")
        subject = claims.get("sub")
        shown = subject[:MAX_SUBJECT_CHARACTERS] if isinstance(subject, str) else ""
        return Principal(application, f"jwt:{shown}", _number(claims, "exp") + self._config.leeway_seconds)

    def _kinds(self, claims: Mapping[str, Any]) -> frozenset[str] | None:
        """Returns the kinds that the token is good for, where a claim lists them: ``pub``, ``sub``, a list or words."""
        if not self._config.kinds_claim:
            return None
        given = claims.get(self._config.kinds_claim, ())
        if isinstance(given, str):
            given = given.split()
        return (
            frozenset(kind for kind in given if isinstance(kind, str))
            if isinstance(given, (list, tuple))
            else frozenset()
        )


_NO_TIMES = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}


def _number(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e15:
        raise Unauthorized(f"the token's {name} is not a time")
    return float(value)


def _fits(key: jwt.PyJWK, algorithm: str) -> bool:
    if key.key_type != KEY_TYPES[algorithm[:2]]:
        return False
    table = key._jwk_data  # PyJWK shows neither curve nor declared algorithm
    return table.get("alg", algorithm) == algorithm and table.get("crv", CURVES.get(algorithm)) == CURVES.get(algorithm)


def jwt_authenticator(context: AuthenticatorContext) -> BearerToken:
    """Builds the entry point ``jwt``: reads the JWKS and the secret. ``ConfigError`` names the faulty options."""
    config = context.config.jwt
    problems: list[str] = []
    algorithms = set(config.algorithms)
    if unknown := sorted(algorithms - SHARED - SIGNED):
        problems.append(f"auth.jwt.algorithms: {', '.join(unknown)} is not one of {', '.join(sorted(SHARED | SIGNED))}")
    if not algorithms:
        problems.append("auth.jwt.algorithms: at least one is needed")
    keys = _read_keys(config, problems) if config.jwks_file else ()
    secret = _read_secret(config, problems) if config.secret_file else b""
    if algorithms & SIGNED and not config.jwks_file:
        problems.append("auth.jwt.jwks_file: is needed for " + ", ".join(sorted(algorithms & SIGNED)))
    if algorithms & SHARED and not config.secret_file:
        problems.append("auth.jwt.secret_file: is needed for " + ", ".join(sorted(algorithms & SHARED)))
    if problems:
        raise ConfigError(problems)
    return BearerToken(
        config,
        keys=keys,
        secret=secret,
        snapshot=context.snapshot,
        now=context.now,
        max_cached=context.config.max_cached_secrets,
    )


def _read_keys(config: JwtConfig, problems: list[str]) -> tuple[jwt.PyJWK, ...]:
    try:
        keys = jwt.PyJWKSet.from_json(Path(config.jwks_file).read_text(encoding="utf-8")).keys
    except OSError as error:
        problems.append(f"auth.jwt.jwks_file: {config.jwks_file}: {error.strerror or error}")
        return ()
    except (PyJWKSetError, PyJWKError, PyJWTError, json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        problems.append(f"auth.jwt.jwks_file: {config.jwks_file}: is no set of JSON web keys ({type(error).__name__})")
        return ()
    usable = tuple(key for key in keys if key.public_key_use in {None, "sig"} and key.key_type in {"RSA", "EC"})
    if any("d" in key._jwk_data for key in usable):
        problems.append(f"auth.jwt.jwks_file: {config.jwks_file}: holds private keys; a gateway needs the public ones")
    if not 1 <= len(usable) <= MAX_KEYS:
        problems.append(f"auth.jwt.jwks_file: {config.jwks_file}: needs 1 to {MAX_KEYS} RSA or EC signing keys")
    return usable


def _read_secret(config: JwtConfig, problems: list[str]) -> bytes:
    try:
        secret = Path(config.secret_file).read_bytes().strip()
    except OSError as error:
        problems.append(f"auth.jwt.secret_file: {config.secret_file}: {error.strerror or error}")
        return b""
    if len(secret) < MIN_SECRET_BYTES:
        problems.append(f"auth.jwt.secret_file: {config.secret_file}: must hold at least {MIN_SECRET_BYTES} bytes")
    return secret
