"""What every test lives by: a logged error fails it, and so does a delayed call it left behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.logger import LogLevel, globalLogPublisher

pytest_plugins = ["servers.fixtures"]


@pytest.fixture(autouse=True)
def logged_errors() -> Iterator[list[dict[str, Any]]]:
    """The errors logged during a test. A test that expects some takes this fixture, looks, and clears the list."""
    seen: list[dict[str, Any]] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            seen.append(event)

    globalLogPublisher.addObserver(observe)
    yield seen
    globalLogPublisher.removeObserver(observe)
    if seen:
        lines = [event["log_failure"].getTraceback() if event.get("log_failure") else str(event) for event in seen]
        pytest.fail("errors were logged:\n" + "\n".join(lines))


@pytest.fixture(autouse=True)
def leftover_calls() -> Iterator[None]:
    """Delayed calls that a test leaves behind are a leak."""
    before = {id(call) for call in reactor.getDelayedCalls()}
    yield
    left = [call for call in reactor.getDelayedCalls() if id(call) not in before and call.active()]
    # an endpoint's or a threadpool's bookkeeping that is due now is not a leak
    left = [call for call in left if call.getTime() - reactor.seconds() > 0.01]
    for call in left:
        call.cancel()
    if left:
        pytest.fail(f"delayed calls were left behind: {left}")
