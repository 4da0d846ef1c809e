"""Serves sign-in, sign-out and portal links over the admin API."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

from kateway import __version__
from kateway.config.schema import AdminConfig
from kateway.core.administration import Administration, current
from kateway.errors import BadRequest, Conflict, InvalidParameter, Unauthorized
from kateway.registry.documents import time_text
from kateway.web.admin.access import Guard
from kateway.web.admin.actors import Actor
from kateway.web.admin.cookies import clearing, setting
from kateway.web.admin.portal_links import PortalLinks
from kateway.web.admin.requests import AdminCall, answer, by, only
from kateway.web.admin.rights import may
from kateway.web.admin.sessions import Sessions
from kateway.web.exchange import JSON, NO_STORE, Response

OBJECT: Final = "session"
"""Of the audit's events."""


class SessionCalls:
    """Handlers. ``guard`` gives the one in force, ``calls`` the names of all calls there are."""

    def __init__(
        self,
        guard: Callable[[], Guard],
        sessions: Sessions,
        links: PortalLinks,
        administration: Administration,
        config: Callable[[], AdminConfig],
        gateway: str,
        calls: Iterable[str],
    ) -> None:
        self._guard = guard
        self._sessions = sessions
        self._links = links
        self._do = administration
        self._config = config
        self._gateway = gateway
        self._calls = sorted(calls)

    async def session(self, call: AdminCall) -> Response:
        """Tells the caller its role, and which calls it may make."""
        return answer(200, self._shown(call.actor))

    async def sign_in(self, call: AdminCall) -> Response:
        """Opens a session for a token's holder, or for a portal link's tenant."""
        table, guard = call.table(), self._guard()
        only(table, "token", "link")
        if len(table) != 1:
            raise BadRequest('the body must be {"token":"…"}, or {"link":"…"} of a portal link')
        (kind, secret) = next(iter(table.items()))
        if not isinstance(secret, str):
            raise InvalidParameter(f"{kind} must be a text")
        if kind == "token" and guard.open:
            raise Conflict("no token is needed here: nothing is there to sign in to")
        shown = secret.strip().encode("utf-8", "replace")
        try:
            actor = guard.sign_in(call.request, shown, guard.token if kind == "token" else self._links.redeem)
        except Unauthorized as error:
            # of a flood the first ones: those behind it are TooManyFailures
            self._do.audited.record_refusal(by(call), "session.open", OBJECT, error)
            raise
        opened = self._sessions.open(actor)
        self._do.audited.record(by(call._replace(actor=actor)), "session.open", OBJECT, "ok")
        cookie = setting(call.request, opened.cookie, self._config().session_max_seconds)
        body = {"session": opened.header, **self._shown(opened.actor)}
        return Response(201, (JSON, NO_STORE, (b"Set-Cookie", cookie)), orjson.dumps(body))

    async def sign_out(self, call: AdminCall) -> Response:
        """Ends the caller's session; a caller without one has nothing to end."""
        if call.actor.session:
            self._sessions.end(call.actor)
            self._do.audited.record(by(call), "session.end", OBJECT, "ok")
        name, value = clearing(call.request)
        return Response(204, (NO_STORE, (name.encode(), value.encode())), b"")

    async def make_portal_link(self, call: AdminCall) -> Response:
        """Makes a link that lets a tenant in once."""
        if call.table():
            raise BadRequest("the body must be empty")
        application = call.names["app"]

        async def make() -> str:
            current(self._do.snapshot.applications, application, "application")
            return self._links.make(application, call.actor)

        link = await self._do.audited(make(), by(call), "portal-link.make", application)
        until = self._do.now_ms() + round(self._config().portal_link_seconds * 1000)
        body = {"link": link, "application": application, "until": time_text(until)}
        return Response(201, (JSON, NO_STORE), orjson.dumps(body))

    def _shown(self, actor: Actor) -> dict[str, Any]:
        until = self._do.now_ms() + round(self._sessions.seconds_left(actor) * 1000)
        return {
            "role": actor.role or None,
            "name": actor.name or None,
            "application": actor.application or None,
            "may": [call for call in self._calls if may(actor, call)],
            "token_needed": not self._guard().open,
            "until": time_text(until - until % 1000) if actor.session else None,
            "idle_seconds": self._config().session_idle_seconds if actor.session else None,
            "gateway": self._gateway,
            "version": __version__,
        }
