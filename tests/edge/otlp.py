"""A receiver of OTLP over HTTP, which decodes what it is sent."""

from __future__ import annotations

import gzip
from typing import Any

from gateways import eventually
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site


class Receiver(Resource):
    """Keeps spans. ``silent``: it takes requests and answers none; ``status`` is that of its answers."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.paths: list[bytes] = []
        self.requests = 0
        self.silent = False
        self.status = 200
        self.port: Any = None
        self.number = 0

    def start(self) -> None:
        """Listens, on the same port as before."""
        self.port = reactor.listenTCP(self.number, Site(self), interface="127.0.0.1")
        self.number = self.port.getHost().port

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.number}"

    def render_POST(self, request: Request) -> Any:
        self.requests += 1
        self.paths.append(request.path)
        if self.silent:
            return NOT_DONE_YET
        request.setResponseCode(self.status)
        if self.status != 200:
            return b""
        body = request.content.read()
        if request.getHeader("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append({pair.key: pair.value.string_value for pair in each.resource.attributes})
            for scope in each.scope_spans:
                self.spans += scope.spans
        return b""

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    async def until(self, name: str, count: int = 1) -> list[Any]:
        """Waits for so many spans of a name."""
        await eventually(lambda: len(self.named(name)) >= count)
        return self.named(name)


def attributes(span: Any) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value"))  # text, number or truth
        for pair in span.attributes
    }
