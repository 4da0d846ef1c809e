"""The access log: one event a request, gathered and written in batches so that it costs a microsecond or two each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import orjson
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from kateway.config.schema import LogConfig
from kateway.web.exchange import Request

_log = Logger()
_FLUSH_SECONDS = 0.25
_LOOK_SECONDS = 1.0
# between looks whether the file was moved away
_MOST_WAITING = 1024
_MOST_AGENT = 120
_MOST_PATH = 512

_Event = tuple[float, str, str, bytes, bytes, int, int, float, str, bytes | None]


class AccessLog:
    """Gathers requests and hands their lines to ``write`` a quarter of a second later, or when 1,024 wait.

    ``write`` gets whole lines as bytes. Without it they go to ``config.access_file``, or as one event a
    batch to the log. The query of a target is never written: it may carry keys.
    """

    def __init__(
        self,
        config: LogConfig,
        clock: Any,
        write: Callable[[bytes], object] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._seconds: Callable[[], float] = clock.seconds
        self._wall = wall
        self._line = _json_line if config.format == "json" else _text_line
        self._waiting: list[_Event] = []
        self._flushing: IDelayedCall | None = None
        self._file: int | None = None
        self._look_at = 0.0
        self._path = config.access_file
        if write is None and config.access_file:
            self.reopen()
            write = self._write_file
        self._write = write or _write_log

    def note(self, request: Request, status: int, sent: int, caller: str, now: float | None = None) -> None:
        """One request that has its response, ``sent`` bytes with its head; ``now`` where the time is known."""
        # hot: once a request
        waiting = self._waiting
        if not waiting:
            self._flushing = self._clock.callLater(_FLUSH_SECONDS, self._flush)
        agent = None
        for name, value in request.headers:
            if name == b"user-agent":
                agent = value
                break
        milliseconds = ((self._seconds() if now is None else now) - request.received) * 1000
        waiting.append(
            (
                self._wall(),
                request.id,
                request.peer,
                request.method,
                request.target,
                status,
                sent,
                milliseconds,
                caller,
                agent,
            )
        )
        if len(waiting) >= _MOST_WAITING:
            self.flush()

    def flush(self) -> None:
        """Writes the waiting lines now."""
        if self._flushing is not None:
            self._flushing.cancel()
            self._flush()

    def reopen(self) -> None:
        """Opens the file anew, after it was moved away. Raises OSError."""
        if not self._path:
            return
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        old, self._file = self._file, file
        if old is not None:
            os.close(old)

    def reopen_quietly(self) -> None:
        """As ``reopen``; where that fails the old file goes on being written, and the log says so."""
        try:
            self.reopen()
        except OSError as error:
            _log.warn("the access log could not be opened anew: {error}", error=error)

    def stop(self) -> None:
        """Writes the waiting lines and closes the file."""
        self.flush()
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._path = ""

    def _flush(self) -> None:
        self._flushing = None
        waiting, self._waiting = self._waiting, []
        try:
            self._write(b"".join(map(self._line, waiting)))
        except OSError as error:
            # a full disk must not stop the gateway; the lines are lost and the log says so
            _log.warn("{count} access log lines were lost: {error}", count=len(waiting), error=error)

    def _write_file(self, lines: bytes) -> None:
        if self._file is None:
            return
        if self._seconds() >= self._look_at:
            self._look_at = self._seconds() + _LOOK_SECONDS
            if self._moved(self._file):
                self.reopen_quietly()
        left = memoryview(lines)
        while left:
            left = left[os.write(self._file, left) :]

    def _moved(self, file: int) -> bool:
        """Whether the path is another file by now, or none: logrotate has moved it."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return True
        return not os.path.samestat(there, os.fstat(file))


def _write_log(lines: bytes) -> None:
    _log.info("{lines}", lines=lines.decode("utf-8").rstrip("\n"))


@lru_cache(maxsize=4)
def _second(at: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)).encode("ascii")


@lru_cache(maxsize=1024)
def _quoted(text: str) -> bytes:
    """A JSON string; peers, callers and agents come again and again."""
    return orjson.dumps(text)


@lru_cache(maxsize=1024)
def _asked(method: bytes, target: bytes, caller: str) -> str:
    """The part of a text line between peer and status; programs ask for the same again and again."""
    return f"{caller or '-'} {method.decode('ascii') or '-'} {_path(target) or '-'}"


def _path(target: bytes) -> str:
    return target.partition(b"?")[0][:_MOST_PATH].decode("ascii", "backslashreplace")


@lru_cache(maxsize=1024)
def _agent(agent: bytes | None) -> str:
    return agent[:_MOST_AGENT].decode("ascii", "backslashreplace") if agent else ""


@lru_cache(maxsize=1024)
def _unquoted(agent: bytes | None) -> str:
    """An agent as it stands between the quotes of a text line."""
    return _agent(agent).replace('"', "'")


def _json_line(event: _Event) -> bytes:
    at, identity, peer, method, target, status, sent, milliseconds, caller, agent = event
    # an id and a method have no character that JSON escapes; the rest goes through orjson, which is cheaper for one
    # text than for an object of eleven
    return (
        b'{"time":"%b.%03dZ","event":"request","id":"%b","peer":%b,"method":"%b","path":%b,"status":%d,"bytes":%d,'
        b'"milliseconds":%.3f,"caller":%b,"agent":%b}\n'
    ) % (
        _second(int(at)),
        at % 1 * 1000,
        identity.encode("ascii"),
        _quoted(peer),
        method,
        orjson.dumps(_path(target)),
        status,
        sent,
        milliseconds,
        _quoted(caller),
        _quoted(_agent(agent)),
    )


def _text_line(event: _Event) -> bytes:
    at, identity, peer, method, target, status, sent, milliseconds, caller, agent = event
    whole = int(at)
    line = (
        f"{_second(whole).decode()}.{int((at - whole) * 1000):03d}Z {peer} {_asked(method, target, caller)} "
        f'{status} {sent} {milliseconds:.3f}ms {identity} "{_unquoted(agent)}"\n'
    )
    return line.encode("utf-8")
