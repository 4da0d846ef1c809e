"""A WebSocket client for tests: wsproto's client side over a plain connection."""

from __future__ import annotations

from collections.abc import Mapping

from gateways import Client, RunningGateway, eventually
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, Message, Ping, RejectConnection, Request


class SocketClient:
    """wsproto's client side over a test's TCP client."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.ws = WSConnection(ConnectionType.CLIENT)
        self.events: list[Event] = []
        self.answer_pings = True

    @classmethod
    async def open(
        cls, gateway: RunningGateway, path: str, *subprotocols: str, headers: Mapping[str, str] | None = None
    ) -> SocketClient:
        socket = cls(await Client.connect(gateway.port))
        extra = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        socket.send(Request(host="x", target=path, subprotocols=list(subprotocols), extra_headers=extra))
        await eventually(
            lambda: socket.first(AcceptConnection) is not None or socket.first(RejectConnection) is not None
        )
        return socket

    def send(self, event: Event) -> None:
        assert self.client.transport is not None
        self.client.transport.write(self.ws.send(event))

    def pump(self) -> None:
        data, self.client.received = self.client.received, b""
        if data:
            self.ws.receive_data(data)
            for event in self.ws.events():
                self.events.append(event)
                if isinstance(event, Ping) and self.answer_pings:
                    self.send(event.response())

    def first(self, kind: type) -> Event | None:
        self.pump()
        return next((event for event in self.events if isinstance(event, kind)), None)

    def messages(self) -> list[str | bytes]:
        self.pump()
        return [event.data for event in self.events if isinstance(event, Message)]
