"""Endpoints that speak TLS and SASL before Kafka: what comes out of them is a connection like any other.

SASL by SaslHandshake v1 and SaslAuthenticate v0 (KIP-152), PLAIN (RFC 4616) and SCRAM (RFC 5802, 7677), inside TLS
or not. The password leaves for the broker only as the mechanism says and is never logged.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator
from functools import lru_cache
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import (
    Certificate,
    PrivateCertificate,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from kateway.config import KafkaStorageConfig, SaslConfig, TlsConfig
from kateway.errors import ConfigError
from kateway.storage.kafka.primitives import MalformedResponse, Reader, data, request_header, string

SASL_HANDSHAKE, SASL_HANDSHAKE_VERSION = 17, 1
SASL_AUTHENTICATE, SASL_AUTHENTICATE_VERSION = 36, 0
MAX_ANSWER_BYTES = 1 << 20
MAX_ITERATIONS = 1_000_000
"""Of a SCRAM password's hash: more would hold up the reactor."""

Conversation = Generator[bytes, bytes, None]
"""A mechanism: yields what to send, is sent what came."""


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


MECHANISMS: dict[str, Callable[[str, str], Conversation]] = {
    "PLAIN": plain,
    "SCRAM-SHA-256": lambda username, password: scram("sha256", username, password),
    "SCRAM-SHA-512": lambda username, password: scram("sha512", username, password),
}


class _Authenticating(Protocol):
    """Speaks SASL, then hands its transport on and only passes bytes."""

    def __init__(self, mechanism: str, conversation: Conversation) -> None:
        self._mechanism = mechanism
        self._conversation = conversation
        self._held = b""
        self._step = self._shaken
        self._inner: Protocol | None = None
        self.done: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self._send(SASL_HANDSHAKE, SASL_HANDSHAKE_VERSION, string(self._mechanism))

    def _send(self, key: int, version: int, body: bytes) -> None:
        request = request_header(key, version, 0, string("kateway")) + body
        assert self.transport is not None
        self.transport.write(len(request).to_bytes(4, "big") + request)

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._held += data
        size = int.from_bytes(self._held[:4], "big")
        if len(self._held) >= 4 and size > MAX_ANSWER_BYTES:
            self._fail(AuthenticationFailed("what listens there does not talk plain Kafka (TLS?)"))
        elif len(self._held) >= 4 + size:
            body, self._held = self._held[8 : 4 + size], self._held[4 + size :]
            try:
                self._step(Reader(body))
            except (AuthenticationFailed, MalformedResponse, ValueError) as error:
                self._fail(error)

    def _shaken(self, read: Reader) -> None:
        error, offered = read.i16(), read.array(read.string)
        if error:
            raise AuthenticationFailed(
                f"the broker does not offer {self._mechanism} but {', '.join(offered) or 'none'}"
            )
        self._step = self._went_on
        self._say(next(self._conversation))

    def _say(self, words: bytes) -> None:
        self._send(SASL_AUTHENTICATE, SASL_AUTHENTICATE_VERSION, data(words))

    def _went_on(self, read: Reader) -> None:
        error, words, answer = read.i16(), read.string(), read.data()
        if error:
            raise AuthenticationFailed(words or f"error {error}")
        try:
            self._say(self._conversation.send(answer))
        except StopIteration:
            self.done.callback(None)

    def become(self, inner: Protocol) -> None:
        """From now on only a pipe to ``inner``."""
        self._inner = inner
        inner.makeConnection(self.transport)

    def _fail(self, error: Exception) -> None:
        assert self.transport is not None
        self.transport.loseConnection()
        if not self.done.called:
            self.done.errback(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self.done.called:
            self.done.errback(ConnectionLost("while authenticating"))


@implementer(IStreamClientEndpoint)
class SaslEndpoint:
    """Connects by another endpoint and authenticates before the protocol is made. Cancelling hangs up."""

    def __init__(
        self, reactor: Any, inner: IStreamClientEndpoint, sasl: SaslConfig, password: str, timeout_seconds: float
    ) -> None:
        self._reactor = reactor
        self._inner = inner
        self._sasl = sasl
        self._password = password
        self._timeout_seconds = timeout_seconds

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Fails with ``AuthenticationFailed`` where the broker says no."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: Any) -> Protocol:
        conversation = MECHANISMS[self._sasl.mechanism](self._sasl.username, self._password)
        wire = _Authenticating(self._sasl.mechanism, conversation)
        await connectProtocol(self._inner, wire)
        late = self._reactor.callLater(self._timeout_seconds, wire._fail, AuthenticationFailed("no answer in time"))
        try:
            await wire.done
        except BaseException:
            wire.transport.abortConnection()  # type: ignore[union-attr]
            raise
        finally:
            if late.active():
                late.cancel()
        inner: Protocol = factory.buildProtocol(None)
        wire.become(inner)
        return inner


def endpoint_factory(config: KafkaStorageConfig) -> Callable[[Any, str, int], IStreamClientEndpoint]:
    """Endpoints as the configuration says; ``ConfigError`` where a file or a secret is missing."""
    password = _password(config.sasl) if config.sasl.mechanism != "none" else ""
    trust, identity = _certificates(config.tls) if config.tls.enabled else (None, None)
    timeout = config.connect_timeout_seconds

    def make(reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = HostnameEndpoint(reactor, host, port, timeout=timeout)
        if config.tls.enabled:
            options = optionsForClientTLS(host, trustRoot=trust, clientCertificate=identity)
            endpoint = wrapClientTLS(options, endpoint)
        if config.sasl.mechanism != "none":
            endpoint = SaslEndpoint(reactor, endpoint, config.sasl, password, timeout)
        return endpoint

    return make


def _password(sasl: SaslConfig) -> str:
    if sasl.password_file:
        return _read("sasl.password_file", sasl.password_file).decode().strip()
    password = os.environ.get(sasl.password_env, "") if sasl.password_env else ""
    if not password:
        raise ConfigError(["sasl: password_file, or password_env with a variable that is set, is needed"])
    return password


def _certificates(tls: TlsConfig) -> tuple[Any, PrivateCertificate | None]:
    try:
        trust = platformTrust()
        if tls.ca_file:
            pems = _read("tls.ca_file", tls.ca_file).split(b"-----END CERTIFICATE-----")
            certificates = [Certificate.loadPEM(pem + b"-----END CERTIFICATE-----\n") for pem in pems[:-1]]
            if not certificates:
                raise ConfigError([f"tls.ca_file: {tls.ca_file} holds no certificate"])
            trust = trustRootFromCertificates(certificates)
        identity = None
        if tls.certificate_file:
            pem = _read("tls.certificate_file", tls.certificate_file)
            key = _read("tls.key_file", tls.key_file) if tls.key_file else b""
            identity = PrivateCertificate.loadPEM(pem + b"\n" + key)
    except (SSL.Error, ValueError) as error:
        raise ConfigError([f"tls: a certificate or key cannot be read ({error})"]) from error
    return trust, identity


def _read(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError([f"{option}: {path}: {error.strerror or error}"]) from error
