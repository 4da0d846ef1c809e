"""Publishers and readers of every form that go through a load balancer, and what each was told."""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

from history.record import Ident
from history.websocket import HEADERS, SocketIncoming
from history.wire import ACCEPT, Client, Incoming

FORMS = ("short", "long", "ndjson", "sse", "websocket")
"""Polls that do not wait, each on a connection of its own; polls that do, on one; and responses without an end."""
PAUSE_SECONDS = 0.05


class Failed(NamedTuple):
    """A request of a publisher that was not answered 201."""

    at: float
    what: str
    name: Ident


class Away(Client):
    """A connection from an address of loopback that is its own."""

    def __init__(self, port: int, source: str, timeout_seconds: float = 30.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_seconds, (source, 0))
        self._tls = None


class Traffic:
    """Threads with an address each, all to one port. ``keyed`` publishers give each record an Idempotency-Key and send
    it until it is answered 201; the others send each record once. Each form of reader has a group of its own.
    """

    def __init__(self, port: int, topic: str, credentials: tuple[Mapping[str, str], Mapping[str, str]]) -> None:
        self.port = port
        self.topic = f"/v1/topics/{topic}"
        self._publishes, self._reads = credentials
        self.acknowledged: set[Ident] = set()
        self.unsure: set[Ident] = set()
        """Sent once, and not answered."""
        self.failures: list[Failed] = []
        self.read: dict[str, Counter[Ident]] = {form: Counter() for form in FORMS}
        """By form: how often each record came."""
        self.sources: set[str] = set()
        self.troubles: Counter[str] = Counter()
        """What readers met instead of 200 and 204."""
        self._writing, self._reading = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._writers: list[threading.Thread] = []

    def publish(self, count: int, *, keyed: bool, pause_seconds: float = 0.01) -> None:
        for number in range(count):
            name = f"{'keyed' if keyed else 'once'}{number}"
            run = functools.partial(self._publisher, name, keyed, pause_seconds)
            self._writers.append(self._begin(run))

    def subscribe(self, count: int = 2) -> None:
        """So many readers of each form."""
        for form in FORMS:
            for _ in range(count):
                self._begin(functools.partial(self._reader, form))

    def end_writing(self) -> None:
        self._writing.set()
        for thread in self._writers:
            thread.join(60)

    def missing(self) -> dict[str, int]:
        """Records answered 201 that a group has not had, by form."""
        return {form: len(self.acknowledged - had.keys()) for form, had in self.read.items()}

    def close(self) -> None:
        self._writing.set()
        self._reading.set()
        for thread in self._threads:
            thread.join(60)
            if thread.is_alive():
                raise TimeoutError(f"{thread.name} does not come to an end")

    def _begin(self, run: Callable[[str], None]) -> threading.Thread:
        source = f"127.0.1.{len(self._threads) + 1}"
        self.sources.add(source)
        thread = threading.Thread(target=run, args=(source,), name=source, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    # --- publishing ---------------------------------------------------------------------------------------------------

    def _publisher(self, lane: str, keyed: bool, pause_seconds: float, source: str) -> None:
        client: Client | None = None
        number = 0
        while not self._writing.wait(pause_seconds):
            name = Ident(lane, number)
            headers = {**self._publishes, **({"Idempotency_Key": f"{lane}-{number}"} if keyed else {})}
            number += 1
            while True:
                client, answer = self._once(client, source, name, headers)
                if answer == "201":
                    self.acknowledged.add(name)
                    break
                self.failures.append(Failed(time.monotonic(), answer, name))
                if not keyed:
                    self.unsure.add(name)
                    break
                # given up at the end only: it may be there, or not
                if self._writing.wait(0.2):
                    self.unsure.add(name)
                    break
        if client is not None:
            client.close()

    def _once(
        self, client: Client | None, source: str, name: Ident, headers: Mapping[str, str]
    ) -> tuple[Client | None, str]:
        try:
            client = client or Away(self.port, source)
            client.send("POST", f"{self.topic}?timeout=5", name.value(), **headers)
            answer = _whole(client, Incoming())
        except (OSError, ValueError) as error:
            if client is not None:
                client.close()
            return None, type(error).__name__
        return _kept(client, answer), str(answer.status)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _reader(self, form: str, source: str) -> None:
        while not self._reading.is_set():
            try:
                if form in ("short", "long"):
                    self._polls(source, form)
                else:
                    self._follows(source, form)
            except (OSError, ValueError) as error:
                self.troubles[f"{form}: {type(error).__name__}"] += 1
                self._reading.wait(PAUSE_SECONDS)

    def _polls(self, source: str, form: str) -> None:
        wait = "0" if form == "short" else "2"
        target = f"{self.topic}/{form}?limit=200&timeout={wait}&idle=0"
        client: Client | None = Away(self.port, source)
        try:
            while client is not None and not self._reading.is_set():
                client.send("GET", target, None, Accept=ACCEPT["ndjson"], **self._reads)
                answer = Incoming("ndjson")
                _whole(client, answer, self.read[form])
                if answer.status not in (200, 204):
                    self.troubles[f"{form}: {answer.status}"] += 1
                if answer.status != 200:
                    self._reading.wait(PAUSE_SECONDS)
                client = _kept(client, answer)
                if client is not None and form == "short":
                    client.close()
                    client = Away(self.port, source)
        except BaseException:
            if client is not None:
                client.close()
            raise
        if client is not None:
            client.close()

    def _follows(self, source: str, form: str) -> None:
        socket_form = form == "websocket"
        incoming = SocketIncoming() if socket_form else Incoming(form)
        headers = HEADERS if socket_form else {"Accept": ACCEPT[form]}
        client = Away(self.port, source)
        try:
            client.send("GET", f"{self.topic}/{form}?follow=1", None, **headers, **self._reads)
            client.socket.settimeout(0.5)
            while not incoming.complete and not self._reading.is_set():
                try:
                    data = client.socket.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    break
                self.read[form].update(read.ident for read in incoming.feed(data))
                if isinstance(incoming, SocketIncoming) and incoming.answers:
                    client.put(bytes(incoming.answers))
                    incoming.answers.clear()
        finally:
            client.close()
        if incoming.status not in (101, 200):
            self.troubles[f"{form}: {incoming.status}"] += 1
            self._reading.wait(PAUSE_SECONDS)


def _whole(client: Client, answer: Incoming, had: Counter[Ident] | None = None) -> Incoming:
    """Reads an answer to its end; ``ConnectionError`` when it was cut off. Records that came before that were had."""
    while not answer.complete:
        data = client.socket.recv(65536)
        if not data:
            raise ConnectionError("the answer was cut off")
        found = answer.feed(data)
        if had is not None:
            had.update(read.ident for read in found)
    return answer


def _kept(client: Client, answer: Incoming) -> Client | None:
    """The connection, unless it ends with this answer."""
    if answer.headers.get("connection", "").lower() != "close":
        return client
    client.close()
    return None
