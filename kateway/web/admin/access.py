"""Access to the admin listener: not for a browser that was led there, and only with the token where one is set.

Any web page can have a browser send requests to a loopback port. Two things give such requests away: a name in
``Host`` that is not ours (DNS rebinding), and an ``Origin`` that is not ours on a request that would change something.
Both are refused, token or not.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from twisted.logger import Logger

from kateway.core.access.failures import Failures
from kateway.errors import ConfigError, Denied, Misdirected, Unauthorized
from kateway.web.exchange import Request
from kateway.web.tcp.endpoints import WILDCARDS, address_of, is_loopback, parse_endpoint

SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
SAFE_TOKEN_BYTES = 16
NAME = b"admin"
"""What failures are counted by, beside the address."""
_log = Logger()
CHALLENGE = ("WWW-Authenticate", 'Bearer realm="kateway admin"')


def read_token(token_file: str, endpoints: Iterable[str]) -> bytes:
    """The token; empty where none is set and every endpoint is loopback. ``ConfigError`` otherwise."""
    if not token_file:
        exposed = [endpoint for endpoint in endpoints if not is_loopback(endpoint)]
        if exposed:
            raise ConfigError([f"admin.token_file: is required, because {', '.join(exposed)} is not loopback"])
        return b""
    try:
        token = Path(token_file).read_bytes().strip()
    except OSError as error:
        raise ConfigError([f"admin.token_file: {token_file}: {error.strerror or error}"]) from error
    if not token or not token.isascii() or len(token.split()) > 1:
        raise ConfigError([f"admin.token_file: {token_file}: needs one line of letters, digits and signs"])
    if len(token) < SAFE_TOKEN_BYTES:
        _log.warn(
            "admin.token_file: {n} characters can be guessed: make it {safe}", n=len(token), safe=SAFE_TOKEN_BYTES
        )
    return token


class Guard:
    """Checks requests to the admin listener. ``endpoints`` are its endpoint strings, ``hosts`` further names of it."""

    def __init__(self, token: bytes, *, endpoints: Iterable[str], hosts: Iterable[str], failures: Failures) -> None:
        self._token = _digest(token) if token else b""
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

    def check_token(self, request: Request) -> None:
        """``Unauthorized`` without the token, ``TooManyFailures`` after too many wrong ones from that address."""
        if not self._token:
            return
        scheme, _, given = (request.header(b"authorization") or b"").partition(b" ")
        if not given:
            raise Unauthorized("this needs Authorization: Bearer with the admin token", headers=(CHALLENGE,))
        self._failures.refuse(request.peer, NAME, given)
        if scheme.lower() != b"bearer" or not hmac.compare_digest(_digest(given.strip()), self._token):
            self._failures.wrong(request.peer, NAME, given)
            raise Unauthorized("that is not the admin token", headers=(CHALLENGE,))
        self._failures.note_right(request.peer, NAME, given)

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


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _host_name(host: bytes) -> str:
    """A ``Host`` without its port and brackets, in lower case."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")
