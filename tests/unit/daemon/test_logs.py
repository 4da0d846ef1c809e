"""Log events as JSON lines, and what libraries log through ``logging``."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

from twisted.logger import Logger, LogLevel, LogPublisher, globalLogPublisher
from twisted.python.failure import Failure

from kateway.daemon import logs


def lines(*work: Any) -> list[dict[str, Any]]:
    """What each call to a logger comes to."""
    file = io.StringIO()
    log = Logger(namespace="here", observer=LogPublisher(logs.json_observer(file)))
    for call in work:
        call(log)
    return [json.loads(line) for line in file.getvalue().splitlines()]


def test_an_event_is_one_line_with_its_plain_values() -> None:
    (line,) = lines(lambda log: log.info("{count} of\n{what}", count=3, what="grün", thing=object()))
    assert (line["level"], line["logger"], line["message"]) == ("info", "here", "3 of\ngrün")
    assert (line["count"], line["what"]) == (3, "grün")
    assert "thing" not in line
    assert isinstance(line["time"], float)


def test_an_events_own_value_does_not_replace_what_every_line_has() -> None:
    (line,) = lines(lambda log: log.info("{message}", message="said", logger="mine"))
    assert (line["message"], line["logger"]) == ("said", "here")


def test_a_failure_comes_with_its_traceback() -> None:
    (line,) = lines(lambda log: log.failure("it broke", Failure(ValueError("why")), level=LogLevel.warn))
    assert line["level"] == "warn"
    assert "ValueError: why" in line["traceback"]


def test_event_of_a_library_is_logged_under_its_name_and_level() -> None:
    heard: list[Any] = []
    globalLogPublisher.addObserver(heard.append)
    library = logging.getLogger("some.library")
    # a gateway that ran in this process before has left a handler on the root logger
    library.propagate = False
    forward = logs.Forward()
    library.addHandler(forward)
    try:
        library.warning("%d retries", 3)
        try:
            raise OSError("gone")
        except OSError:
            library.warning("lost", exc_info=True)
    finally:
        library.removeHandler(forward)
        globalLogPublisher.removeObserver(heard.append)
    first, second = (event for event in heard if event["log_namespace"] == "some.library")
    assert (first["log_level"], first["message"]) == (LogLevel.warn, "3 retries")
    assert isinstance(second["log_failure"].value, OSError)
