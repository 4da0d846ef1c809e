"""Calls the admin API: pages, conditional changes. Blocking; for the command line."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

PREFIX = "/admin/v1"
PAGE = 500
MAX_ATTEMPTS = 5
NO_API = "There is nothing here"
"""The detail of a 404 from a server that is not the admin API."""


class Refused(Exception):
    """The gateway said no; the text says why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Unreachable(Exception):
    """No answer, or none of an admin listener."""


class Misused(Exception):
    """The request is impossible; the text names the possible ones."""


class AdminAnswer(NamedTuple):
    status: int
    body: Any
    """Parsed JSON, or a text; ``None`` where there is none."""
    etag: str


class AdminClient:
    """Talks to one admin listener. ``token`` may be empty; ``ca_file`` empty is the system's trust store."""

    def __init__(self, url: str, token: str, *, ca_file: str = "", timeout: float = 30.0, page: int = PAGE) -> None:
        if urlsplit(url).scheme not in {"http", "https"}:
            raise Unreachable(f"{url!r} is no URL of http or https")
        self._url = url.rstrip("/")
        self._token = token
        self._timeout = timeout
        self._page = page
        context = ssl.create_default_context(cafile=ca_file or None) if url.startswith("https:") else None
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if context is not None:
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)

    @staticmethod
    def name(text: str, like: str) -> str:
        """Quotes a name for a path: its slashes part segments, as many as in ``like``; other characters are encoded."""
        segments = text.split("/")
        if not all(segments) or len(segments) != like.count("/") + 1:
            raise Misused(f"{text!r} is not {like}")
        return quote(text, safe="/")

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        working_seconds: float = 0,
    ) -> AdminAnswer:
        """One call, which the gateway works on for so long; bytes go as they are, other bodies as JSON. ``Refused``
        with the problem's own words, ``Unreachable``.
        """
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} if content is not body else {}
        if self._token:
            given["Authorization"] = f"Bearer {self._token}"
        given |= headers or {}
        request = urllib.request.Request(self._url + PREFIX + path, content, given, method=method)
        try:
            with self._opener.open(request, timeout=self._timeout + working_seconds) as response:
                raw = response.read()
                found: Any = None
                if raw:
                    found = raw.decode() if response.headers.get_content_type() == "text/plain" else json.loads(raw)
                return AdminAnswer(response.status, found, response.headers.get("ETag", ""))
        except urllib.error.HTTPError as error:
            with error:
                text = _reason(error.code, error.read())
                if error.code == 404 and NO_API in text:
                    text = f"{self._url} has no admin API: is it the address of an admin listener, without a path?"
                raise Refused(error.code, text) from error
        except urllib.error.URLError as error:
            raise Unreachable(f"{self._url} cannot be reached: {error.reason}") from error
        except (OSError, ValueError) as error:
            raise Unreachable(f"{self._url} gave no proper answer: {error}") from error

    def list(self, path: str, **further: str) -> dict[str, Any]:
        """A whole list, page by page, in the shape of one page. ``further`` is more of its query."""
        items: list[Any] = []
        after: str | None = ""
        while after is not None:
            query = urlencode({"limit": self._page, **further, **({"after": after} if after else {})}, quote_via=quote)
            page = self.call("GET", f"{path}?{query}").body
            items += page["items"]
            after = page["next"]
        return {"items": items, "next": None}

    def change(self, path: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
        """Reads an entry (none is ``{}``), changes it and puts it back; again where another writer was quicker."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                found = self.call("GET", path)
                now, condition = found.body, {"If-Match": found.etag}
            except Refused as error:
                if error.status != 404:
                    raise
                now, condition = {}, {"If-None-Match": "*"}
            try:
                return self.call("PUT", path, change(now), condition).body
            except Refused as error:
                if error.status != 412 or attempt == MAX_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")


def _reason(status: int, raw: bytes) -> str:
    try:
        problem = json.loads(raw)
        if "results" in problem:  # of a batch that was not written whole
            failed = [result for result in problem["results"] if "detail" in result]
            return f"{len(failed)} of {len(problem['results'])} failed: {failed[0]['detail']} ({status})"
        detail = problem["detail"]
        first = f"{detail} ({status} {problem['type'].rpartition(':')[2]})"
        # where there is one, it is the detail
        return "\n  ".join([first, *(each for each in problem.get("problems", ()) if each != detail)])
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"the answer was {status}, and not one of kateway's admin listener"
