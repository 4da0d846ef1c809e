"""The Klein resource trees of the two listeners: which path is whose.

The public tree mounts the message plane and health. Behind our own channel only what is not of the message
plane comes through here; under a stock ``Site`` (and in tests) everything does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from klein import Klein
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.server import Request as TwistedRequest
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed

from kateway.errors import BadRequest, KatewayError, MethodNotAllowed, NotFound
from kateway.model import Health
from kateway.web.admin.api import AdminEdge
from kateway.web.cors import check_origin
from kateway.web.exchange import Exchange, Header, Request, Response
from kateway.web.problems import problem
from kateway.web.site.about import about, openapi
from kateway.web.site.exchange import StockExchange
from kateway.web.site.health import live, ready
from kateway.web.site.manager import manager, to_manager

Serve = Callable[[Exchange], None]
FOR_BROWSERS: tuple[Header, ...] = ((b"X-Content-Type-Options", b"nosniff"), (b"Referrer-Policy", b"no-referrer"))
"""Of the admin listener: no response is taken for a page that it is not, and no address of ours is told elsewhere."""


class HandOver(Resource):
    """Hands a twisted request over as an exchange; the handler answers it when it will."""

    isLeaf = True

    def __init__(self, tree: Tree, serve: Serve, operation: str = "") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tree = tree
        self._serve = serve
        self._operation = operation

    def render(self, request: TwistedRequest) -> int:
        exchange = self._tree.exchange_of(request)
        if self._operation:
            exchange.operation = self._operation
        self._serve(exchange)
        return NOT_DONE_YET


class Decodable(Resource):
    """Keeps from a Klein tree the paths that are not UTF-8: what it says of them is no problem."""

    isLeaf = True

    def __init__(self, tree: Tree, app: Klein) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tree = tree
        self._inner = app.resource()

    def render(self, request: TwistedRequest) -> Any:
        try:
            b"/".join(request.postpath or ()).decode("utf-8")
        except UnicodeDecodeError:
            refused = BadRequest("the path is not UTF-8")
            return self._tree.answer(lambda asked: problem(refused, asked.id)).render(request)
        return self._inner.render(request)


class Tree:
    """Common to every Klein tree of ours: exchanges for requests, problems for failures and unknown paths."""

    def __init__(
        self, clock: IReactorTime, check: Serve = lambda _exchange: None, headers: Sequence[Header] = ()
    ) -> None:
        """``check`` raises for a request that a browser was led to send; every response has these ``headers``."""
        self._clock = clock
        self._check = check
        self._headers = tuple(headers)

    def exchange_of(self, request: TwistedRequest) -> Exchange:
        """The wire's own exchange where the request came through our channel, else one over twisted.web."""
        exchange: Exchange | None = getattr(request.channel, "exchange", None)
        if exchange is None:
            exchange = StockExchange(request, self._clock.seconds())
        # a failure in the tree is answered by another resource of it
        exchange.extra_headers = tuple(dict.fromkeys((*exchange.extra_headers, *self._headers)))
        return exchange

    def hand_over(self, serve: Serve, operation: str = "") -> HandOver:
        """A resource whose requests ``serve`` answers; it names the operation where none is given."""
        return HandOver(self, serve, operation)

    def answer(self, make: Callable[[Request], Response], operation: str = "other") -> HandOver:
        """A resource that answers at once."""

        def respond(exchange: Exchange) -> None:
            try:
                self._check(exchange)
                response = make(exchange.request)
            except KatewayError as error:
                response = problem(error, exchange.request.id)
            exchange.respond(response)

        return HandOver(self, respond, operation)

    def failed(self, failure: Failure) -> HandOver:
        """The problem for a failure in a tree: Klein's own pages are HTML."""
        error = failure.value or KatewayError()
        if isinstance(error, WerkzeugMethodNotAllowed):
            allow = ", ".join(sorted(error.valid_methods or ()))
            error = MethodNotAllowed(f"allowed here: {allow}", headers=(("Allow", allow),))
        elif isinstance(error, HTTPException):
            error = NotFound() if error.code in {404, 301, 308} else KatewayError(error.description or "")
        return self.answer(lambda request: problem(error, request.id))


HealthParts = Callable[[], Mapping[str, Health]]


def public_tree(
    clock: IReactorTime,
    plane: Serve,
    health: HealthParts,
    draining: Callable[[], bool],
    cors_origins: Callable[[], Sequence[str]],
) -> Resource:
    """``/``, ``/openapi.json``, ``/live``, ``/ready`` and the message plane."""
    app, tree = _app(clock, health, draining, lambda exchange: check_origin(exchange, cors_origins()))

    @app.route("/", methods=["GET", "HEAD"])
    def root(_request: TwistedRequest) -> Any:
        return tree.answer(about)

    @app.route("/openapi.json", methods=["GET", "HEAD"])
    def description(_request: TwistedRequest) -> Any:
        return tree.answer(openapi)

    @app.route("/<version>/topics", branch=True)
    def topics(_request: TwistedRequest, version: str) -> Any:
        return tree.hand_over(plane)

    return Decodable(tree, app)


def admin_tree(
    clock: IReactorTime,
    admin: AdminEdge,
    health: HealthParts,
    draining: Callable[[], bool],
    metrics: Serve | None = None,
) -> Resource:
    """``/live``, ``/ready``, ``/metrics`` where anything is counted, the admin API, and the manager, its pages."""
    app, tree = _app(clock, health, draining, lambda exchange: admin.guard.check_origin(exchange.request), FOR_BROWSERS)

    @app.route("/admin/v1", branch=True)
    def admin_api(_request: TwistedRequest) -> Any:
        return tree.hand_over(admin.handle, "admin")

    @app.route("/", methods=["GET", "HEAD"])
    @app.route("/ui", methods=["GET", "HEAD"])
    def lead(_request: TwistedRequest) -> Any:
        return tree.answer(to_manager, "ui")

    @app.route("/ui/", methods=["GET", "HEAD"], branch=True)
    def pages(_request: TwistedRequest) -> Any:
        return tree.answer(manager, "ui")

    if metrics is not None:
        serve_metrics = metrics

        @app.route("/metrics", methods=["GET", "HEAD"])
        def scrape(_request: TwistedRequest) -> Any:
            return tree.hand_over(serve_metrics, "metrics")

    return Decodable(tree, app)


def _app(
    clock: IReactorTime,
    health: HealthParts,
    draining: Callable[[], bool],
    check: Serve,
    headers: Sequence[Header] = (),
) -> tuple[Klein, Tree]:
    """Common to both listeners: health, and problems for unknown paths."""
    app = Klein()
    tree = Tree(clock, check, headers)

    @app.route("/live", methods=["GET", "HEAD"])
    def is_live(_request: TwistedRequest) -> Any:
        return tree.answer(lambda _: live(), "health")

    @app.route("/ready", methods=["GET", "HEAD"])
    def is_ready(_request: TwistedRequest) -> Any:
        return tree.answer(lambda _: ready(health(), draining=draining()), "health")

    app.handle_errors(Exception)(lambda _request, failure: tree.failed(failure))
    return app, tree


def in_plane(target: bytes) -> bool:
    """Whether the wire may hand a request to the message plane directly: what the public tree would do with it."""
    # hot, so no parsing: a target that has this elsewhere is not found by the plane either
    return b"/topics/" in target
