"""The audit sinks that are shipped: a file of JSON lines that is rotated, and a topic."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from twisted.internet.defer import Deferred

from kateway.core.audit.events import Event, SinkContext
from kateway.errors import ConfigError, KatewayError
from kateway.model import Message
from kateway.storage.interface import Store

FILE_NAME = "audit.jsonl"
ONLY_THE_OWNER = 0o600


def line(event: Event) -> bytes:
    """The event as a JSON object, its time in RFC 3339."""
    moment = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    # a caller's text may hold halves of surrogate pairs (undecodable bytes): they must not lose the event
    fields: dict[str, Any] = {
        name: text.encode("utf-8", "replace").decode()
        for name, text in event._asdict().items()
        if isinstance(text, str) and (text or name != "gateway")
    }
    if event.before is not None or event.after is not None:
        fields |= {"before": event.before, "after": event.after}
    return orjson.dumps({"time": moment, **fields})


class FileSink:
    """Appends to ``path`` and rotates it to ``path.1``, ``path.2``… before it grows beyond ``max_bytes``; at most
    ``max_files`` are kept, the current one included. All of it happens off the reactor's thread.
    """

    def __init__(
        self, path: Path, *, max_bytes: int, max_files: int, in_thread: Callable[[Callable[[], None]], Deferred[None]]
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._in_thread = in_thread

    async def write(self, events: Sequence[Event]) -> None:
        lines = b"".join(line(event) + b"\n" for event in events)
        await self._in_thread(lambda: self._append(lines))

    async def close(self) -> None:
        """Does nothing: the file is opened for each write, so that a rotation loses nothing."""

    def _append(self, lines: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # several processes may write it: one at a time, so that none rotates it under another's lines
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self._append_alone(lines)
        finally:
            os.close(folder)

    def _append_alone(self, lines: bytes) -> None:
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size and size + len(lines) > self._max_bytes:
            self._rotate()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, ONLY_THE_OWNER)
        with open(descriptor, "ab", buffering=0) as file:
            while lines:
                lines = lines[file.write(lines) :]

    def _rotate(self) -> None:
        for number in range(self._max_files - 1, 0, -1):
            older = self._numbered(number - 1) if number > 1 else self._path
            if older.exists():
                older.replace(self._numbered(number))
        if self._max_files == 1:
            self._path.unlink()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class TopicSink:
    """Publishes each event as a record, with its object as key, so that the events of one object stay in order."""

    def __init__(self, store: Store, topic: str, *, timeout_seconds: float, seconds: Callable[[], float]) -> None:
        self._store = store
        self._topic = topic
        self._timeout = timeout_seconds
        self._seconds = seconds

    async def write(self, events: Sequence[Event]) -> None:
        messages = [Message(line(event), event.object.encode("utf-8", "replace")) for event in events]
        outcomes = await self._store.publish(self._topic, messages, -1, self._seconds() + self._timeout)
        for outcome in outcomes:
            if isinstance(outcome, KatewayError):
                raise outcome

    async def close(self) -> None:
        """The store is not ours to close."""


def file_sink(context: SinkContext) -> FileSink:
    """The entry point ``file``."""
    config = context.config
    path = Path(config.file) if config.file else context.data_directory / FILE_NAME
    if path.is_dir():
        raise ConfigError([f"audit.file: {path} is a directory"])
    return FileSink(path, max_bytes=config.max_file_bytes, max_files=config.max_files, in_thread=context.in_thread)


def topic_sink(context: SinkContext) -> TopicSink:
    """The entry point ``topic``."""
    config = context.config
    problems = []
    if not config.topic:
        problems.append("audit.topic: the name of a topic is needed for the sink 'topic'")
    if config.cluster not in context.stores:
        problems.append(f"audit.cluster: there is no [storage.{config.cluster}]")
    if problems:
        raise ConfigError(problems)
    return TopicSink(
        context.stores[config.cluster],
        config.topic,
        timeout_seconds=config.topic_timeout_seconds,
        seconds=context.seconds,
    )
