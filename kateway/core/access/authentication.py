"""Authentication: credentials to a principal, by the configured ways in their order.

Each way is an ``Authenticator``, found by the entry point group ``kateway.authenticators``. It answers ``None`` to
credentials that are not of its kind, a principal to good ones, and raises ``Unauthorized`` for wrong ones (the next
way is tried then) or ``Denied`` for right ones that may not do this. One of another package that fails is passed over;
where no other names the caller, the answer is 503 ``plugin-failed``, not a 401 that would send him away. Credentials
that were wrong too often from one address are refused without a look at them (``failures``).

All of it is synchronous: it runs for every request of the hot path. In open mode no ``Authentication`` exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import attrs

from kateway.config.schema import AuthConfig
from kateway.core import entry_points
from kateway.core.access.failures import Failures
from kateway.core.plugin_watch import Watch, Watches
from kateway.errors import CredentialsExpired, Denied, KatewayError, PluginFailed, Problems, Unauthorized
from kateway.model import Principal
from kateway.registry.interface import Key, KeyKind, Snapshot

ENTRY_POINTS: Final = entry_points.AUTHENTICATORS

Purpose = Literal["publish", "subscribe", "describe"]
"""What the credentials are to be good for: a pub key, a sub key, either."""

KIND_FOR: Final[Mapping[Purpose, KeyKind | None]] = {"publish": "pub", "subscribe": "sub", "describe": None}

SnapshotNow = Callable[[], Snapshot]


class Credentials(NamedTuple):
    """A request's credentials; undecoded, and empty where it brings none of that kind."""

    address: str
    """The client's, without port."""
    key: bytes = b""
    secret: bytes = b""
    token: bytes = b""
    """Of ``Authorization: Bearer``."""
    subject: str = ""
    """Of the client certificate that TLS has verified, as RFC 4514 writes it."""

    @property
    def name(self) -> bytes:
        """What failures are counted by, beside the address: the key, ``bearer`` of a token, the subject."""
        return self.key or (b"\0bearer" if self.token else self.subject.encode("utf-8", "replace"))

    @property
    def proof(self) -> bytes:
        """All that is shown beside the name."""
        return b"%b\0%b\0%b" % (self.secret, self.token, self.subject.encode("utf-8", "replace"))

    def __repr__(self) -> str:
        # whatever is logged of a request, its secret and token are not
        return f"Credentials(address={self.address!r}, key={self.key!r}, …)"


class Authenticator(Protocol):
    """One authentication method."""

    challenge: str
    """Its part of ``WWW-Authenticate``; empty where there is none."""

    def authenticate(self, credentials: Credentials, purpose: Purpose) -> Principal | None:
        """Names the caller; ``None`` where the credentials are not of this kind. ``Unauthorized``, ``Denied``.
        A principal whose ``key`` is no key of the registry has a colon in it: ``jwt:alice``. An open stream's
        credentials are shown again when the registry or the configuration changes, and when its principal expires.
        """


@attrs.frozen(kw_only=True)
class AuthenticatorContext:
    """What an authenticator's factory is given: ``factory(context) -> Authenticator``, or
    ``factory(context, options)`` where it has ``Options``. It reads its files at once;
    a reload calls it again. ``ConfigError`` names what it cannot use.
    """

    config: AuthConfig
    snapshot: SnapshotNow
    now: Callable[[], float]
    """Seconds since the epoch."""

    def options(self, name: str) -> Mapping[str, Any]:
        """The table ``[auth.options.NAME]``."""
        return self.config.options.get(name, {})


class Authentication:
    """The configured ways together."""

    def __init__(
        self,
        methods: Sequence[Authenticator],
        failures: Failures,
        *,
        snapshot: SnapshotNow,
        now: Callable[[], float],
    ) -> None:
        self._methods = tuple(methods)
        self.failures = failures
        self._snapshot = snapshot
        self._now = now
        self._challenges = tuple(("WWW-Authenticate", way.challenge) for way in methods if way.challenge)
        self._used: set[str] = set()

    def authenticate(self, credentials: Credentials, purpose: Purpose) -> Principal:
        """Names the caller. ``Unauthorized`` (401) without good credentials, ``Denied`` (403) with good ones of the
        wrong kind, ``TooManyFailures`` (429) for credentials that were wrong too often from that address.
        """
        failures, address = self.failures, credentials.address
        name = credentials.name
        if name:
            failures.refuse(address, name, credentials.proof)
        failure: KatewayError | None = None
        broken: PluginFailed | None = None
        for method in self._methods:
            try:
                principal = method.authenticate(credentials, purpose)
            except Unauthorized as error:
                failure = failure or error
                continue
            except PluginFailed as error:
                broken = error
                continue
            except Denied:
                # right, though not for this
                failures.note_right(address, name, credentials.proof)
                raise
            if principal is not None:
                self._used.add(principal.key)
                failures.note_right(address, name, credentials.proof)
                return principal
        if failure is None:
            if broken is not None:
                raise broken
            raise Unauthorized("this needs credentials", headers=self._challenges)
        if not isinstance(failure, CredentialsExpired):
            # credentials that were good until lately are no guess
            failures.wrong(address, name, credentials.proof)
        raise self.challenged(failure)

    def challenged(self, failure: KatewayError) -> KatewayError:
        """A 401 with the ``WWW-Authenticate`` that it needs: one for each authentication method."""
        failure.headers = (*failure.headers, *self._challenges)
        return failure

    def again(self, credentials: Credentials, purpose: Purpose) -> Principal:
        """Names the caller that brought these credentials some time ago, by the present rules;
        ``Unauthorized`` and ``Denied`` where they are good no more. Counts nothing: it is no new request.
        """
        broken: PluginFailed | None = None
        for method in self._methods:
            try:
                principal = method.authenticate(credentials, purpose)
            except CredentialsExpired:
                raise
            except Unauthorized:
                continue
            except PluginFailed as error:
                broken = error
                continue
            if principal is not None:
                return principal
        if broken is not None:
            raise broken
        raise Unauthorized("the credentials were revoked or have expired")

    def just_used(self) -> dict[str, int]:
        """The registry's keys that were used since the last ``take_used``, with the time of this call in ms since the
        epoch.
        """
        now = round(self._now() * 1000)
        return {key: now for key in self._used if key and ":" not in key}

    def take_used(self) -> dict[str, int]:
        """As ``just_used``, and begins anew: what ``Registry.note_used`` takes."""
        used = self.just_used()
        self._used.clear()
        return used

    def put_back(self, used: Iterable[str]) -> None:
        """Keys whose use could not be noted, or that another configuration's rules have seen: noted next time."""
        self._used.update(used)


def check_kind(key: Key, purpose: Purpose) -> None:
    """``Denied`` where a key whose secret was right is of the wrong kind."""
    kind = KIND_FOR[purpose]
    if kind is not None and key.kind != kind:
        raise Denied(f"the key is a {key.kind} key; to {purpose} takes a {kind} key")


class WatchedAuthenticator:
    """An authentication method of another package, whose failures are counted."""

    def __init__(self, method: Authenticator, watch: Watch) -> None:
        self.challenge = getattr(method, "challenge", "")
        self._method = method
        self._watch = watch

    def authenticate(self, credentials: Credentials, purpose: Purpose) -> Principal | None:
        return self._watch.decide(lambda: self._authenticate(credentials, purpose), KatewayError)

    def _authenticate(self, credentials: Credentials, purpose: Purpose) -> Principal | None:
        principal = self._method.authenticate(credentials, purpose)
        if principal is not None and not isinstance(principal, Principal):
            raise TypeError(f"it gives {type(principal).__name__}, not a principal or None")
        return principal


def _method(name: str, context: AuthenticatorContext, watches: Watches) -> Authenticator:
    factory = entry_points.load(ENTRY_POINTS, name, "auth.methods")
    method: Authenticator = entry_points.make(
        factory, context, context.options(name), f"auth.options.{name}", reads_table=True
    )
    watch = watches.loaded(ENTRY_POINTS, name)
    return method if watch.own else WatchedAuthenticator(method, watch)


def build_authentication(context: AuthenticatorContext, failures: Failures, watches: Watches) -> Authentication:
    """The ways that ``[auth] methods`` names, in its order. ``ConfigError`` names every fault of every way."""
    methods: list[Authenticator] = []
    problems = Problems()
    if not context.config.methods:
        problems.found.append("auth.methods: at least one way to authenticate is needed")
    for name in context.config.methods:
        method = problems.take(_method, name, context, watches)
        if method is not None:
            methods.append(method)
    problems.refuse()
    return Authentication(methods, failures, snapshot=context.snapshot, now=context.now)
