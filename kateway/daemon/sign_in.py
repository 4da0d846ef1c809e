"""Keeps the admin listener's guard, sessions and portal links in step with the tokens and the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kateway.config.schema import Config
from kateway.core.access.failures import build_failures
from kateway.core.administration import Administration
from kateway.errors import KatewayError
from kateway.web.admin.access import Guard
from kateway.web.admin.actors import Actor
from kateway.web.admin.kept import SharedMemory
from kateway.web.admin.portal_links import PortalLinks
from kateway.web.admin.rights import NEEDS
from kateway.web.admin.session import SessionCalls
from kateway.web.admin.sessions import Sessions
from kateway.web.admin.tokens import read_tokens


class SignIn:
    """The parts that let callers in. ``settings`` gives those of now, ``gateway`` is the gateway's name."""

    def __init__(
        self,
        settings: Callable[[], Config],
        administration: Administration,
        gateway: str,
        reactor: Any,
        refused: Callable[[KatewayError], None],
        shared: Callable[[str], SharedMemory | None] = lambda _name: None,
    ) -> None:
        """``shared`` gives what the processes of a gateway share, by its name.
        ``refused`` is called with each error that says that a caller may not do what it asks for."""
        self._settings = settings
        self._registry = administration.registry
        self._refused = refused
        self._failures = build_failures(settings().auth, reactor.seconds)
        self.sessions = Sessions(reactor.seconds, lambda: settings().admin, shared("sessions"))
        self._links = PortalLinks(reactor.seconds, lambda: settings().admin, shared("links"))
        self.guard = self.candidate(settings())
        """The one in force."""
        self.calls = SessionCalls(
            lambda: self.guard, self.sessions, self._links, administration, lambda: settings().admin, gateway, NEEDS
        )
        """The handlers, for the admin API."""

    def candidate(self, settings: Config) -> Guard:
        """Makes the guard that a configuration asks for. ``ConfigError`` names each token that cannot be read."""
        endpoints = self._settings().http.admin
        return Guard(
            read_tokens(settings.admin, endpoints),
            self.sessions,
            endpoints=endpoints,
            hosts=settings.admin.hosts,
            failures=self._failures,
            refused=self._refused,
        )

    def take(self, guard: Guard) -> None:
        """Puts another guard in force: sessions whose token is gone end."""
        self.guard = guard
        self.keep()

    def keep(self) -> None:
        """Ends what was let in by a token that is gone, or for an application that is."""
        self.sessions.keep(self._stands)
        self._links.keep(self._stands)

    async def sweep(self) -> None:
        """Ends sessions that are idle or old."""
        self.sessions.sweep()

    def _stands(self, actor: Actor) -> bool:
        snapshot = self._registry.snapshot
        known = not actor.application or not snapshot.known or actor.application in snapshot.applications
        return known and self.guard.stands(actor)
