"""Makes the edges of the message plane, and gives them the limits of a reload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger

from kateway.config.schema import HttpConfig
from kateway.core.gateway import Gateway
from kateway.daemon.counting import Counting
from kateway.observe.tracing import Tracing
from kateway.web.exchange import Request
from kateway.web.http1.channel import Handler
from kateway.web.messages.admission import Admission
from kateway.web.messages.fair_turns import FairTurns
from kateway.web.messages.groups import GroupEdge
from kateway.web.messages.publish import PublishEdge
from kateway.web.messages.router import MessagePlane
from kateway.web.messages.subscribe import SubscribeEdge
from kateway.web.messages.topic_list import TopicListEdge
from kateway.web.messages.topics import TopicEdge
from kateway.web.messages.websocket_publish import SocketPublishEdge
from kateway.web.site.tree import in_plane

_goes_on = Logger().failureHandler("what waited could not be ended; the rest is")


class MessageEdges:
    """One gateway's. ``cors_origins`` gives those of now."""

    def __init__(
        self,
        http: HttpConfig,
        gateway: Gateway,
        admission: Admission,
        reactor: Any,
        counting: Counting,
        tracing: Tracing,
        cors_origins: Callable[[], Sequence[str]],
    ) -> None:
        counts = counting.publishes
        self.subscriptions = SubscribeEdge(
            gateway, admission, reactor, http.max_body_bytes, http.heartbeat_seconds, counting.series, tracing
        )
        self.pub_sockets = SocketPublishEdge(gateway, admission, reactor, http.max_body_bytes, counts, tracing)
        self.publishes = PublishEdge(gateway, admission, http.max_body_bytes, counts, tracing)
        self.topics = TopicEdge(gateway, admission, tracing)
        self.plane = self._plane(gateway, admission, tracing, cors_origins)
        self.turns = FairTurns(
            reactor, self.plane.handle, self.publishes.patience, http.max_queue_seconds, counting.refusals
        )

    def _plane(
        self,
        gateway: Gateway,
        admission: Admission,
        tracing: Tracing,
        cors_origins: Callable[[], Sequence[str]],
    ) -> MessagePlane:
        """Says which edge serves which path and method."""
        group = GroupEdge(gateway, admission, tracing)
        listed = TopicListEdge(admission.control).handle
        topics = self.topics
        return MessagePlane(
            admission.control.topic_grammar,
            admission.control.group_grammar,
            topics={b"GET": listed, b"HEAD": listed},
            topic={b"POST": self.publishes.handle, b"GET": topics.handle, b"HEAD": topics.handle},
            group={b"GET": self.subscriptions.handle},
            actions={
                "lag": {b"GET": group.lag, b"HEAD": group.lag},
                "offsets": {b"GET": group.offsets, b"HEAD": group.offsets, b"PUT": group.reset},
                "acks": {b"POST": group.acknowledge},
            },
            schema={b"GET": topics.schema, b"HEAD": topics.schema},
            publish_socket=self.pub_sockets.handle,
            cors_origins=cors_origins,
        )

    def handler(self, request: Request) -> Handler | None:
        """Gives the direct handler of a request; ``None`` where it is not the plane's."""
        return self.turns.handle if in_plane(request.target) else None

    def configure(self, http: HttpConfig) -> None:
        """Takes other limits into force."""
        self.turns.max_wait_seconds = http.max_queue_seconds
        self.publishes.max_body_bytes = http.max_body_bytes
        self.subscriptions.max_message_bytes = http.max_body_bytes
        self.subscriptions.heartbeat_seconds = http.heartbeat_seconds
        self.pub_sockets.max_message_bytes = http.max_body_bytes

    def drain(self) -> None:
        """Ends what waits: long polls with their records so far."""
        for each in (self.topics, self.subscriptions, self.pub_sockets):
            with _goes_on:
                each.drain()
