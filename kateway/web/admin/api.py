"""Routes the requests of the admin API: guard, route, rights, handler, answer.

Paths are taken apart from the raw request target and decoded segment by segment, so that an encoded slash never makes
a segment. ``openapi.json`` says the same as ``ROUTES``; a test holds the two together.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

import orjson
from twisted.internet.defer import CancelledError

from kateway.core.administration import Administration
from kateway.core.audited_changes import By
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
from kateway.web.admin.actors import NOBODY, Actor
from kateway.web.admin.groups import GROUP_QUERY, MOVE_QUERY, with_reader
from kateway.web.admin.history import HISTORY_QUERY
from kateway.web.admin.live import LIVE_QUERY
from kateway.web.admin.producers import PRODUCERS_QUERY
from kateway.web.admin.records import PEEK_QUERY, PUBLISH_QUERY, RECORD_QUERY
from kateway.web.admin.requests import AdminCall, answer, by, page_limit, query_of, unless_known
from kateway.web.admin.rights import check
from kateway.web.admin.rows import LIST_QUERY, ROWS_QUERY, Pages
from kateway.web.admin.troubles import AUDIT_QUERY, ERRORS_QUERY, EVENTS_QUERY
from kateway.web.admin.usage import USAGE_QUERY
from kateway.web.coroutine_handler import serve
from kateway.web.exchange import JSON, NO_STORE, Exchange, Request, Response
from kateway.web.problems import problem, problem_object

PREFIX = "/admin/v1"
_SESSION = f"{PREFIX}/session".encode()
_PAGED = frozenset({"after", "limit"})
_GROUP = "{reader}/{app}/{topic}/{version}/{group}"
_TRANSFORMS = "/transforms/{app}/{topic}/{version}"
_NOT_OF_THE_REGISTRY = frozenset(
    {
        f"{_TRANSFORMS}/try",
        "/reload",
        "/upgrade",
        "/profile",
        "/breakers/{cluster}",
        "/handoff/{cluster}/refused",
        "/handoff/{cluster}/refused/retry",
        "/records/{app}/{topic}/{version}",
        f"/groups/{_GROUP}/offsets",
        f"/groups/{_GROUP}/redrive",
        f"/groups/{_GROUP}/discard",
        "/gateways/{gateway}/drain",
        "/session",
        "/applications/{app}/portal-links",
    }
)
_NONE: frozenset[str] = frozenset()
_DELETE = frozenset({"delete_records"})
_DRY_RUN = frozenset({"dry_run"})


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
    AdminRoute("GET", "/session", "session"),
    AdminRoute("POST", "/session", "sign_in", action="session.open"),
    AdminRoute("DELETE", "/session", "sign_out", action="session.end"),
    AdminRoute("POST", "/applications/{app}/portal-links", "make_portal_link", action="portal-link.make"),
    AdminRoute("GET", "/status", "status"),
    AdminRoute("POST", "/reload", "reload", action="reload"),
    AdminRoute("POST", "/upgrade", "upgrade", action="upgrade"),
    AdminRoute("GET", "/processes", "processes"),
    AdminRoute("GET", "/openapi.json", "openapi"),
    AdminRoute("GET", "/gateways", "gateways", LIST_QUERY),
    AdminRoute("POST", "/gateways/{gateway}/drain", "drain", action="drain"),
    AdminRoute("GET", "/plugins", "plugins", ROWS_QUERY),
    AdminRoute("GET", "/elastic", "elastic", ROWS_QUERY),
    AdminRoute("GET", "/breakers", "breakers", LIST_QUERY),
    AdminRoute("POST", "/breakers/{cluster}", "set_breaker", action="breaker.set"),
    AdminRoute("GET", "/handoff", "handoffs", LIST_QUERY),
    AdminRoute("GET", "/handoff/{cluster}/refused", "refused", _PAGED),
    AdminRoute("DELETE", "/handoff/{cluster}/refused", "delete_refused", action="handoff.delete"),
    AdminRoute("POST", "/handoff/{cluster}/refused/retry", "retry_refused", action="handoff.retry"),
    AdminRoute("GET", "/applications", "applications", LIST_QUERY),
    AdminRoute("GET", "/applications/{app}", "application"),
    AdminRoute("PUT", "/applications/{app}", "put_application", action="application.put"),
    AdminRoute("DELETE", "/applications/{app}", "delete_application", action="application.delete"),
    AdminRoute("GET", "/applications/{app}/keys", "keys", LIST_QUERY),
    AdminRoute("POST", "/applications/{app}/keys", "make_key", action="key.make"),
    AdminRoute("GET", "/applications/{app}/keys/{key}", "key"),
    AdminRoute("PUT", "/applications/{app}/keys/{key}", "set_key_quota", action="key.quota"),
    AdminRoute("DELETE", "/applications/{app}/keys/{key}", "delete_key", action="key.delete"),
    AdminRoute("POST", "/applications/{app}/keys/{key}/rotate", "rotate_key", action="key.rotate"),
    AdminRoute("GET", "/topics", "topics", ROWS_QUERY),
    AdminRoute("GET", "/topics/{app}/{topic}/{version}", "topic"),
    AdminRoute("PUT", "/topics/{app}/{topic}/{version}", "put_topic", action="topic.put"),
    AdminRoute(
        "DELETE",
        "/topics/{app}/{topic}/{version}",
        "delete_topic",
        _DELETE,
        action="topic.delete",
    ),
    AdminRoute("GET", "/bindings", "bindings", LIST_QUERY),
    AdminRoute("GET", "/bindings/{subscriber}/{app}/{topic}/{version}", "binding"),
    AdminRoute("PUT", "/bindings/{subscriber}/{app}/{topic}/{version}", "put_binding", action="binding.put"),
    AdminRoute("DELETE", "/bindings/{subscriber}/{app}/{topic}/{version}", "delete_binding", action="binding.delete"),
    AdminRoute("GET", "/transforms", "transforms", LIST_QUERY),
    AdminRoute("GET", _TRANSFORMS, "topic_transforms"),
    AdminRoute("PUT", _TRANSFORMS, "put_transforms", _DRY_RUN, action="transforms.put"),
    AdminRoute("DELETE", _TRANSFORMS, "delete_transforms", action="transforms.delete"),
    AdminRoute("POST", f"{_TRANSFORMS}/try", "try_transforms", action="transforms.try"),
    AdminRoute("POST", "/profile", "profile", action="profile"),
    AdminRoute("GET", "/stacks", "stacks"),
    AdminRoute("GET", "/memory", "memory", frozenset({"limit"})),
    AdminRoute("GET", "/history", "history", HISTORY_QUERY),
    AdminRoute("GET", "/live", "live_rows", LIVE_QUERY),
    AdminRoute("GET", "/usage", "usage", USAGE_QUERY),
    AdminRoute("GET", "/producers", "producers", PRODUCERS_QUERY),
    AdminRoute("GET", "/errors", "errors", ERRORS_QUERY),
    AdminRoute("GET", "/slow", "slow", frozenset({"limit"})),
    AdminRoute("GET", "/events", "events", EVENTS_QUERY),
    AdminRoute("GET", "/audit", "audit", AUDIT_QUERY),
    AdminRoute("GET", "/groups", "groups", ROWS_QUERY),
    AdminRoute("GET", f"/groups/{_GROUP}", "group", GROUP_QUERY),
    AdminRoute("PUT", f"/groups/{_GROUP}/offsets", "move_group", MOVE_QUERY, action="group.offsets"),
    AdminRoute("GET", f"/groups/{_GROUP}/redrive", "redriving"),
    AdminRoute("POST", f"/groups/{_GROUP}/redrive", "redrive", action="group.redrive"),
    AdminRoute("GET", f"/groups/{_GROUP}/discard", "discarding"),
    AdminRoute("POST", f"/groups/{_GROUP}/discard", "discard", action="group.discard"),
    AdminRoute("GET", "/records/{app}/{topic}/{version}", "peek", PEEK_QUERY),
    AdminRoute("GET", "/records/{app}/{topic}/{version}/tail", "tail"),
    AdminRoute("GET", "/records/{app}/{topic}/{version}/{partition}/{offset}", "record", RECORD_QUERY),
    AdminRoute("POST", "/records/{app}/{topic}/{version}", "publish_records", PUBLISH_QUERY, action="records.publish"),
)


class Running(Protocol):
    """The running gateway, as the admin API needs to know it."""

    def status(self) -> Mapping[str, Any]:
        """What ``GET /admin/v1/status`` answers, ready for JSON."""

    async def reload(self) -> None:
        """Re-reads configuration and registry, all or nothing. ``ConfigError`` names every problem."""

    async def drain(self, gateway: str) -> None:
        """Does what TERM does, a moment later. ``NotFound``, ``Conflict`` for a gateway that is another process."""


Handler = Callable[[AdminCall], Coroutine[Any, Any, Response | None]]
"""``None``: it streams its answer itself."""


class AdminEdge:
    """Serves everything under ``/admin/v1``; to be mounted in the admin listener's tree as a branch."""

    def __init__(
        self,
        running: Running,
        administration: Administration,
        guard: Guard,
        calls: Sequence[object] = (),
        everywhere: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``calls`` are objects with the handlers; routes without a handler are not there. ``everywhere`` waits until a
        change of the registry is in force in the gateway's other processes.
        """
        self._everywhere = everywhere
        self.guard = guard
        """Replaced by a reload that brings another token or other hosts."""
        self._running = running
        self._do = administration
        handlers = calls
        by_path: dict[str, dict[bytes, tuple[AdminRoute, Handler]]] = {}
        for route in ROUTES:
            handler = getattr(self, f"_{route.handler}", None) or next(
                (getattr(each, route.handler) for each in handlers if hasattr(each, route.handler)), None
            )
            if handler is None:
                continue
            methods = by_path.setdefault(route.path, {})
            methods[route.method.encode()] = (route, handler)
            if route.method == "GET":
                methods[b"HEAD"] = (route, handler)
        self._routes = [(path.split("/")[1:], methods) for path, methods in by_path.items()]

    def handle(self, exchange: Exchange) -> None:
        """Answers a request, whatever comes of it."""
        serve(exchange, self._served(exchange))

    async def _served(self, exchange: Exchange) -> Response | None:
        try:
            return await self._answer(exchange)
        except KatewayError as error:
            # what one caller may not see must not be kept for the next, nor what it may
            refused = problem(error, exchange.request.id)
            return refused._replace(headers=(*refused.headers, NO_STORE))

    async def _answer(self, exchange: Exchange) -> Response | None:
        request = exchange.request
        path, _, raw_query = request.target.partition(b"?")
        try:
            self.guard.check_origin(request)
            actor = self._actor(request, path)
        except KatewayError as error:
            self._record_refusal(request, path, error, "")
            raise
        exchange.caller = actor.name
        methods, names = self._find(path)
        found = methods.get(request.method)
        if found is None:
            allow = ", ".join(sorted({method.decode() for method in methods} | {"OPTIONS"}))
            if request.method == b"OPTIONS":
                return Response(204, ((b"Allow", allow.encode()),), b"")
            raise MethodNotAllowed(f"allowed here: {allow}", headers=(("Allow", allow),))
        route, handler = found
        call = AdminCall(request, names, query_of(raw_query, route.query), exchange, actor)
        try:
            check(actor, route.handler, names, call.query, self._do.registry.snapshot)
        except KatewayError as error:
            self.guard.refused(error)
            self._record_refusal(request, path, error, actor.name)
            raise
        if route.action and route.path not in _NOT_OF_THE_REGISTRY:
            try:
                self._do.check_writable()
            except KatewayError as error:
                self._record_refusal(request, path, error, actor.name)
                raise
        try:
            response = await handler(call)
            if route.action and route.path not in _NOT_OF_THE_REGISTRY and self._everywhere is not None:
                await self._everywhere()
            return None if response is None else unless_known(request, response)
        except CancelledError:
            raise
        except ConfigError as error:
            # the fault is in a file that a reload read, not in the request
            refused = problem_object(Unprocessable(str(error)), request.id)
            refused["problems"] = error.problems
            headers = ((b"Content-Type", b"application/problem+json"), NO_STORE)
            return Response(422, headers, orjson.dumps(refused))

    def _actor(self, request: Request, path: bytes) -> Actor:
        """Recognises the caller; none need be signed in to sign in, or to be told that it is not."""
        if path == _SESSION and request.method == b"POST":
            return NOBODY
        if path == _SESSION and request.method in SAFE and self.guard.shows_nothing(request):
            return NOBODY
        return self.guard.identify(request)

    def _record_refusal(self, request: Request, path: bytes, error: KatewayError, actor: str) -> None:
        """Records a change that was refused before it was tried; of a flood with wrong tokens the first ones."""
        if request.method in SAFE or isinstance(error, TooManyFailures):
            return
        with suppress(KatewayError):
            methods, names = self._find(path)
            found = methods.get(request.method)
            if found is not None and found[0].action:
                changed = "/".join(names.values()) or ("session" if path == _SESSION else "configuration")
                self._do.audited.record_refusal(By(actor, request.id, request.peer), found[0].action, changed, error)

    def _find(self, path: bytes) -> tuple[dict[bytes, tuple[AdminRoute, Handler]], dict[str, str]]:
        prefix = PREFIX.encode() + b"/"
        segments: list[str] = []
        if path.startswith(prefix):
            segments = [_segment(raw) for raw in path[len(prefix) :].split(b"/")]
        if self._do.registry.driver == "open":
            segments = with_reader(segments)
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

    async def _drain(self, call: AdminCall) -> Response:
        if call.table():
            raise BadRequest("the body must be empty")
        gateway = call.names["gateway"]
        await self._do.audited(self._running.drain(gateway), by(call), "drain", gateway)
        return answer(202, {"name": gateway, "draining": True})

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
