"""Writes log events: text lines as twistd writes them, or one JSON object a line; stdlib loggers are forwarded.

Nothing here or below ever logs a payload or a secret: ``web/access_log.py`` has the members logged of a request.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import IO, Any

from twisted.logger import FileLogObserver, LogEvent, Logger, LogLevel, formatEvent, formatEventAsClassicLogText
from twisted.python.failure import Failure

from kateway import __version__
from kateway.config.schema import Config

_log = Logger()
_LEVELS = {
    logging.DEBUG: LogLevel.debug,
    logging.INFO: LogLevel.info,
    logging.WARNING: LogLevel.warn,
    logging.ERROR: LogLevel.error,
    logging.CRITICAL: LogLevel.critical,
}
QUIET = {"afkak": logging.WARNING, "kazoo": logging.INFO, "opentelemetry": logging.CRITICAL, "urllib3": logging.ERROR}
"""From which level on the libraries are heard: below that they tell of every reconnect."""


class Forward(logging.Handler):
    """Hands what a library logs through ``logging`` to Twisted's log, under the library's name."""

    def emit(self, record: logging.LogRecord) -> None:
        level = _LEVELS.get(record.levelno, LogLevel.info)
        log = Logger(namespace=record.name)
        if record.exc_info and record.exc_info[1] is not None:
            kind, value, trace = record.exc_info
            log.failure("{message}", Failure(value, kind, trace), level=level, message=record.getMessage())
        else:
            log.emit(level, "{message}", message=record.getMessage())


def announce(settings: Config) -> None:
    """One line for the person at the console: the listeners, the stores, the registry."""
    _log.info(
        "kateway {version} is up: public {public}, admin {admin}, stores {stores}, registry {registry}",
        version=__version__,
        public=", ".join(settings.http.public),
        admin=", ".join(settings.http.admin),
        stores=", ".join(f"{name} ({cluster.driver})" for name, cluster in settings.storage.items()),
        registry=settings.registry.driver,
    )
    if settings.registry.driver == "open":
        _log.info("open access: no registry is configured, so every caller is the application 'default'")


def forward_stdlib() -> None:
    """Makes the libraries' ``logging`` loggers speak through Twisted's log. Once a process."""
    root = logging.getLogger()
    if not any(isinstance(handler, Forward) for handler in root.handlers):
        root.addHandler(Forward())
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)


def observer(form: str, process: str) -> FileLogObserver:
    """An observer whose lines name the process, in the form that ``[log] format`` asks for."""
    if form == "json":
        return FileLogObserver(_stdout(), lambda event: json_line({**event, "process": process}))
    return FileLogObserver(_stdout(), lambda event: text_line(event, process))


def text_line(event: LogEvent, process: str) -> str | None:
    """An event as twistd writes it, with the process's name behind the bracket of its logger."""
    line = formatEventAsClassicLogText(event)
    return None if line is None else line.replace("[", f"[{process}: ", 1)


def json_line(event: LogEvent) -> str:
    """An event as one line of JSON: time, level, logger, message, and the event's own plain values."""
    found: dict[str, Any] = {
        "time": event.get("log_time"),
        "level": getattr(event.get("log_level"), "name", "info"),
        "logger": event.get("log_namespace", ""),
        "message": formatEvent(event),
    }
    for name, value in event.items():
        if not name.startswith("log_") and isinstance(value, (str, int, float, bool)) and name not in found:
            found[name] = value
    failure = event.get("log_failure")
    if failure is not None:
        found["traceback"] = failure.getTraceback()
    return json.dumps(found, ensure_ascii=False) + "\n"


def json_observer(file: IO[str] | None = None) -> FileLogObserver:
    """An observer that writes JSON lines to ``file``, by default standard output."""
    return FileLogObserver(_stdout() if file is None else file, json_line)


def naming(process: str) -> Callable[[bytes], None]:
    """As ``write_to_stdout``, for JSON lines that are to name their process."""
    member = b'{"process":"%b",' % process.encode()

    def write(lines: bytes) -> None:
        write_to_stdout(b"".join(member + line[1:] for line in lines.splitlines(keepends=True)))

    return write


def write_to_stdout(lines: bytes) -> None:
    """Writes whole lines beside those of ``json_observer``."""
    stdout = _stdout()
    stdout.write(lines.decode("utf-8"))
    stdout.flush()


def _stdout() -> IO[str]:
    # twistd puts a logger in the place of sys.stdout
    return sys.__stdout__ or sys.stdout
