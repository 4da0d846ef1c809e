"""Applies the rules of a gateway that has a registry, in order: authentication, authorisation, rate limits.

In open mode there is no ``Access``: the hot path asks whether it has one, and that is all it pays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kateway.config.schema import Config
from kateway.core.access.authentication import (
    Authentication,
    AuthenticatorContext,
    Credentials,
    SnapshotNow,
    build_authentication,
)
from kateway.core.access.authorization import AccessRequest, Authorizer, Grant, build_authorizer
from kateway.core.access.failures import Failures
from kateway.core.access.rate_limits import Allowance, Quotas
from kateway.core.audit.events import actor
from kateway.core.plugin_watch import Watches
from kateway.errors import ConfigError, Denied, KatewayError, Problems, Unauthorized
from kateway.model import Principal


class Permission(NamedTuple):
    """A request that may go on."""

    principal: Principal
    grant: Grant
    allowance: Allowance
    credentials: Credentials
    """Its credentials: a stream is authenticated again."""


class Access:
    """The rules together. A reload builds another (``build_access``) with the same quotas and failures, so that used
    quotas stay used, and locked-out callers stay locked out.
    """

    def __init__(
        self,
        authentication: Authentication,
        authorizer: Authorizer,
        quotas: Quotas,
        snapshot: SnapshotNow,
    ) -> None:
        self.authentication = authentication
        self.authorizer = authorizer
        self.quotas = quotas
        self._snapshot = snapshot

    def admit(self, credentials: Credentials, asked: AccessRequest) -> Permission:
        """Authenticates and authorises; 401, 403, 404, 409, 410 or 429 as errors. Counts nothing yet: that is for
        ``allowance.publish``, ``allowance.request`` and ``allowance.enter``, when the request is known to be sound.
        """
        principal = self.authentication.authenticate(credentials, asked.purpose)
        snapshot = self._snapshot()
        try:
            grant = self.authorizer.authorize(principal, asked, snapshot)
        except KatewayError as error:
            error.actor = actor(principal)
            raise
        return Permission(principal, grant, self.quotas.of(principal, snapshot), credentials)

    def review(self, permission: Permission, asked: AccessRequest) -> float | None:
        """Until when a stream that was admitted may go on as things are now, in seconds since the epoch; ``None``:
        until something changes. Where it may not go on, the error says why. To be asked for every open stream when the
        snapshot or the configuration has changed, and at the moment that this told.
        """
        principal = self.authentication.again(permission.credentials, asked.purpose)
        if (principal.application, principal.key) != (permission.principal.application, permission.principal.key):
            raise Unauthorized("the credentials belong to another application or key now")
        grant = self.authorizer.authorize(principal, asked, self._snapshot())
        if grant[:3] != permission.grant[:3]:
            raise Denied("the topic is another one now")
        return principal.expires


def build_access(
    config: Config,
    quotas: Quotas,
    failures: Failures,
    *,
    snapshot: SnapshotNow,
    now: Callable[[], float],
    watches: Watches,
) -> Access:
    """The rules that the configuration asks for, its files read. ``ConfigError`` names every fault, ``now`` is
    seconds since the epoch.
    """
    problems = Problems()
    context = AuthenticatorContext(config=config.auth, snapshot=snapshot, now=now)
    authentication = problems.take(lambda: build_authentication(context, failures, watches))
    name = config.auth.authorizer
    authorizer = problems.take(
        build_authorizer, name, config.delivery.max_deliveries, watches, config.auth.options.get(name)
    )
    if authentication is None or authorizer is None:
        raise ConfigError(problems.found)
    return Access(authentication, authorizer, quotas, snapshot)
