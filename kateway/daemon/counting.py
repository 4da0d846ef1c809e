"""Holds what the gateway's parts count in, made where they are joined; without ``[metrics] enabled`` it is nothing."""

from __future__ import annotations

import time
from typing import Any

from kateway.config.schema import Config
from kateway.core.groups.memberships import Memberships
from kateway.daemon.forgetting import forget_idle, forget_unregistered
from kateway.daemon.reactor_lag import ReactorLag
from kateway.errors import KatewayError
from kateway.observe import families
from kateway.observe.cells import Counter
from kateway.observe.http import HttpCells
from kateway.observe.series import Series
from kateway.observe.store import StoreCells
from kateway.observe.troubles import Changes, ErrorLog, Slowest
from kateway.registry.interface import Registry, Snapshot
from kateway.web.messages.publish_counts import PublishCounts
from kateway.web.troubles import Troubles


class Counting:
    """The cells by the parts that count in them; each is ``None`` where nothing is counted."""

    def __init__(self, settings: Config, reactor: Any) -> None:
        self._reactor = reactor
        self._registered = settings.registry.driver != "open"
        self.series: Series | None = None
        self.http: HttpCells | None = None
        self.publishes: PublishCounts | None = None
        self.refusals: Counter | None = None
        """Of requests that would have waited too long for their turn."""
        self.stores: dict[str, StoreCells] = {}
        """By the clusters' names."""
        self.errors = ErrorLog()
        self.slowest = Slowest(time.time)
        self.changes = Changes(time.time)
        self.troubles: Troubles | None = None
        """Where the HTTP edge notes refused and slow requests."""
        self._lag: ReactorLag | None = None
        if settings.metrics.enabled:
            series = self.series = Series(reactor.seconds, max_series=settings.metrics.max_series)
            self.http = HttpCells(series)
            self.troubles = Troubles(self.errors, self.slowest, time.time)
            self.publishes = PublishCounts(series)
            self.refusals = series.counter(families.HTTP_REJECTED, ("overload",))
            self.stores = {name: StoreCells(series, name) for name in settings.storage}
            self._lag = ReactorLag(reactor, series.histogram(families.REACTOR_LAG))

    def start(self) -> None:
        """Begins to measure the reactor's lateness."""
        if self._lag is not None:
            self._lag.start()

    def stop(self) -> None:
        """Ends what has a timer."""
        if self._lag is not None:
            self._lag.stop()

    def follow(self, registry: Registry) -> None:
        """Measures how soon a registry's changes are in force, and forgets what it has no more."""
        series = self.series
        if series is None or not self._registered:
            return
        applied = series.histogram(families.REGISTRY_DELAY, (registry.driver,))
        registry.on_applied(lambda noticed: applied.observe(self._reactor.seconds() - noticed))

        def changed(snapshot: Snapshot) -> None:
            if snapshot.known:
                forget_unregistered(series, snapshot)

        registry.watch(changed)

    def forget_idle(self, groups: Memberships) -> None:
        """Forgets what has counted nothing for a day."""
        if self.series is not None:
            forget_idle(self.series, groups)

    def refused(self, error: KatewayError) -> None:
        """Counts a caller that may not do what it asks for."""
        if self.series is not None:
            self.series.counter(families.AUTH_FAILURES, (error.code,)).value += 1

    def breaker_changed(self, cluster: str, state: str) -> None:
        """Counts and notes a breaker's change."""
        self.changes.note("breaker", cluster, state)
        if self.series is not None:
            self.series.counter(families.BREAKER_TRANSITIONS, (cluster, state)).value += 1
