"""Writers: threads that publish numbered records, one lane each, and note every answer."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable

from history.record import History, Ident, Place
from history.wire import Client

RETRY_SECONDS = 0.05


class Writer(threading.Thread):
    """Publishes until ``stop`` is set or ``count`` records have an answer. What was refused is published again (nothing
    was written, so it must be there once); what got no answer, or a 504, is not.

    ``batch``: now and then so many records in one NDJSON request. ``port`` is asked before each connection.
    """

    def __init__(
        self,
        history: History,
        port: Callable[[], int],
        topic: str,
        lane: str,
        stop: threading.Event,
        *,
        seed: int = 0,
        batch: int = 0,
        count: int = 1 << 60,
        size: int = 0,
        pause_seconds: float = 0.0,
        timeout_seconds: float = 5.0,
        keyed: bool = True,
    ) -> None:
        super().__init__(name=f"writer {lane}", daemon=True)
        self._history = history
        self._port = port
        self._target = f"/v1/topics/{topic}?timeout={timeout_seconds}" + (f"&key={lane}" if keyed else "")
        self._lane = lane
        self._stop_event = stop
        self._random = random.Random(f"{seed} {lane}")
        self._batch = batch
        self._count = count
        self._size = size
        self._pause_seconds = pause_seconds
        self._timeout_seconds = timeout_seconds
        self._client: Client | None = None
        self.slowest_seconds = 0.0
        """The longest that an answer took."""
        self.last_success_at = 0.0

    def run(self) -> None:
        number = 0
        while number < self._count and not self._stop_event.is_set():
            many = self._batch if self._batch and self._random.random() < 0.3 else 1
            names = [Ident(self._lane, number + index) for index in range(min(many, self._count - number))]
            while names and not self._stop_event.is_set():
                again = self._publish(names)
                number += len(names) - len(again)
                if again:
                    # only a whole request is refused, or the end of one: the lane's order is kept
                    self._stop_event.wait(RETRY_SECONDS)
                names = again
            if self._pause_seconds:
                self._stop_event.wait(self._pause_seconds)
        if self._client is not None:
            self._client.close()

    def _publish(self, names: list[Ident]) -> list[Ident]:
        """Answers those to publish again."""
        if self._client is None:
            try:
                self._client = Client(self._port(), self._timeout_seconds + 15)
            except OSError:
                return names  # no listener: nothing was said, nothing can have been written
        started = time.monotonic()
        body = b"\n".join(name.value(self._size) for name in names)
        try:
            if len(names) == 1:
                answer = self._client.ask("POST", self._target, body)
            else:
                answer = self._client.ask("POST", self._target + "&batch=1", body, Content_Type="application/x-ndjson")
        except (OSError, ValueError):
            self._client.close()
            self._client = None
            for name in names:
                self._history.publish(name, 0)
            return []
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)
        found = json.loads(answer.body)
        results = found.get("results", [found] * len(names))
        again = []
        for name, result in zip(names, results, strict=True):
            if "offset" in result:
                self._history.publish(name, 201, Place(result["partition"], result["offset"]))
                self.last_success_at = time.monotonic()
                continue
            status = result.get("status", answer.status)
            self._history.publish(name, status, None, bool(result.get("maybe_written")))
            if not result.get("maybe_written"):
                again.append(name)
        return again
