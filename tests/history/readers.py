"""Readers: threads that take records as programs do, end in every way that clients end, and note what they had."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from history.record import History, Ident, Place
from history.websocket import CLOSE, HEADERS, SocketIncoming, frame
from history.wire import ACCEPT, Client, Incoming

CUTS = ("head", "mid", "boundary", "end", "never")
ENDS = ("fin", "goodbye", "reset", "half-close", "kill", "half-close kill")
FORMS = (*ACCEPT, "websocket")


@dataclass(frozen=True)
class Plan:
    """How one client goes about it: how much its program reads, and how it ends.

    ``cut``: it reads ``skip`` bytes of the head; ``records`` records and ``skip`` bytes more; exactly so many records;
    everything; or nothing at all. Then it waits ``hold_seconds`` and ends. A ``goodbye`` is TLS's or the WebSocket's
    own before the FIN; with ``half-close kill`` it half-closes before it waits.
    """

    form: str
    query: str
    cut: str
    records: int
    skip: int
    end: str
    hold_seconds: float = 0.0
    secure: bool = False
    """Over TLS."""

    @property
    def name(self) -> str:
        return f"{'tls ' if self.secure else ''}{self.form} {self.cut} {self.end}"


def plans(seed: object, secure: bool = False) -> Iterator[Plan]:
    """Every cut with every end first, then at random; some over TLS, where it is ``secure``."""
    chosen = random.Random(str(seed))
    matrix = list(itertools.product(CUTS, ENDS))
    chosen.shuffle(matrix)
    for cut, end in itertools.chain(matrix, iter(lambda: (chosen.choice(CUTS), chosen.choice(ENDS)), None)):
        limit = chosen.choice((1, 3, 10, 40, 200))
        follow = cut != "end" and chosen.random() < 0.3
        yield Plan(
            form=chosen.choice(FORMS),
            query="follow=1" if follow else f"limit={limit}&timeout=1&idle=0.2",
            cut=cut,
            records=chosen.randrange(12),
            skip=chosen.randrange(1, 30),
            end=end,
            hold_seconds=chosen.choice((0, 0, 0.05, 0.3)),
            secure=secure and chosen.random() < 0.4,
        )


@dataclass
class LastId:
    """What a program that reads events gives back when it comes again; once, for it may be another's turn by then."""

    value: str = ""

    def take(self) -> str:
        value, self.value = self.value, ""
        return value


class Attendance:
    """One client carrying out its plan up to its end."""

    def __init__(
        self,
        port: int,
        target: str,
        plan: Plan,
        delivered: Callable[[Ident, Place | None], None],
        last_id: str = "",
    ) -> None:
        self._plan = plan
        self._delivered = delivered
        self.client = Client(port, 20, receive_buffer_bytes=4096 if plan.cut == "never" else 0, secure=plan.secure)
        as_socket = plan.form == "websocket"
        self.incoming = SocketIncoming() if as_socket else Incoming(plan.form)
        headers = dict(HEADERS) if as_socket else {"Accept": ACCEPT[plan.form]}
        if last_id and plan.form == "sse":
            headers["Last_Event_ID"] = last_id
        self.client.send("GET", f"{target}?{plan.query}", **headers)
        self.count = 0
        self.ended = False
        """The gateway's FIN was read, or TLS's goodbye."""

    def read(self) -> None:
        """As much as planned."""
        plan = self._plan
        if plan.cut == "never":
            return
        if plan.cut == "head":
            self._some(plan.skip)
            return
        if plan.cut != "end":
            # byte by byte: what the program does not take stays with its kernel
            self.client.socket.settimeout(1.0)
            while self.count < plan.records and self._some(1):
                pass
            if plan.cut == "mid":
                self._some(plan.skip)
            return
        self.rest()

    def rest(self) -> None:
        """Everything to the end."""
        if self._plan.form == "websocket":
            self.client.socket.settimeout(1.0)  # it has no end of its own while fewer records than its limit come
        while self._some(65536):
            pass

    def say_goodbye(self) -> None:
        with contextlib.suppress(OSError):  # the gateway may have gone
            if self._plan.form == "websocket" and self.incoming.status == 101:
                self.client.put(frame(CLOSE, (1000).to_bytes(2, "big")))
            self.client.say_goodbye()

    def _some(self, size: int) -> bool:
        try:
            # a WebSocket is over with the gateway's FIN
            over = self.incoming.complete and self.incoming.status != 101
            data = None if over else self.client.take(size)
        except OSError:
            return False
        for read in self.incoming.feed(data or b""):
            self._delivered(*read)
            self.count += 1
        if isinstance(self.incoming, SocketIncoming) and self.incoming.answers:
            with contextlib.suppress(OSError):  # half-closed, or the gateway has gone
                self.client.put(bytes(self.incoming.answers))
            self.incoming.answers.clear()
        self.ended = data is None
        return data is not None


def attend(history: History, reader: str, port: int, target: str, plan: Plan, last: LastId) -> int:
    """Runs one client; answers the status that it saw (0: none). A killed one is a process of its own."""
    session = history.begin(f"{reader}: {plan.name} {plan.query}")
    try:
        return _attend(history, session, port, target, plan, last)
    finally:
        history.end(session)


def _attend(history: History, session: int, port: int, target: str, plan: Plan, last: LastId) -> int:
    if plan.end.endswith("kill"):
        return _victim(history, session, port, target, plan)
    left = False

    def delivered(name: Ident, place: Place | None) -> None:
        history.deliver(session, name, place, late=left)

    attendance = Attendance(port, target, plan, delivered, last.take() if plan.form == "sse" else "")
    client = attendance.client
    attendance.read()
    if plan.hold_seconds:
        time.sleep(plan.hold_seconds)
    if plan.end == "reset":
        client.reset()
    else:
        if plan.end == "half-close":
            client.half_close()
            left = True
            client.socket.settimeout(5.0)
            attendance.rest()
        elif plan.end == "goodbye":
            attendance.say_goodbye()
        client.close()
        # bytes behind a WebSocket's close frame have to be read as well, or the kernel makes a reset of the close
        whole = attendance.ended or plan.form != "websocket"
        if attendance.incoming.complete and whole and not left:
            history.clean(session)
    last.value = attendance.incoming.last_id or last.value
    return attendance.incoming.status


def _victim(history: History, session: int, port: int, target: str, plan: Plan) -> int:
    """A program that is killed while it stands still, so that what it had is exactly what it said."""
    arguments = [str(port), target, plan.form, plan.query, plan.cut, str(plan.records), str(plan.skip), plan.end]
    arguments.append("secure" if plan.secure else "")
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(__file__).with_name("victim.py")), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as said:
        line = said.readline()
        status, records = json.loads(line) if line else (0, [])
        for lane, number, place, at in records:
            history.deliver(session, Ident(lane, number), Place(*place) if place else None, at=at)
        time.sleep(plan.hold_seconds)
        process.kill()
        process.wait()
    if not line:
        raise ConnectionRefusedError("the gateway is away just now")
    return int(status)


class Visitor(threading.Thread):
    """Client after client by plan, until ``rounds`` have been or ``stop`` is set. ``secure_port`` is for TLS."""

    def __init__(
        self,
        history: History,
        port: Callable[[], int],
        target: str,
        name: str,
        *,
        seed: object,
        rounds: int,
        stop: threading.Event,
        secure_port: int = 0,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._history = history
        self._port = port
        self._target = target
        self._secure_port = secure_port
        self._plans = itertools.islice(plans(f"{seed} {name}", bool(secure_port)), rounds)
        self._stop_event = stop
        self.statuses: list[int] = []
        self._last = LastId()

    def run(self) -> None:
        for plan in self._plans:
            if self._stop_event.is_set():
                break
            try:
                port = self._secure_port if plan.secure else self._port()
                self.statuses.append(attend(self._history, self.name, port, self._target, plan, self._last))
            except OSError:
                self._stop_event.wait(0.1)  # the gateway is away just now


class Reader(threading.Thread):
    """Reads on and on until ``stop``: responses of ``query``, one after the other on a connection.

    ``ack``: acknowledges each record by itself (``each``) or the last of each partition (``upto``) on a second
    connection, after each response or some 50 records of it.
    """

    def __init__(
        self,
        history: History,
        port: Callable[[], int],
        target: str,
        name: str,
        stop: threading.Event,
        *,
        query: str = "limit=100&timeout=1&idle=0.1",
        form: str = "ndjson",
        ack: str = "",
        pause_seconds: float = 0.0,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._history = history
        self._port = port
        self._target = target
        self._stop_event = stop
        self._query = query + ("&ack=explicit" if ack else "")
        self._form = form
        self._ack = ack
        self._pause_seconds = pause_seconds
        self._client: Client | None = None
        self.empty_since: float | None = None
        """Since when nothing came; ``None`` while something does."""
        self.statuses: dict[int, int] = {}
        self.count = 0

    def run(self) -> None:
        last: int | None = None
        while not self._stop_event.is_set():
            try:
                if self._client is None:
                    self._client = Client(self._port(), 2.0)
                last = self._response(last)
            except (OSError, ValueError):
                if self._client is not None:
                    self._client.close()
                self._client, last = None, None
                self._stop_event.wait(0.1)
        if self._client is not None:
            self._client.close()
            if last is not None:
                self._settled(last)

    def _settled(self, session: int) -> None:
        """The client read a response and asked again or closed: with acknowledgements of its own that says nothing."""
        if not self._ack:
            self._history.clean(session)

    def _response(self, last: int | None) -> int:
        """Takes one response; ``last`` is the session before on the same connection, which the request settles."""
        assert self._client is not None
        client, incoming = self._client, Incoming(self._form)
        session = self._history.begin(self.name)
        if last is not None:
            self._history.end(last)
        client.send("GET", f"{self._target}?{self._query}", Accept=ACCEPT[self._form])
        unacknowledged: list[Place] = []
        heard_at = time.monotonic()
        while not incoming.complete:
            try:
                data = client.socket.recv(65536)
            except TimeoutError:
                self.empty_since = self.empty_since or time.monotonic()
                if self._stop_event.is_set() or time.monotonic() - heard_at > 45:
                    raise
                self._acknowledge(unacknowledged)
                continue
            if not data:
                raise ConnectionError("the response was cut off")
            heard_at = time.monotonic()
            for name, place in incoming.feed(data):
                self._history.deliver(session, name, place)
                self.empty_since = None
                self.count += 1
                if self._ack and place is not None:
                    unacknowledged.append(place)
            if last is not None and incoming.status:
                self._settled(last)
                last = None
            if len(unacknowledged) >= 50:
                self._acknowledge(unacknowledged)
            if self._pause_seconds:
                self._stop_event.wait(self._pause_seconds)
        self._acknowledge(unacknowledged)
        self.statuses[incoming.status] = self.statuses.get(incoming.status, 0) + 1
        if incoming.status != 200:
            self.empty_since = self.empty_since or time.monotonic()
            if incoming.status != 204:
                self._stop_event.wait(0.2)
        return session

    def _acknowledge(self, places: list[Place]) -> None:
        if not places:
            return
        if self._ack == "upto":
            ends: dict[int, int] = {}
            for place in places:
                ends[place.partition] = max(place.offset, ends.get(place.partition, -1))
            items = [{"partition": partition, "upto": offset} for partition, offset in ends.items()]
        else:
            items = [{"partition": place.partition, "offset": place.offset} for place in places]
        client = Client(self._port(), 15)
        with contextlib.closing(client):
            answer = client.ask(
                "POST", f"{self._target}/acks?sync=1", json.dumps(items).encode(), Content_Type="application/json"
            )
        if answer.status == 200:
            accepted = {
                (each["partition"], each["offset"] if "offset" in each else each["upto"])
                for each in json.loads(answer.body)["results"]
                if each["status"] == 200
            }
            for place in places:
                at = ends[place.partition] if self._ack == "upto" else place.offset
                if (place.partition, at) in accepted:
                    self._history.acknowledge(place)
        places.clear()
