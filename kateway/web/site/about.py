"""``/`` and ``/openapi.json`` of the public listener: what this is, and the description of its requests."""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files

import orjson

from kateway import __version__
from kateway.web.exchange import JSON, Request, Response

LINKS = {"openapi": "/openapi.json", "live": "/live", "ready": "/ready", "topics": "/v1/topics"}
_HTML = (b"Content-Type", b"text/html; charset=utf-8")
_CACHE = (b"Cache-Control", b"no-cache")
_VARY = (b"Vary", b"Accept")
_OF_ADMINISTRATION = ("/admin/", "/metrics")


def about(request: Request) -> Response:
    """Name, version and links: JSON, or a short page where HTML is asked for, as browsers do."""
    if _wants_html(request.listed(b"accept") or b""):
        return Response(200, (_HTML, _CACHE, _VARY), _page())
    body = orjson.dumps({"name": "kateway", "version": __version__, "links": LINKS})
    return Response(200, (JSON, _CACHE, _VARY), body)


def openapi(_request: Request) -> Response:
    """The OpenAPI 3.1 description of the message plane."""
    return Response(200, (JSON, _CACHE), _public_openapi())


def _wants_html(accept: bytes) -> bool:
    """RFC 9110 12.5.1: whether HTML is named, and comes before JSON and wildcards."""
    qualities: dict[bytes, float] = {}
    for part in accept.lower().split(b","):
        media_type, *parameters = (piece.strip() for piece in part.split(b";"))
        quality = next((piece[2:] for piece in parameters if piece.startswith(b"q=")), b"1")
        try:
            qualities[media_type] = float(quality)
        except ValueError:
            qualities[media_type] = 0.0
    html = qualities.get(b"text/html", 0.0)
    return html > 0 and html >= qualities.get(b"application/json", qualities.get(b"*/*", 0.0))


@cache
def _page() -> bytes:
    links = "".join(f'<li>{name}: <a href="{path}">{path}</a></li>' for name, path in LINKS.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>kateway</title></head>'
        f"<body><h1>kateway {escape(__version__)}</h1>"
        "<p>An HTTP gateway to Kafka. Publish with <code>POST /v1/topics/NAME</code>, "
        "subscribe with <code>GET /v1/topics/NAME/GROUP</code>.</p>"
        f"<ul>{links}</ul></body></html>\n"
    ).encode()


@cache
def _public_openapi() -> bytes:
    """Without the admin listener's paths: their schemas stay, as nothing refers to them but those."""
    whole = orjson.loads(files("kateway.web").joinpath("openapi.json").read_bytes())
    whole["paths"] = {path: item for path, item in whole["paths"].items() if not path.startswith(_OF_ADMINISTRATION)}
    return orjson.dumps(whole)
