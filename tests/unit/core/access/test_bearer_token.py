"""Bearer tokens: which are good, whose they are, and which tricks do not work."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from twisted.internet.task import Clock

from kateway.config.schema import AuthConfig, JwtConfig
from kateway.core.access.authentication import AuthenticatorContext, Credentials
from kateway.core.access.bearer_token import BearerToken, jwt_authenticator
from kateway.errors import ConfigError, CredentialsExpired, Denied, Unauthorized
from kateway.model import Principal
from kateway.registry.interface import Application, Snapshot

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
STRANGER = ec.generate_private_key(ec.SECP256R1())
SECRET = "a-shared-secret-of-at-least-32-bytes"


def public(key: Any, kid: str, algorithm: str) -> dict[str, Any]:
    made: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**made, "kid": kid, "use": "sig"}


@pytest.fixture
def clock() -> Clock:
    clock = Clock()
    clock.advance(time.time())
    return clock


def way(tmp_path: Path, clock: Clock, **options: Any) -> BearerToken:
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [public(RSA, "r", "RS256"), public(EC, "e", "ES256")]}))
    (tmp_path / "secret").write_text(SECRET + "\n")
    given: dict[str, Any] = {
        "algorithms": ("RS256", "ES256", "HS256"),
        "jwks_file": str(tmp_path / "keys.json"),
        "secret_file": str(tmp_path / "secret"),
        "audience": "kateway",
        "issuer": "us",
        **options,
    }
    return jwt_authenticator(
        AuthenticatorContext(
            config=AuthConfig(jwt=JwtConfig(**given)),
            snapshot=lambda: Snapshot(applications={"app1": Application(name="app1")}),
            now=clock.seconds,
        )
    )


def claims(clock: Clock, **other: Any) -> dict[str, Any]:
    return {
        "application": "app1",
        "sub": "alice",
        "aud": "kateway",
        "iss": "us",
        "exp": int(clock.seconds()) + 60,
        **other,
    }


def bearer(token: str | bytes) -> Credentials:
    return Credentials("192.0.2.1", token=token.encode() if isinstance(token, str) else token)


def pem(key: Any) -> bytes:
    made: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return made


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(RSA, "RS256", "r"), (EC, "ES256", "e"), (EC, "ES256", None), (SECRET, "HS256", None)],
)
def test_a_good_token_tells_the_application(tmp_path: Path, clock: Clock, key: Any, algorithm: str, kid: Any) -> None:
    token = jwt.encode(claims(clock), key, algorithm, headers={"kid": kid} if kid else None)
    bearers = way(tmp_path, clock)
    for _ in range(2):
        found = bearers.authenticate(bearer(token), "publish")
        assert found == Principal("app1", "jwt:alice", int(clock.seconds()) + 90)


def test_no_token_is_not_for_this_way(tmp_path: Path, clock: Clock) -> None:
    assert way(tmp_path, clock).authenticate(Credentials("192.0.2.1", b"key", b"secret"), "publish") is None


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "other"},
        {"aud": None},
        {"iss": "them"},
        {"exp": None},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"nbf": 2**40},
        {"application": None},
        {"application": ""},
        {"application": ["app1"]},
    ],
)
def test_a_token_with_a_wrong_claim_is_refused(tmp_path: Path, clock: Clock, change: dict[str, Any]) -> None:
    told = {name: value for name, value in claims(clock, **change).items() if value is not None}
    token = jwt.encode(told, RSA, "RS256", headers={"kid": "r"})
    with pytest.raises(Unauthorized):
        way(tmp_path, clock).authenticate(bearer(token), "publish")


def test_a_token_signed_by_a_stranger_is_refused(tmp_path: Path, clock: Clock) -> None:
    for kid in ("e", "unknown", None):
        token = jwt.encode(claims(clock), STRANGER, "ES256", headers={"kid": kid} if kid else None)
        with pytest.raises(Unauthorized):
            way(tmp_path, clock).authenticate(bearer(token), "publish")


def test_a_public_key_is_not_taken_for_a_shared_secret(tmp_path: Path, clock: Clock) -> None:
    head = {"alg": "HS256", "typ": "JWT", "kid": "r"}
    parts = [jwt.utils.base64url_encode(json.dumps(part).encode()) for part in (head, claims(clock))]
    signed = b".".join(parts)
    signature = jwt.get_algorithm_by_name("HS256").sign(signed, pem(RSA))
    token = signed + b"." + jwt.utils.base64url_encode(signature)
    with pytest.raises(Unauthorized):
        way(tmp_path, clock).authenticate(bearer(token), "publish")


def test_an_unsigned_token_is_refused(tmp_path: Path, clock: Clock) -> None:
    token = jwt.encode(claims(clock), None, "none")  # type: ignore[arg-type]
    with pytest.raises(Unauthorized):
        way(tmp_path, clock).authenticate(bearer(token), "publish")


def test_an_algorithm_that_is_not_configured_is_refused(tmp_path: Path, clock: Clock) -> None:
    token = jwt.encode(claims(clock), SECRET, "HS256")
    with pytest.raises(Unauthorized):
        way(tmp_path, clock, algorithms=("RS256",)).authenticate(bearer(token), "publish")


@pytest.mark.parametrize("token", [b"x", b"a.b.c", b"\xff\xff", b"x" * 9000, b"...", b"e30.e30."])
def test_text_that_is_no_token_is_refused(tmp_path: Path, clock: Clock, token: bytes) -> None:
    with pytest.raises(Unauthorized):
        way(tmp_path, clock).authenticate(bearer(token), "publish")


def test_a_token_lasts_until_it_expires_and_the_leeway_after(tmp_path: Path, clock: Clock) -> None:
    bearers = way(tmp_path, clock, leeway_seconds=5)
    token = bearer(jwt.encode(claims(clock), RSA, "RS256"))
    clock.advance(64)
    assert bearers.authenticate(token, "publish") is not None
    clock.advance(2)
    for _ in range(2):
        with pytest.raises(CredentialsExpired):
            bearers.authenticate(token, "publish")


def test_a_token_of_an_application_that_is_not_registered_is_denied(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(Denied):
        way(tmp_path, clock).authenticate(bearer(jwt.encode(claims(clock, application="x"), RSA, "RS256")), "publish")


def test_a_claim_can_say_what_the_token_is_good_for(tmp_path: Path, clock: Clock) -> None:
    bearers = way(tmp_path, clock, kinds_claim="scope")
    token = bearer(jwt.encode(claims(clock, scope="openid pub"), RSA, "RS256"))
    assert bearers.authenticate(token, "publish") is not None
    assert bearers.authenticate(token, "describe") is not None
    with pytest.raises(Denied):
        bearers.authenticate(token, "subscribe")
    with pytest.raises(Denied):
        bearers.authenticate(bearer(jwt.encode(claims(clock), RSA, "RS256")), "publish")


def test_every_fault_of_the_configuration_is_named(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "short").write_text("short")
    (tmp_path / "bad").write_text("{}")
    with pytest.raises(ConfigError) as refused:
        way(
            tmp_path,
            clock,
            algorithms=("none", "RS256", "HS256"),
            jwks_file=str(tmp_path / "bad"),
            secret_file=str(tmp_path / "short"),
        )
    paths = [problem.partition(":")[0] for problem in refused.value.problems]
    assert set(paths) == {"auth.jwt.algorithms", "auth.jwt.jwks_file", "auth.jwt.secret_file"}
    with pytest.raises(ConfigError, match="No such file"):
        way(tmp_path, clock, jwks_file=str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=r"secret_file: is needed for HS256"):
        way(tmp_path, clock, secret_file="")


def test_a_file_with_a_private_key_is_refused(tmp_path: Path, clock: Clock) -> None:
    private = jwt.get_algorithm_by_name("ES256").to_jwk(EC, as_dict=True)
    (tmp_path / "private.json").write_text(json.dumps({"keys": [{**private, "use": "sig"}]}))
    with pytest.raises(ConfigError, match="private"):
        way(tmp_path, clock, jwks_file=str(tmp_path / "private.json"))
