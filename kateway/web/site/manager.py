"""``/ui/`` of the admin listener: the manager, a browser's pages over the admin API, served from memory.

The pages are files of the package. They hold no data and no secret: what they show they ask the admin API for, with the
rights of the session, so they need no token themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

from kateway.errors import NotFound
from kateway.web.exchange import Header, Request, Response

INDEX = "index.html"
_TYPES = {
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "svg": b"image/svg+xml",
}
POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_GUARDING: Header = (b"Content-Security-Policy", POLICY)
_PAGES = b"/ui/"


class Page(NamedTuple):
    """A file of the manager, as it is answered."""

    media_type: bytes
    etag: bytes
    content: bytes


def manager(request: Request) -> Response:
    """A file of the manager; 304 where the browser has it. ``NotFound``."""
    name = request.target.partition(b"?")[0].partition(_PAGES)[2].decode("latin-1") or INDEX
    page = pages().get(name)
    if page is None:
        raise NotFound("the manager has no such file")
    # asked for again each time, and answered 304: after an upgrade no page is made of old and new modules
    headers = (_GUARDING, (b"Cache-Control", b"no-cache"), (b"ETag", page.etag))
    if page.etag in (request.listed(b"if-none-match") or b""):
        return Response(304, headers, b"")
    return Response(200, ((b"Content-Type", page.media_type), *headers), page.content)


def to_manager(_request: Request) -> Response:
    """Leads a browser from ``/`` and ``/ui`` to ``/ui/``, by a relative reference: a proxy may have put a prefix
    before it.
    """
    return Response(302, ((b"Location", b"ui/"), (b"Cache-Control", b"no-cache"), _GUARDING), b"")


@cache
def pages() -> Mapping[str, Page]:
    """Every file of the manager by its path below ``/ui/``."""
    return {name: _page(name, content) for name, content in _files(files("kateway.web").joinpath("ui"), "")}


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        elif entry.name.rpartition(".")[2] in _TYPES:
            yield prefix + entry.name, entry.read_bytes()


def _page(name: str, content: bytes) -> Page:
    digest = hashlib.blake2b(content, digest_size=12).hexdigest()
    return Page(_TYPES[name.rpartition(".")[2]], f'"{digest}"'.encode(), content)
