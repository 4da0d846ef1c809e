"""Starts the parts of ``twistd kateway`` in written-out order, and reloads, upgrades and stops them when it is told to.

``parts`` and ``http_parts`` say what there is and what needs what, ``assembly`` how a part is made.
"""

from __future__ import annotations

import atexit
import gc
import os
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure

from kateway import __version__
from kateway.config.schema import Config
from kateway.daemon import logs
from kateway.daemon.assembly import data_directory, open_transforms
from kateway.daemon.forgetting import SWEEP_SECONDS
from kateway.daemon.going_on import GoingOn
from kateway.daemon.http_parts import HttpParts
from kateway.daemon.options import Options
from kateway.daemon.parts import Parts
from kateway.daemon.processes.inherited import VARIABLE, from_text, tell_problems
from kateway.daemon.processes.notify import READY, notify
from kateway.daemon.processes.peers import Figures
from kateway.daemon.processes.plan import process_count
from kateway.daemon.processes.supervisor import Supervisor
from kateway.daemon.processes.worker import Worker
from kateway.daemon.reloading import Reloading
from kateway.daemon.signals import listen_for_signals
from kateway.daemon.spans import build_spans
from kateway.daemon.stopping import stop
from kateway.daemon.upgrading import Upgrading
from kateway.errors import ConfigError, KatewayError
from kateway.web.admin.sessions import SWEEP_SECONDS as SESSION_SWEEP_SECONDS

__all__ = ["GatewayService", "Options", "makeService"]

SWITCH_SECONDS = 0.0001
PRESENCE_SECONDS = 5.0
"""How often this gateway's load is written to the list of gateways."""
TOPICS_SECONDS = 0.5
"""How often is looked for registered topics that the stores lack, where something has changed."""

_log = Logger()


def makeService(options: Options) -> Service:
    """What twistd calls: the gateway, or the supervisor of several processes of one."""
    from twisted.internet import reactor

    settings = options.settings
    try:
        if VARIABLE in os.environ:
            inherited = from_text(os.environ[VARIABLE])
            worker = Worker(inherited, reactor, data_directory(settings))
            return GatewayService(settings, reactor, options.read, worker=worker)
        if process_count(settings) > 1:
            return Supervisor(settings, reactor, options.read, lambda: options.text)
        return GatewayService(settings, reactor, options.read, read_with_text=options.read_with_text)
    except ConfigError as error:
        tell_problems(os.environ, error.problems)
        for problem in error.problems:
            print(f"kateway: {problem}", file=sys.stderr)
        raise SystemExit(1) from error


class GatewayService(Service):
    """The running gateway. ``reread`` gives the configuration as it is now in its file, ``read_with_text`` with
    the file's text; ``ConfigError``. ``end`` ends the process as TERM does. ``worker`` is its side of the supervisor,
    where it is one of several processes.
    """

    name = "kateway"

    def __init__(
        self,
        settings: Config,
        reactor: Any,
        reread: Callable[[], Config] | None = None,
        end: Callable[[], object] | None = None,
        worker: Worker | None = None,
        read_with_text: Callable[[], tuple[Config, str]] | None = None,
    ) -> None:
        self.started: Deferred[None] | None = None
        self._reactor = reactor
        self._worker = worker
        self.parts = parts = Parts(settings, reactor, worker, self._tell_registry)
        self.http = http = HttpParts(parts, self)
        self.reloading = Reloading(parts, http, reread or (lambda: parts.settings))
        self.upgrading = Upgrading(
            parts, http.listening, end or reactor.stop, read_with_text or (lambda: (parts.settings, ""))
        )

    @property
    def settings(self) -> Config:
        """Those in force."""
        return self.parts.settings

    @property
    def ports(self) -> list[IListeningPort]:
        """The public ones first, each kind in the order of the configuration."""
        return self.http.listening.ports

    # --- starting --------------------------------------------------------------------------------------------

    def setServiceParent(self, parent: Any) -> None:
        # the application carries the observer that twistd will log through
        if self._worker is not None:
            parent.setComponent(ILogObserver, logs.observer(self.settings.log.format, f"process {self._worker.index}"))
        elif self.settings.log.format == "json":
            parent.setComponent(ILogObserver, logs.json_observer())
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        logs.forward_stdlib()
        self.started = Deferred.fromCoroutine(self._start())
        self.started.addErrback(self._failed_to_start)

    async def _start(self) -> None:
        parts, http, settings, regular = self.parts, self.http, self.settings, self.parts.regular
        await parts.storing.start()
        await parts.registry.start()
        parts.configure_transforms(open_transforms(settings))
        await parts.administration.make_topics()
        parts.registry.watch(lambda _snapshot: parts.admitting.open_streams.recheck())
        parts.registry.watch(lambda _snapshot: http.sign_in.keep())
        # of several processes none can speak for the others: topics do not grow while such a gateway is in the list
        parts.growing.start(regular)
        if parts.clustering is not None:
            await parts.clustering.start(regular)
        for membership in parts.kept.memberships:
            parts.going_on.take(membership)
        if parts.kept.memberships:
            parts.going_on.end()
        if self._worker is not None:
            self._worker.start(self, self._reactor, http.listening.factories, http.answerers)
            await self._worker.introduced()
            self._worker.hold_back()
            await http.operating.breakers.take_over()
        await http.listening.listen()
        if parts.leaving is not None:
            parts.leaving.start(regular)
        regular.every(PRESENCE_SECONDS, self._tell_registry)
        regular.every(TOPICS_SECONDS, parts.administration.make_topics)
        regular.every(SWEEP_SECONDS, self._forget_idle)
        regular.every(SESSION_SWEEP_SECONDS, http.sign_in.sweep)
        parts.storing.look(regular)
        parts.admitting.start(settings, regular)
        parts.counting.start()
        parts.spans.configure(build_spans(settings), settings.tracing.sample_ratio)
        http.exposing.start(regular)
        parts.counting.changes.note("start", "gateway", __version__)
        if http.observing is not None:
            await http.observing.start(regular)
        if self._worker is None:
            listen_for_signals(self._reactor, self.reload, self.upgrade)
        # the objects loaded now stay: the collector need not look through it again and again, nor after few objects
        gc.collect()
        gc.freeze()
        gc.set_threshold(20000, 10, 50)
        # SQLite's threads wait for the interpreter at each call: beside a reader with a filter 99 % of publishes to the
        # embedded store took up to 48 ms with Python's 5 ms, up to 37 with 0.5, 5.4 with 0.1; alone they cost no more
        sys.setswitchinterval(SWITCH_SECONDS)
        logs.announce(settings)
        if self._worker is None:
            notify(READY)
        else:
            self._worker.serves()

    async def _forget_idle(self) -> None:
        self.parts.counting.forget_idle(self.parts.groups)

    async def _tell_registry(self) -> None:
        parts = self.parts
        if self._worker is not None:
            await parts.registry.register_process(parts.growing.process_entry(round(parts.began * 1000)))
            if self._worker.index:
                # one of them writes the gateway's entry
                return
        await parts.registry.register_gateway(self.http.status.entry())

    def _failed_to_start(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if self._worker is not None:
            error = failure.value
            self._worker.failed(error.problems if isinstance(error, ConfigError) else [str(error) or repr(error)])
        if isinstance(failure.value, KatewayError):
            _log.critical("kateway cannot start: {reason}", reason=failure.value)
        else:
            _log.failure("kateway cannot start", failure)
        # twistd has no exit status of its own; atexit runs after it has tidied up (its pid file)
        atexit.register(_exit_with_failure)
        self._reactor.callWhenRunning(self._reactor.stop)

    # --- what calls, signals and the supervisor ask for ------------------------------------------------------

    def status(self) -> Mapping[str, Any]:
        """What ``GET /admin/v1/status`` answers."""
        return self.http.status.status()

    def figures(self) -> Figures:
        """What the other processes are told of this one."""
        return self.http.status.figures()

    @property
    def goes_on(self) -> GoingOn:
        """What a process that gives way to this one passes its memberships on to."""
        return self.parts.going_on

    async def reload(self) -> None:
        """Re-reads configuration, certificates and registry in all processes (``Reloading``)."""
        await self.reloading.reload()

    async def reload_here(self, *, only_check: bool = False) -> None:
        """Reloads this process alone; ``only_check`` changes nothing, and raises as that would."""
        await self.reloading.reload_here(only_check=only_check)

    async def drain(self, gateway: str) -> None:
        """Does what TERM does, once the call for it is answered. ``NotFound``; ``Conflict`` for another process."""
        await self.upgrading.drain(gateway)

    async def upgrade(self) -> int:
        """Has what is installed now take over; gives its generation. ``ConfigError`` names every problem."""
        return await self.upgrading.upgrade()

    def retire(self, successor: socket.socket | None) -> None:
        """Gives way to the process at the other end: connections go there at the boundary of a request; to none: they
        end behind an answer.
        """
        self.upgrading.retire(successor)

    # --- stopping --------------------------------------------------------------------------------------------

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self.started is not None:
            self.started.cancel()
        await stop(self.parts, self.http, self.upgrading.successor)


def _exit_with_failure() -> None:
    sys.stdout.flush()
    os._exit(1)
