"""A run: writers, readers and faults together for a while, then the state in the end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servers.daemon import Daemon

from history.readers import Reader, Visitor
from history.record import History
from history.wire import ask
from history.writers import Writer


def settings(path: Path, store: str, delivery: str = "") -> Path:
    """Writes a configuration: lines of ``[storage.default]`` and ``[delivery]``."""
    path.write_text(f"[log]\naccess = false\n[storage.default]\n{store}\n[delivery]\n{delivery}\n")
    return path


class Run:
    """Threads that write to and read from one topic; ``close``, or the end of a ``with``, ends them all."""

    def __init__(self, topic: str, ports: Sequence[Daemon], *, group: str = "group1", seed: object = 0) -> None:
        self.history = History()
        self.topic = topic
        self.group = group
        self.seed = seed
        self.writers: list[Writer] = []
        self.readers: list[Reader] = []
        self.visitors: list[Visitor] = []
        self.outages: list[tuple[float, float]] = []
        self._gateways = list(ports)
        self._writing = threading.Event()
        self._reading = threading.Event()
        self._visiting = threading.Event()

    @property
    def target(self) -> str:
        return f"/v1/topics/{self.topic}/{self.group}"

    def _port(self, number: int) -> Callable[[], int]:
        gateway = self._gateways[number % len(self._gateways)]
        return lambda: gateway.public_port

    def write(self, lanes: int = 1, **options: Any) -> None:
        """Starts writers, a lane each, spread over the gateways."""
        for _ in range(lanes):
            number = len(self.writers)
            options.setdefault("seed", self.seed)
            writer = Writer(self.history, self._port(number), self.topic, f"w{number}", self._writing, **options)
            self.writers.append(writer)
            writer.start()

    def written(self) -> None:
        """Waits for writers with a ``count`` of their own."""
        for writer in self.writers:
            writer.join(60)
            if writer.is_alive():
                raise TimeoutError(f"{writer.name} does not come to an end")

    def read(self, count: int = 1, **options: Any) -> list[Reader]:
        """Starts readers, spread over the gateways."""
        started = []
        for _ in range(count):
            number = len(self.readers)
            reader = Reader(self.history, self._port(number), self.target, f"r{number}", self._reading, **options)
            self.readers.append(reader)
            started.append(reader)
            reader.start()
        return started

    def visit(self, count: int, rounds: int, secure_port: int = 0) -> None:
        """Starts clients that end in every way, some over TLS where there is a port for it."""
        for _ in range(count):
            number = len(self.visitors)
            visitor = Visitor(
                self.history,
                self._port(number),
                self.target,
                f"v{number}",
                seed=self.seed,
                rounds=rounds,
                stop=self._visiting,
                secure_port=secure_port,
            )
            self.visitors.append(visitor)
            visitor.start()

    def visited(self, timeout_seconds: float = 100.0) -> None:
        end = time.monotonic() + timeout_seconds
        for visitor in self.visitors:
            visitor.join(max(end - time.monotonic(), 0.1))
            if visitor.is_alive():
                raise TimeoutError(f"{visitor.name} does not come to an end")

    @contextmanager
    def outage(self, name: str, recovery_seconds: float = 0.0) -> Iterator[None]:
        """Something is dead while the block runs; after it, its clients may take so long to find it again."""
        begin = time.monotonic()
        self.history.fault(name)
        yield
        self.outages.append((begin, time.monotonic() + recovery_seconds))

    def end_visits(self) -> None:
        """Lets no further client come, and waits for those that are there."""
        self._visiting.set()
        self.visited()

    def stop_writing(self) -> None:
        self._writing.set()
        self.written()

    def drain(self, quiet_seconds: float = 1.0, patience_seconds: float = 30.0, timeout_seconds: float = 100.0) -> None:
        """Waits until readers have had everything and the group has no lag, or have been without a record for so long
        that what is missing will not come; then ends them.
        """
        end = time.monotonic() + timeout_seconds
        while True:
            now = time.monotonic()
            quiet = min((now - since if (since := each.empty_since) is not None else 0) for each in self.readers)
            if quiet > patience_seconds or (quiet > quiet_seconds and not self._missing() and self._lag() == 0):
                break
            if now > end:
                raise TimeoutError(f"records still come: {[each.statuses for each in self.readers]}")
            time.sleep(0.2)
        self.close()

    def _missing(self) -> bool:
        had = {each.ident for each in list(self.history.delivered)}
        return any(each.status == 201 and each.ident not in had for each in list(self.history.published))

    def _lag(self) -> int | None:
        try:
            answer = ask(self._gateways[0].public_port, "GET", f"{self.target}/lag")
        except OSError:
            return None
        return int(json.loads(answer.body)["lag"]) if answer.status == 200 else None

    def close(self) -> None:
        self._writing.set()
        self._visiting.set()
        self._reading.set()
        for thread in [*self.writers, *self.readers, *self.visitors]:
            thread.join(60)
            if thread.is_alive():
                raise TimeoutError(f"{thread.name} does not come to an end")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def acknowledged(self) -> int:
        return sum(each.status == 201 for each in list(self.history.published))


def wait_until(holds: Callable[[], object], timeout_seconds: float = 30.0, what: str = "it") -> None:
    end = time.monotonic() + timeout_seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} was waited for in vain")
        time.sleep(0.02)
