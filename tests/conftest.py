"""What every test lives by: it has a time limit, a logged error fails it, and so does a delayed call it left behind."""

from __future__ import annotations

import faulthandler
import functools
import inspect
import os
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import settings
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, globalLogPublisher

pytest_plugins = ["servers.fixtures"]

# no test asserts a speed: on a busy machine an example takes what it takes
settings.register_profile("kateway", deadline=None)
settings.load_profile("kateway")

# the end of the tests ends the reactor's threads and the servers; one that waits for another that never ends says where
_ENDING_SECONDS = 120


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Cancels a coroutine test shortly before its time limit, so that it says where it waited and the next can run.

    pytest-timeout raises in whatever code runs when the time is over. While a coroutine waits that is the reactor,
    which logs what is raised and goes on, and the test with it, for ever.
    """
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = _limited(pyfuncitem.obj, _limit_seconds(pyfuncitem))
    return (yield)


def _limit_seconds(item: pytest.Function) -> float:
    marker = item.get_closest_marker("timeout")
    return 0.95 * float(marker.args[0] if marker else item.config.getini("timeout"))


def _limited(test: Any, seconds: float) -> Any:
    @functools.wraps(test)  # also what says to pytest-twisted that it is a coroutine
    def limited(**fixtures: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(test(**fixtures)).addTimeout(seconds, reactor)

    return limited


def pytest_unconfigure(config: pytest.Config) -> None:
    stderr = os.dup(2)
    faulthandler.dump_traceback_later(_ENDING_SECONDS, exit=True, file=stderr)


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
