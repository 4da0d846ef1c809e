"""Guards the admin listener: not for a browser that was led there, and where tokens are set only with one of them, or
in a session that one of them opened.

Any web page can have a browser send requests to a loopback port. Two things give such requests away: a name in
``Host`` that is not ours (DNS rebinding), and an ``Origin`` that is not ours on a request that would change something.
Both are refused, token or not.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from kateway.core.access.failures import Failures
from kateway.errors import Denied, KatewayError, Misdirected, Unauthorized
from kateway.web.admin.actors import OPEN, Actor, digest
from kateway.web.admin.cookies import clearing, cookies
from kateway.web.admin.rights import may
from kateway.web.admin.sessions import Sessions
from kateway.web.admin.tokens import Tokens
from kateway.web.exchange import Request
from kateway.web.tcp.endpoints import WILDCARDS, address_of, parse_endpoint

SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
NAME = b"admin"
"""What failures are counted by, beside the address."""
HEADER_HALF = b"kateway-session"
CHALLENGE = ("WWW-Authenticate", 'Bearer realm="kateway admin"')


class Guard:
    """Checks requests to the admin listener. ``endpoints`` are its endpoint strings, ``hosts`` further names of it."""

    def __init__(
        self,
        tokens: Tokens,
        sessions: Sessions,
        *,
        endpoints: Iterable[str],
        hosts: Iterable[str],
        failures: Failures,
        refused: Callable[[KatewayError], None] = lambda _error: None,
    ) -> None:
        """``refused`` is called with each error that says that a caller may not do what it asks for."""
        self.refused = refused
        self.sessions = sessions
        self._tokens = tokens
        self._failures = failures
        parsed = [parse_endpoint(endpoint) for endpoint in endpoints]
        interfaces = {"127.0.0.1" if one.kind == "unix" else one.interface.lower() for one in parsed}
        self._any_address = not interfaces.isdisjoint(WILDCARDS)
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        for interface in interfaces - WILDCARDS:
            self._hosts.add(interface)
            address = address_of(interface)
            if address is not None and address.is_loopback:
                self._hosts |= {"127.0.0.1", "::1"}

    def check_origin(self, request: Request) -> None:
        """``Misdirected`` for a ``Host`` that is not ours, ``Denied`` for a page of another origin on its way to change
        something.
        """
        host = request.header(b"host")
        if host is not None and not self._ours(_host_name(host)):
            raise Misdirected("this listener has another name; [admin] hosts can give it more")
        origin = request.header(b"origin")
        if origin is not None and request.method not in SAFE and not self._own_origin(origin, host):
            raise Denied("a page of another origin may not change anything here")

    @property
    def open(self) -> bool:
        """Whether no token is needed."""
        return not self._tokens

    def identify(self, request: Request) -> Actor:
        """Recognises a caller by its token or its session. ``Unauthorized`` without either, ``TooManyFailures`` after
        too many wrong tokens from that address.
        """
        try:
            return self._identify(request)
        except KatewayError as error:
            self.refused(error)
            raise

    def shows_nothing(self, request: Request) -> bool:
        """Whether a caller that would have to show something shows nothing at all."""
        return bool(self._tokens) and not (
            request.header(b"authorization") or request.header(HEADER_HALF) is not None or cookies(request)
        )

    def sign_in(self, request: Request, secret: bytes, find: Callable[[bytes], Actor | None]) -> Actor:
        """Recognises a caller by what it signs in with. ``Unauthorized``, ``TooManyFailures``, as of a token."""
        try:
            return self._check(request, secret, secret, find)
        except KatewayError as error:
            self.refused(error)
            raise

    def token(self, secret: bytes) -> Actor | None:
        """Finds a token's holder."""
        proof = digest(secret)
        # each is compared in full: how far one agrees must not show
        found = [actor for known, actor in self._tokens.items() if hmac.compare_digest(known, proof)]
        return found[0] if found else None

    def stands(self, actor: Actor) -> bool:
        """Whether a caller that was let in would be let in now."""
        if not self._tokens or not actor.proof:
            return not self._tokens and not actor.proof
        holder = self._tokens.get(actor.proof)
        if holder is None:
            return False
        return may(holder, "make_portal_link") if actor.application else (holder.name, holder.role) == actor[:2]

    def _identify(self, request: Request) -> Actor:
        if not self._tokens and request.header(HEADER_HALF) is None:
            return OPEN
        scheme, _, given = (request.header(b"authorization") or b"").partition(b" ")
        if given and self._tokens:
            return self._check(
                request, given, given.strip(), self.token if scheme.lower() == b"bearer" else lambda _secret: None
            )
        half, shown = request.header(HEADER_HALF), cookies(request)
        if half is not None:
            actor = self.sessions.find(half, shown)
            if actor is not None:
                return actor
            raise Unauthorized("the session has ended: sign in again", headers=(CHALLENGE, clearing(request)))
        if shown:
            # clears none: a page that another one led here has no header half, and must sign no person out
            raise Unauthorized("a session's cookie needs the header Kateway-Session beside it", headers=(CHALLENGE,))
        raise Unauthorized("this needs Authorization: Bearer with an admin token, or a session", headers=(CHALLENGE,))

    def _check(self, request: Request, given: bytes, secret: bytes, find: Callable[[bytes], Actor | None]) -> Actor:
        self._failures.refuse(request.peer, NAME, given)
        actor = find(secret)
        if actor is None:
            self._failures.wrong(request.peer, NAME, given)
            raise Unauthorized("that is no token or link that lets anyone in", headers=(CHALLENGE,))
        self._failures.note_right(request.peer, NAME, given)
        return actor

    def _ours(self, name: str) -> bool:
        # an address is nothing that DNS could have been made to lie about
        return name in self._hosts or (self._any_address and address_of(name) is not None)

    def _own_origin(self, origin: bytes, host: bytes | None) -> bool:
        try:
            parts = urlsplit(origin.decode("ascii"))
        except (UnicodeDecodeError, ValueError):
            return False
        return (
            parts.scheme in {"http", "https"}
            and host is not None
            and parts.netloc.lower().encode() == host.lower()
            and self._ours(_host_name(host))
        )


def _host_name(host: bytes) -> str:
    """A ``Host`` without its port and brackets, in lower case."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")
