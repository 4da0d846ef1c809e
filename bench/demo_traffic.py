"""The traffic of ``demo.py``: clients of a gateway in threads, each with a connection of its own."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

PATIENCE_SECONDS = 1.0
"""After a failure: the gateway may be away, or may have been started anew."""
over = threading.Event()
"""Set when everything is to end."""


class Client:
    """One thread's. ``keys`` are by application and kind (``shop pub``), each with its secret."""

    def __init__(self, public: str, keys: Mapping[str, tuple[str, str]]) -> None:
        address = urlsplit(public)
        self._host, self._port = address.hostname or "127.0.0.1", address.port or 80
        self._keys = keys
        self._connection = http.client.HTTPConnection(self._host, self._port, timeout=30)

    def publish(self, topic: str, values: Sequence[bytes], key: str | None = None) -> None:
        """Publishes a record a value, which has no line end."""
        application, name, version = topic.split("/")
        query = "?batch=1" + ("" if key is None else f"&key={quote(key)}")
        headers = {"Content-Type": "application/x-ndjson", **self._credentials(application, "pub")}
        self._ask("POST", f"/{version}/topics/{name}{query}", b"\n".join(values) + b"\n", headers)

    def poll(self, group: str, **query: Any) -> list[dict[str, Any]]:
        """Reads records; none where it is refused."""
        path, credentials = self._group(group)
        headers = {"Accept": "application/x-ndjson", **credentials}
        status, body = self._ask("GET", f"{path}?{urlencode(query)}", None, headers)
        return [json.loads(line) for line in body.splitlines() if line] if status == 200 else []

    def acknowledge(self, group: str, record: Mapping[str, Any], **outcome: Any) -> None:
        path, credentials = self._group(group)
        item = {"partition": record["partition"], "offset": record["offset"], **outcome}
        self._ask("POST", f"{path}/acks", json.dumps([item]).encode(), credentials)

    def lag(self, group: str) -> int:
        """How far a group is behind."""
        path, credentials = self._group(group)
        status, body = self._ask("GET", f"{path}/lag", None, credentials)
        return int(json.loads(body)["lag"]) if status == 200 else 0

    def held_stream(self, group: str) -> socket.socket:
        """A stream that was asked for on a connection with little room, and of which nothing is read."""
        path, credentials = self._group(group)
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.connect((self._host, self._port))
        heads = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "demo", **credentials}.items())
        made.sendall(f"GET {path}?follow=1 HTTP/1.1\r\n{heads}\r\n".encode())
        return made

    def interrupt(self) -> None:
        """Ends a read that waits in another thread."""
        held = self._connection.sock
        if held is not None:
            with suppress(OSError):  # the gateway has closed it
                held.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Gives the connection up; the next request makes another."""
        self._connection.close()

    def _group(self, group: str) -> tuple[str, dict[str, str]]:
        reader, application, topic, version, name = group.split("/")
        owned = topic if reader == application else f"{application}.{topic}"
        return f"/{version}/topics/{owned}/{name}", self._credentials(reader, "sub")

    def _credentials(self, application: str, kind: str) -> dict[str, str]:
        key, secret = self._keys[f"{application} {kind}"]
        return {f"{kind.capitalize()}key": key, "Secret": secret}

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        if over.is_set():
            raise ConnectionAbortedError
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status in {401, 403}:
            raise PermissionError(f"{path}: {response.status}")  # the keys are another demo's now
        return response.status, body


class Traffic:
    """Runs each piece of traffic in a thread; one that fails is begun again."""

    def __init__(
        self, public: str, keys: Mapping[str, tuple[str, str]], pieces: Sequence[Callable[[Client], None]]
    ) -> None:
        self._clients = [Client(public, keys) for _ in pieces]
        self._threads = [
            threading.Thread(target=self._run, args=(piece, client), daemon=True)
            for piece, client in zip(pieces, self._clients, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Ends all, within seconds."""
        over.set()
        for client in self._clients:
            client.interrupt()
        until = time.monotonic() + 5
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0))

    @staticmethod
    def _run(piece: Callable[[Client], None], client: Client) -> None:
        while not over.is_set():
            try:
                piece(client)
                return
            except (OSError, http.client.HTTPException, ValueError):
                client.close()
                over.wait(PATIENCE_SECONDS)
