"""Writes and reads the cookie of a session: of this listener alone, as far as a cookie can be."""

from __future__ import annotations

from typing import Final

from kateway.web.exchange import Request

NAME: Final = b"kateway-session"


def cookies(request: Request) -> list[bytes]:
    """Gives every value that a request has of the cookie: a page on another port can have set one of that name too."""
    name = _name(request)
    given = b";".join(value for key, value in request.headers if key == b"cookie")
    pairs = [pair.strip().partition(b"=") for pair in given.split(b";")]
    return [value for key, _equals, value in pairs if key == name]


def setting(request: Request, value: str, seconds: float) -> bytes:
    """Gives the value of ``Set-Cookie`` for a session that was opened."""
    parts = [b"%b=%b" % (_name(request), value.encode()), b"Path=/", b"Max-Age=%d" % seconds, b"HttpOnly"]
    parts.append(b"SameSite=Strict")
    if request.secure:
        parts.append(b"Secure")
    return b"; ".join(parts)


def clearing(request: Request) -> tuple[str, str]:
    """Gives the header that takes a session's cookie away."""
    return "Set-Cookie", setting(request, "", 0).decode("latin-1")


def _name(request: Request) -> bytes:
    """Names the cookie by the port: gateways on several ports of one host would take each other's away."""
    port = (request.header(b"host") or b"").rpartition(b"]")[2].rpartition(b":")[2]
    return b"%b-%b" % (NAME, port) if port.isdigit() else NAME
