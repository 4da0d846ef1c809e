"""The admin API's routes, and the way of a request through them: guard, route, handler, answer.

Paths are taken apart from the raw request target and decoded segment by segment, so that an encoded slash never makes
a segment. ``openapi.json`` says the same as ``ROUTES``; a test holds the two together.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

import orjson
from twisted.internet.defer import CancelledError

from kateway.core.administration import Administration, By
from kateway.errors import (
    BadRequest,
    ConfigError,
    InvalidName,
    InvalidParameter,
    KatewayError,
    MethodNotAllowed,
    NotFound,
    TooManyFailures,
    Unprocessable,
)
from kateway.registry.documents import gateway_to_table, time_text
from kateway.storage.interface import RefusedRecord
from kateway.web.admin.access import SAFE, Guard
from kateway.web.admin.requests import AdminCall, Pages, answer, page_limit, query_of, unless_known
from kateway.web.admin.resources import Resources, by
from kateway.web.coroutine_handler import serve
from kateway.web.exchange import JSON, NO_STORE, Exchange, Request, Response
from kateway.web.problems import problem_object

PREFIX = "/admin/v1"
_PAGED = frozenset({"after", "limit"})
_NOT_OF_THE_REGISTRY = frozenset(
    {"/reload", "/breakers/{cluster}", "/handoff/{cluster}/refused", "/handoff/{cluster}/refused/retry"}
)
_NONE: frozenset[str] = frozenset()
_DELETE = frozenset({"delete_records"})


class AdminRoute(NamedTuple):
    """A path below ``PREFIX`` with its names in braces, a method, the handler's name and the query it takes; a change
    has its action's name in the audit.
    """

    method: str
    path: str
    handler: str
    query: frozenset[str] = _NONE
    action: str = ""


ROUTES = (
    AdminRoute("GET", "/status", "status"),
    AdminRoute("POST", "/reload", "reload", action="reload"),
    AdminRoute("GET", "/openapi.json", "openapi"),
    AdminRoute("GET", "/gateways", "gateways", _PAGED),
    AdminRoute("GET", "/breakers", "breakers", _PAGED),
    AdminRoute("POST", "/breakers/{cluster}", "set_breaker", action="breaker.set"),
    AdminRoute("GET", "/handoff", "handoffs", _PAGED),
    AdminRoute("GET", "/handoff/{cluster}/refused", "refused", _PAGED),
    AdminRoute("DELETE", "/handoff/{cluster}/refused", "delete_refused", action="handoff.delete"),
    AdminRoute("POST", "/handoff/{cluster}/refused/retry", "retry_refused", action="handoff.retry"),
    AdminRoute("GET", "/applications", "applications", _PAGED),
    AdminRoute("GET", "/applications/{app}", "application"),
    AdminRoute("PUT", "/applications/{app}", "put_application", action="application.put"),
    AdminRoute("DELETE", "/applications/{app}", "delete_application", action="application.delete"),
    AdminRoute("GET", "/applications/{app}/keys", "keys", _PAGED),
    AdminRoute("POST", "/applications/{app}/keys", "make_key", action="key.make"),
    AdminRoute("GET", "/applications/{app}/keys/{key}", "key"),
    AdminRoute("PUT", "/applications/{app}/keys/{key}", "set_key_quota", action="key.quota"),
    AdminRoute("DELETE", "/applications/{app}/keys/{key}", "delete_key", action="key.delete"),
    AdminRoute("POST", "/applications/{app}/keys/{key}/rotate", "rotate_key", action="key.rotate"),
    AdminRoute("GET", "/topics", "topics", _PAGED),
    AdminRoute("GET", "/topics/{app}/{topic}/{version}", "topic"),
    AdminRoute("PUT", "/topics/{app}/{topic}/{version}", "put_topic", action="topic.put"),
    AdminRoute(
        "DELETE",
        "/topics/{app}/{topic}/{version}",
        "delete_topic",
        _DELETE,
        action="topic.delete",
    ),
    AdminRoute("GET", "/bindings", "bindings", _PAGED),
    AdminRoute("GET", "/bindings/{subscriber}/{app}/{topic}/{version}", "binding"),
    AdminRoute("PUT", "/bindings/{subscriber}/{app}/{topic}/{version}", "put_binding", action="binding.put"),
    AdminRoute("DELETE", "/bindings/{subscriber}/{app}/{topic}/{version}", "delete_binding", action="binding.delete"),
)


class Running(Protocol):
    """The running gateway, as the admin API needs to know it."""

    def status(self) -> Mapping[str, Any]:
        """What ``GET /admin/v1/status`` answers, ready for JSON."""

    async def reload(self) -> None:
        """Re-reads configuration and registry, all or nothing. ``ConfigError`` names every problem."""


Handler = Callable[[AdminCall], Coroutine[Any, Any, Response]]


class AdminEdge:
    """Serves everything under ``/admin/v1``; to be mounted in the admin listener's tree as a branch."""

    def __init__(self, running: Running, administration: Administration, guard: Guard) -> None:
        self.guard = guard
        """Replaced by a reload that brings another token or other hosts."""
        self._running = running
        self._do = administration
        resources = Resources(administration)
        by_path: dict[str, dict[bytes, tuple[AdminRoute, Handler]]] = {}
        for route in ROUTES:
            handler = getattr(self, f"_{route.handler}", None) or getattr(resources, route.handler)
            methods = by_path.setdefault(route.path, {})
            methods[route.method.encode()] = (route, handler)
            if route.method == "GET":
                methods[b"HEAD"] = (route, handler)
        self._routes = [(path.split("/")[1:], methods) for path, methods in by_path.items()]

    def handle(self, exchange: Exchange) -> None:
        """Answers a request, whatever comes of it."""
        serve(exchange, self._answer(exchange.request))

    async def _answer(self, request: Request) -> Response:
        path, _, raw_query = request.target.partition(b"?")
        try:
            self.guard.check_origin(request)
            self.guard.check_token(request)
        except KatewayError as error:
            self._record_refusal(request, path, error, "")
            raise
        methods, names = self._find(path)
        found = methods.get(request.method)
        if found is None:
            allow = ", ".join(sorted({method.decode() for method in methods} | {"OPTIONS"}))
            if request.method == b"OPTIONS":
                return Response(204, ((b"Allow", allow.encode()),), b"")
            raise MethodNotAllowed(f"allowed here: {allow}", headers=(("Allow", allow),))
        route, handler = found
        call = AdminCall(request, names, query_of(raw_query, route.query))
        if route.action and route.path not in _NOT_OF_THE_REGISTRY:
            try:
                self._do.check_writable()
            except KatewayError as error:
                self._record_refusal(request, path, error, "admin")
                raise
        try:
            return unless_known(request, await handler(call))
        except CancelledError:
            raise
        except ConfigError as error:
            # the fault is in a file that a reload read, not in the request
            refused = problem_object(Unprocessable(str(error)), request.id)
            refused["problems"] = error.problems
            return Response(422, ((b"Content-Type", b"application/problem+json"),), orjson.dumps(refused))

    def _record_refusal(self, request: Request, path: bytes, error: KatewayError, actor: str) -> None:
        """Records a change that was refused before it was tried; of a flood with wrong tokens the first ones."""
        if request.method in SAFE or isinstance(error, TooManyFailures):
            return
        with suppress(KatewayError):
            methods, names = self._find(path)
            found = methods.get(request.method)
            if found is not None and found[0].action:
                changed = "/".join(names.values()) or "configuration"
                self._do.record_refusal(By(actor, request.id, request.peer), found[0].action, changed, error)

    def _find(self, path: bytes) -> tuple[dict[bytes, tuple[AdminRoute, Handler]], dict[str, str]]:
        prefix, segments = PREFIX.encode() + b"/", []
        if path.startswith(prefix):
            segments = [_segment(raw) for raw in path[len(prefix) :].split(b"/")]
        for pattern, methods in self._routes:
            if len(pattern) != len(segments):
                continue
            names: dict[str, str] = {}
            for expected, segment in zip(pattern, segments, strict=True):
                if expected.startswith("{") and segment:
                    names[expected[1:-1]] = segment
                elif expected != segment:
                    break
            else:
                return methods, names
        raise NotFound(f"there is nothing here; {PREFIX}/openapi.json says what there is")

    # --- the gateway itself ------------------------------------------------------------------------------------

    async def _status(self, _call: AdminCall) -> Response:
        return answer(200, self._running.status())

    async def _reload(self, call: AdminCall) -> Response:
        await self._do.audited(self._running.reload(), by(call), "reload", "configuration")
        return answer(200, self._running.status().get("configuration", {}))

    async def _breakers(self, call: AdminCall) -> Response:
        return answer(200, Pages(self._breaker).page({name: name for name in self._do.breakers}, call.query))

    async def _set_breaker(self, call: AdminCall) -> Response:
        table = call.table()
        state = table.get("state")
        if state not in ("open", "closed") or len(table) > 1:
            raise BadRequest('the body must be {"state":"open"} or {"state":"closed"}')
        cluster = call.names["cluster"]
        await self._do.set_breaker(cluster, state, by(call))
        return answer(200, {"name": cluster, **self._breaker(cluster)})

    def _breaker(self, cluster: str) -> dict[str, Any]:
        shown = self._do.breakers.status(cluster)
        since_ms = self._do.now_ms() - round(shown.pop("seconds") * 1000)
        return {**shown, "since": time_text(since_ms)}

    async def _handoffs(self, call: AdminCall) -> Response:
        return answer(
            200, Pages(lambda name: self._do.handoff(name).status()).page({n: n for n in self._do.handoffs}, call.query)
        )

    async def _refused(self, call: AdminCall) -> Response:
        """Refused records in the order of their refusal; ``after`` is a record's number."""
        handoff = self._do.handoff(call.names["cluster"])
        limit, after = page_limit(call.query), call.query.get("after", "0")
        if not after.isascii() or not after.isdigit() or len(after) > 18:
            raise InvalidParameter("after must be the number of a refused record")
        found = await handoff.list_refused(int(after), limit + 1)
        items = [_refused_table(record) for record in found[:limit]]
        return answer(200, {"items": items, "next": items[-1]["name"] if len(found) > limit else None})

    async def _retry_refused(self, call: AdminCall) -> Response:
        if call.table():
            raise BadRequest("the body must be empty")
        return answer(200, {"retried": await self._do.retry_refused(call.names["cluster"], by(call))})

    async def _delete_refused(self, call: AdminCall) -> Response:
        return answer(200, {"deleted": await self._do.delete_refused(call.names["cluster"], by(call))})

    async def _gateways(self, call: AdminCall) -> Response:
        entries = {entry.name: entry for entry in await self._do.registry.gateways()}
        return answer(200, Pages(gateway_to_table).page(entries, call.query))

    async def _openapi(self, _call: AdminCall) -> Response:
        return Response(200, (JSON, NO_STORE, (b"ETag", b'"openapi"')), openapi())


def _refused_table(record: RefusedRecord) -> dict[str, Any]:
    key = record.key
    return {
        "name": str(record.id),
        "topic": record.topic,
        "partition": record.partition,
        "key_base64": None if key is None else b64encode(key).decode(),
        "value_bytes": record.value_bytes,
        "taken": time_text(record.taken_ms),
        "refused": time_text(record.refused_ms),
        "reason": record.reason,
    }


@cache
def openapi() -> bytes:
    """The OpenAPI 3.1 description of both listeners."""
    return files("kateway.web").joinpath("openapi.json").read_bytes()


def _segment(raw: bytes) -> str:
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidName("a name in the path is not UTF-8") from error
