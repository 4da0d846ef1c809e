"""The message plane: everything under ``/{version}/topics/``, from method and path to the edge that serves it.

The wire calls ``handle`` directly, and the Klein tree mounts it: one behaviour, two ways in. The path is taken apart
from the raw request target, so that an encoded slash never makes a segment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from kateway.errors import MethodNotAllowed, NotFound
from kateway.web import params
from kateway.web.cors import check_origin, preflight
from kateway.web.exchange import Exchange, Response
from kateway.web.http1.websocket import wants_websocket
from kateway.web.messages import paths
from kateway.web.problems import problem

Handler = Callable[[Exchange, paths.TopicPath, bytes], None]
Methods = Mapping[bytes, Handler]

SCHEMA = "schema"
"""In the place of a group: the topic's schema. A group cannot be read under this name."""
_ACTIONS = {"lag": "lag", "offsets": "offsets", "acks": "acknowledge"}


class MessagePlane:
    """The routes of topics and groups."""

    def __init__(
        self,
        topic_grammar: re.Pattern[str],
        group_grammar: re.Pattern[str],
        *,
        topics: Methods,
        topic: Methods,
        group: Methods,
        actions: Mapping[str, Methods],
        schema: Methods,
        publish_socket: Handler,
        cors_origins: Callable[[], Sequence[str]],
    ) -> None:
        self._schema = schema
        self._cors_origins = cors_origins
        self._publish_socket = publish_socket
        self._topics = topics
        self._topic = topic
        self._group = group
        self._actions = actions
        self._paths = params.Cache(lambda raw: self._path(raw, topic_grammar, group_grammar))

    @staticmethod
    def _path(raw: bytes, topic_grammar: re.Pattern[str], group_grammar: re.Pattern[str]) -> paths.TopicPath:
        found = paths.topic_path(raw, topic_grammar, group_grammar) or paths.topics_path(raw)
        if found is None:
            raise NotFound("there is nothing here; topics are at /v1/topics/NAME, groups at /v1/topics/NAME/GROUP")
        return found

    def handle(self, exchange: Exchange) -> None:
        """Finds the handler of a request and hands the exchange over; answers 400, 404 and 405 itself."""
        request = exchange.request
        head = request.head
        if head is not None:
            # hot: the same head came before and led there
            known = head.memo.get(self)
            if known is not None:
                exchange.operation = known[3]
                known[0](exchange, known[1], known[2])
                return
        raw_path, _, raw_query = request.target.partition(b"?")
        try:
            check_origin(exchange, self._cors_origins())
            path = self._paths(raw_path)
            methods = self._methods(path)
            handler = methods.get(request.method)
            if exchange.upgrade and path.topic and path.group is None and wants_websocket(exchange):
                handler = self._publish_socket
            if handler is None:
                allow = ", ".join(sorted({method.decode() for method in methods} | {"OPTIONS"}))
                if request.method == b"OPTIONS":
                    exchange.respond(preflight(exchange, allow) or Response(204, ((b"Allow", allow.encode()),), b""))
                    return
                raise MethodNotAllowed(f"allowed here: {allow}", headers=(("Allow", allow),))
            operation = self._operation(path, handler)
        except Exception as error:
            exchange.respond(problem(error, request.id))
            return
        if head is not None and request.header(b"origin") is None:
            head.memo[self] = (handler, path, raw_query, operation)
        exchange.operation = operation
        handler(exchange, path, raw_query)

    def _operation(self, path: paths.TopicPath, handler: Handler) -> str:
        """Names what is asked for, for the count of it; a read of records names itself when its query is known."""
        if not path.topic:
            return "topic"
        if path.group is None:
            publishes = handler is self._publish_socket or handler is self._topic.get(b"POST")
            return "publish" if publishes else "topic"
        return "subscribe" if path.action is None else _ACTIONS.get(path.action, "other")

    def _methods(self, path: paths.TopicPath) -> Methods:
        if not path.topic:
            return self._topics
        if path.group is None:
            return self._topic
        if path.action is None:
            return self._schema if path.group == SCHEMA else self._group
        methods = self._actions.get(path.action)
        if methods is None:
            raise NotFound(f"a group has {', '.join(sorted(self._actions))}, not {path.action[:64]!r}")
        return methods
