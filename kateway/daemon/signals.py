"""Handles signals: HUP reloads, USR2 upgrades, as the calls do. What fails is in the log."""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kateway.errors import KatewayError

_log = Logger()


def listen_for_signals(
    reactor: Any,
    reload: Callable[[], Coroutine[Any, Any, None]],
    upgrade: Callable[[], Coroutine[Any, Any, int]],
) -> None:
    """Reloads and upgrades at signals from now on; not where this is not the main thread."""

    def hangup(*_args: object) -> None:
        reactor.callFromThread(reload_and_log)

    def user(*_args: object) -> None:
        reactor.callFromThread(upgrade_and_log)

    def reload_and_log() -> None:
        reloading = Deferred.fromCoroutine(reload())
        reloading.addErrback(_is_logged)

    def upgrade_and_log() -> None:
        Deferred.fromCoroutine(upgrade()).addErrback(_log_upgrade)

    try:
        signal.signal(signal.SIGHUP, hangup)
        signal.signal(signal.SIGUSR2, user)
    except ValueError:
        _log.debug("not the main thread: SIGHUP and SIGUSR2 stay as they are")


def _is_logged(failure: Failure) -> None:
    """A failed reload has said so in the log; an exception that was not foreseen is there with its traceback."""
    if not failure.check(KatewayError):
        _log.failure("a reload broke", failure)


def _log_upgrade(failure: Failure) -> None:
    if failure.check(KatewayError):
        _log.error("nothing was upgraded: {why}", why=failure.value)
    else:
        _log.failure("an upgrade broke", failure)
