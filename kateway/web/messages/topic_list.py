"""Lists topics: ``GET /{version}/topics``, those that the caller may use, a page at a time."""

from __future__ import annotations

from bisect import bisect_right

import orjson

from kateway.core.access.authentication import Credentials, Purpose
from kateway.core.access.control import AccessControl
from kateway.errors import InvalidParameter
from kateway.web import params
from kateway.web.coroutine_handler import serve
from kateway.web.exchange import JSON, Exchange, Response
from kateway.web.messages import paths
from kateway.web.messages.credentials import credentials, shown

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
_KNOWN = frozenset({b"after", b"limit"})


class TopicListEdge:
    """Answers with names in their order; ``next`` is the ``after`` of the next page."""

    def __init__(self, control: AccessControl) -> None:
        self._control = control

    def handle(self, exchange: Exchange, path: paths.TopicPath, raw_query: bytes) -> None:
        serve(exchange, self._list(exchange, path.version, raw_query))

    async def _list(self, exchange: Exchange, version: str, raw_query: bytes) -> Response:
        values = params.query(raw_query, _KNOWN)
        limit = params.whole(values, b"limit", DEFAULT_LIMIT, 1, MAX_LIMIT)
        try:
            after = values.get(b"after", b"").decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidParameter("after is not UTF-8") from error
        request = exchange.request

        def show(purpose: Purpose) -> Credentials:
            return credentials(shown(request.headers), request.peer, purpose, exchange.connection.subject)

        caller, usable = await self._control.usable(version, show)
        exchange.caller = caller
        names = [topic.topic for topic in usable]
        start = bisect_right(names, after)
        page = usable[start : start + limit]
        body = {
            "topics": [
                {
                    "topic": topic.topic,
                    "version": version,
                    "partitions": topic.partitions,
                    "publish": topic.publish,
                    "groups": list(topic.groups),
                }
                for topic in page
            ],
            "next": page[-1].topic if start + limit < len(usable) else None,
        }
        return Response(200, (JSON,), orjson.dumps(body))
