"""Makes endpoints that speak TLS and SASL before Kafka; their connections are used like any other.

SASL by SaslHandshake v1 and SaslAuthenticate v0 or v1 (KIP-152, KIP-368), inside TLS or not. Secrets are read again for
each connection, so one that is replaced in its file is in use from the next connection on. They leave for the broker
only as the mechanism says and are never logged.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory, IStreamClientEndpoint
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

from kateway.backoff import Backoff
from kateway.config.schema import KafkaStorageConfig, SaslConfig, TlsConfig
from kateway.errors import ConfigError
from kateway.storage.kafka.cluster.connection import FrameReceiver
from kateway.storage.kafka.protocol.metadata import API_VERSIONS, API_VERSIONS_VERSION, decode_api_versions
from kateway.storage.kafka.protocol.primitives import ByteReader, MalformedResponse, data, request_header, string
from kateway.storage.kafka.protocol.sasl_mechanisms import MECHANISMS, AuthenticationFailed, Conversation

SASL_HANDSHAKE, SASL_HANDSHAKE_VERSION = 17, 1
SASL_AUTHENTICATE = 36
NOT_SECURED = 34
"""ILLEGAL_SASL_STATE."""
MAX_ANSWER_BYTES = 1 << 20
FIRST_REFUSED_DELAY_SECONDS = 1.0
MAX_REFUSED_DELAY_SECONDS = 10.0
"""So often at least a broker that refused a secret is shown it again. Another secret is shown at once."""
RENEWED_AT = (0.7, 0.85)
"""Between these parts of a session that the broker limits its connection is replaced, not all at one moment."""


class _Authenticating(Protocol):
    """Speaks SASL, then hands its transport on and only passes bytes."""

    def __init__(self, reactor: Any, mechanism: str, conversation: Conversation) -> None:
        self._reactor = reactor
        self._mechanism = mechanism
        self._conversation = conversation
        self._held = b""
        self._step: Callable[[bytes], None] = self._told_versions
        self._version = 0
        self._lifetime_seconds = 0.0
        self._renewal: IDelayedCall | None = None
        self._inner: Protocol | None = None
        self.done: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self._send(API_VERSIONS, API_VERSIONS_VERSION, b"")

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
            self._fail(AuthenticationFailed("the listener there does not talk plain Kafka (TLS?)"))
        elif len(self._held) >= 4 + size:
            body, self._held = self._held[8 : 4 + size], self._held[4 + size :]
            try:
                self._step(body)
            except (AuthenticationFailed, MalformedResponse, ValueError) as error:
                self._fail(error)

    def _told_versions(self, body: bytes) -> None:
        self._version = min(decode_api_versions(body).get(SASL_AUTHENTICATE, (0, 0))[1], 1)
        self._step = self._shaken
        self._send(SASL_HANDSHAKE, SASL_HANDSHAKE_VERSION, string(self._mechanism))

    def _shaken(self, body: bytes) -> None:
        read = ByteReader(body)
        error, offered = read.i16(), read.array(read.string)
        if error == NOT_SECURED:
            raise AuthenticationFailed("that listener of the broker does not take SASL")
        if error:
            raise AuthenticationFailed(
                f"the broker does not offer {self._mechanism} but {', '.join(offered) or 'none'}"
            )
        self._step = self._went_on
        self._say(next(self._conversation))

    def _say(self, words: bytes) -> None:
        self._send(SASL_AUTHENTICATE, self._version, data(words))

    def _went_on(self, body: bytes) -> None:
        read = ByteReader(body)
        error, words, answer = read.i16(), read.nullable_string(), read.data()
        if error:
            raise AuthenticationFailed(words or f"error {error}")
        self._lifetime_seconds = read.i64() / 1000 if self._version else 0.0
        try:
            self._say(self._conversation.send(answer))
        except StopIteration:
            self.done.callback(None)

    def become(self, inner: Protocol) -> None:
        """Becomes a pipe to ``inner``. A broker that limits the session drops the connection for a request
        after its end, and its sender does not know whether it was done: so it is renewed before.
        """
        self._inner = inner
        inner.makeConnection(self.transport)
        if self._lifetime_seconds > 0 and isinstance(inner, FrameReceiver):
            self._renewal = self._reactor.callLater(self._lifetime_seconds * random.uniform(*RENEWED_AT), inner.renew)

    def _fail(self, error: Exception) -> None:
        assert self.transport is not None
        self.transport.loseConnection()
        if not self.done.called:
            self.done.errback(error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._renewal is not None and self._renewal.active():
            self._renewal.cancel()
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self.done.called:
            self.done.errback(ConnectionLost("while authenticating"))


@attrs.define
class _Refusal:
    secret: str
    reason: str
    until: float
    backoff: Backoff


class Refusals:
    """Brokers that refused a secret: until when it is not shown to them again. One refusal costs them work and us
    nothing but hope, and many lock accounts.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._refused: dict[str, _Refusal] = {}

    def check(self, broker: str, secret: str) -> None:
        """Raises ``AuthenticationFailed`` with the broker's reason while it is too soon."""
        refused = self._refused.get(broker)
        if refused is not None and refused.secret == secret and self._clock.seconds() < refused.until:
            raise AuthenticationFailed(refused.reason)

    def note(self, broker: str, secret: str, reason: str) -> None:
        """A refusal: the next attempt waits twice as long as this one did."""
        now = self._clock.seconds()
        before = self._refused.get(broker)
        if before is None or before.secret != secret:
            backoff = Backoff(FIRST_REFUSED_DELAY_SECONDS, MAX_REFUSED_DELAY_SECONDS)
        elif now < before.until:
            return  # begun when it was not known yet
        else:
            backoff = before.backoff
        self._refused[broker] = _Refusal(secret, reason, now + backoff.next(), backoff)

    def forget(self, broker: str) -> None:
        self._refused.pop(broker, None)


@implementer(IStreamClientEndpoint)
class SaslEndpoint:
    """Connects by another endpoint and authenticates before the protocol is made. Cancelling hangs up."""

    def __init__(
        self,
        reactor: Any,
        inner: IStreamClientEndpoint,
        broker: str,
        sasl: SaslConfig,
        refusals: Refusals,
        timeout_seconds: float,
    ) -> None:
        self._reactor = reactor
        self._inner = inner
        self._broker = broker
        self._sasl = sasl
        self._refusals = refusals
        self._timeout_seconds = timeout_seconds

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """Fails with ``AuthenticationFailed`` where the broker says no."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: Any) -> Protocol:
        try:
            secret = read_secret(self._sasl)
        except ConfigError as error:
            raise AuthenticationFailed("; ".join(error.problems)) from error
        self._refusals.check(self._broker, secret)
        conversation = MECHANISMS[self._sasl.mechanism](self._sasl.username, secret)
        wire = _Authenticating(self._reactor, self._sasl.mechanism, conversation)
        await connectProtocol(self._inner, wire)
        late = self._reactor.callLater(self._timeout_seconds, wire._fail, ConnectionLost("no answer in time"))
        try:
            await wire.done
        except AuthenticationFailed as error:
            self._refusals.note(self._broker, secret, str(error))
            raise
        except BaseException:
            wire.transport.abortConnection()  # type: ignore[union-attr]
            raise
        finally:
            if late.active():
                late.cancel()
        self._refusals.forget(self._broker)
        inner: Protocol = factory.buildProtocol(None)
        wire.become(inner)
        return inner


def endpoint_factory(config: KafkaStorageConfig) -> Callable[[Any, str, int], IStreamClientEndpoint]:
    """Endpoints as the configuration says; ``ConfigError`` where a file or a secret is missing."""
    secured = config.sasl.mechanism != "none"
    if secured:
        read_secret(config.sasl)
    trust, identity = _certificates(config.tls) if config.tls.enabled else (None, None)
    timeout = config.connect_timeout_seconds
    refusals: list[Refusals] = []

    def make(reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = HostnameEndpoint(reactor, host, port, timeout=timeout)
        if config.tls.enabled:
            options = optionsForClientTLS(host, trustRoot=trust, clientCertificate=identity)
            endpoint = wrapClientTLS(options, endpoint)
        if secured:
            if not refusals:
                refusals.append(Refusals(reactor))
            endpoint = SaslEndpoint(reactor, endpoint, f"{host}:{port}", config.sasl, refusals[0], timeout)
        return endpoint

    return make


def read_secret(sasl: SaslConfig) -> str:
    """The password or token as it is now; ``ConfigError`` where there is none."""
    if sasl.mechanism == "OAUTHBEARER":
        option, file, env = "sasl.token_file", sasl.token_file, ""
        needed = "sasl: token_file is needed for OAUTHBEARER"
    else:
        option, file, env = "sasl.password_file", sasl.password_file, sasl.password_env
        needed = "sasl: password_file, or password_env with a variable that is set, is needed"
    secret = os.environ.get(env, "") if env else ""
    if file:
        try:
            secret = _read(option, file).decode().strip()
        except UnicodeDecodeError as error:
            raise ConfigError([f"{option}: {file}: is not UTF-8"]) from error
        if not secret:
            raise ConfigError([f"{option}: {file}: is empty"])
    if not secret:
        raise ConfigError([needed])
    return secret


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
