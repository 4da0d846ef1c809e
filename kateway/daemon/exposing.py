"""Gives figures to the outside: ``/metrics``, what is sent to InfluxDB, the sinks of metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kateway.config.schema import Config
from kateway.core.plugin_watch import Watches
from kateway.daemon.assembly import build_figures
from kateway.daemon.periodic import RegularWork
from kateway.daemon.processes.worker import Worker
from kateway.daemon.pushing import build_push
from kateway.loop_turns import LoopTurns
from kateway.observe.exposition import Sampler
from kateway.observe.influx import InfluxPush, Plan
from kateway.observe.series import Series
from kateway.web.admin.access import Guard
from kateway.web.admin.metrics import MetricsEdge


class Exposing:
    """One process's; without ``series`` nothing is counted, and ``edge`` is ``None``. ``guard`` gives the one in force.
    ``ConfigError``: the figures cannot be sent as the configuration says.
    """

    def __init__(
        self,
        settings: Config,
        reactor: Any,
        name: str,
        series: Series | None,
        samplers: Sequence[Sampler],
        guard: Callable[[], Guard],
        watches: Watches,
        worker: Worker | None,
        turns: LoopTurns,
    ) -> None:
        self.edge: MetricsEdge | None = None
        self._sends = worker is None or worker.index == 0
        self._push: InfluxPush | None = None
        self._interval_seconds = settings.metrics.sink_interval_seconds
        plan = build_push(settings, reactor)
        if series is not None:
            self.edge = MetricsEdge(
                series,
                samplers,
                guard,
                reactor,
                {"gateway": name},
                turns=turns,
                join=None if worker is None else worker.add_figures,
            )
            self._push = InfluxPush(reactor, series, self.edge.lines)
            self._push.configure(plan)
        self.sinks = build_figures(settings, reactor, self._exposition, watches)

    async def _exposition(self) -> bytes:
        return b"" if self.edge is None else await self.edge.exposition()

    def start(self, regular: RegularWork) -> None:
        """Sends from now on; of several processes one sends the figures of all."""
        if not self._sends:
            return
        if len(self.sinks):
            regular.every(self._interval_seconds, self.sinks.tell)
        if self._push is not None:
            self._push.start()

    def configure(self, plan: Plan | None) -> None:
        """Sends to InfluxDB by another plan."""
        if self._push is not None:
            self._push.configure(plan)

    async def send_last(self, seconds: float) -> None:
        """Sends the last figures to InfluxDB, for so long at most."""
        if self._push is not None:
            await self._push.stop(seconds)
