"""A run: writers, readers and faults together for a while, then the state in the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from servers.daemon import Daemon

from history.readers import Reader, Visitor, drain
from history.record import History
from history.writers import Writer


def settings(path: Path, store: str, delivery: str = "") -> Path:
    """Writes a configuration: lines of ``[storage.default]`` and ``[delivery]``."""
    path.write_text(f"[log]\naccess = false\n[storage.default]\n{store}\n[delivery]\n{delivery}\n")
    return path


class Run:
    """Threads that write to and read from one topic; ``close`` ends them all."""

    def __init__(self, topic: str, ports: Sequence[Daemon], *, group: str = "group1", seed: object = 0) -> None:
        self.history = History()
        self.topic = topic
        self.group = group
        self.seed = seed
        self.writers: list[Writer] = []
        self.readers: list[Reader] = []
        self.visitors: list[Visitor] = []
        self._gateways = list(ports)
        self._writing = threading.Event()
        self._reading = threading.Event()

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

    def visit(self, count: int, rounds: int) -> None:
        """Starts clients that end in every way."""
        for _ in range(count):
            number = len(self.visitors)
            visitor = Visitor(
                self.history,
                self._port(number),
                self.target,
                f"v{number}",
                seed=self.seed,
                rounds=rounds,
                stop=self._reading,
            )
            self.visitors.append(visitor)
            visitor.start()

    def visited(self, timeout_seconds: float = 100.0) -> None:
        end = time.monotonic() + timeout_seconds
        for visitor in self.visitors:
            visitor.join(max(end - time.monotonic(), 0.1))
            if visitor.is_alive():
                raise TimeoutError(f"{visitor.name} does not come to an end")

    def stop_writing(self) -> None:
        self._writing.set()
        self.written()

    def drain(self, quiet_seconds: float = 2.0, timeout_seconds: float = 60.0) -> None:
        """Waits until readers get nothing any more, then ends them."""
        drain(self.readers, quiet_seconds, timeout_seconds)
        self.close()

    def close(self) -> None:
        self._writing.set()
        self._reading.set()
        for thread in [*self.writers, *self.readers, *self.visitors]:
            thread.join(60)
            if thread.is_alive():
                raise TimeoutError(f"{thread.name} does not come to an end")

    def acknowledged(self) -> int:
        return sum(each.status == 201 for each in list(self.history.published))


def wait_until(holds: Callable[[], object], timeout_seconds: float = 30.0, what: str = "it") -> None:
    end = time.monotonic() + timeout_seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} was waited for in vain")
        time.sleep(0.02)
