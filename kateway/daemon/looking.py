"""Looks at the counters and groups of this gateway every few seconds, for the history; asks no store.

A look at all objects is made in slices, spread over the time until the next one begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from kateway.core.groups.memberships import Memberships
from kateway.observe.exposition import Sampler
from kateway.observe.gateway_series import GatewayFigures
from kateway.observe.group_watch import DAY_SECONDS, GroupWatches
from kateway.observe.history import GATEWAY_STEP_SECONDS, OBJECT_STEP_SECONDS, History
from kateway.observe.object_figures import ObjectFigures
from kateway.observe.series import Series

SLICE_SECONDS = 0.0005
"""Of the reactor's time, without a pause; a single object takes microseconds."""
PAUSE_SECONDS = 0.005
SWEEP_SECONDS = 600.0


class Steps:
    """Times of samples, one a step: a look that comes a little early or late leaves no gap and falls on no other."""

    def __init__(self, step_seconds: float) -> None:
        self._step = step_seconds
        self._last = float("-inf")

    def next(self, wall: float) -> float:
        """Returns the time of the sample that is taken now."""
        due = self._last + self._step
        self._last = due if abs(wall - due) < self._step / 2 else wall
        return self._last


class Looking:
    """The looks. ``wall`` gives seconds since the epoch."""

    def __init__(
        self,
        series: Series,
        history: History,
        watches: GroupWatches,
        groups: Memberships,
        count_blocked: Callable[[], None],
        samplers: Sequence[Sampler],
        clock: IReactorTime,
        wall: Callable[[], float],
    ) -> None:
        self.figures = ObjectFigures(series, history, watches)
        self._series = series
        self._history = history
        self._watches = watches
        self._groups = groups
        self._count_blocked = count_blocked
        self._samplers = samplers
        self._clock = clock
        self._wall = wall
        self._gateway = GatewayFigures(series, clock.seconds())
        self._groups_looked_at = clock.seconds()
        """When the last look began: what is found for the first time began behind it."""
        self._gateway_steps = Steps(GATEWAY_STEP_SECONDS)
        self._object_steps = Steps(OBJECT_STEP_SECONDS)
        self._one_at_a_time = DeferredLock()

    def resume(self) -> None:
        """Watches the groups that the history has from before the start."""
        now, wall = self._clock.seconds(), self._wall()
        for (kind, labels), rings in self._history.objects.items():
            if kind == "group" and wall - rings.active_at < DAY_SECONDS and labels not in self._watches.by_labels:
                watch = self._watches.of(labels, now)
                watch.read_at, watch.unread_at = now - max(wall - rings.active_at, 0.0), now

    async def look_at_gateway(self) -> None:
        """Takes a sample of the gateway as a whole."""
        self._count_blocked()
        sampled = [each for sampler in self._samplers for each in sampler()]
        members = list(self._groups.members())
        watches = self._watches.by_labels.values()
        lags = [watch.lag for watch in watches if watch.lag is not None]
        figures = self._gateway.look(
            self._clock.seconds(),
            sampled,
            {
                "readers": float(self._groups.readers),
                "groups": float(len(members)),
                "lag": float(sum(lags)) if lags or not members else None,
                "unacknowledged": float(sum(watch.unacknowledged for watch in watches)),
            },
        )
        self._history.gateway.record(self._gateway_steps.next(self._wall()), figures)

    async def look_at_objects(self) -> None:
        """Takes a sample of every application, topic and group; one look after the other."""
        await self._one_at_a_time.run(lambda: Deferred.fromCoroutine(self._look_at_objects()))

    async def _look_at_objects(self) -> None:
        self._count_blocked()
        await self._in_slices(self._look_at_groups())
        await self._in_slices(self.figures.look(self._object_steps.next(self._wall())))

    async def sweep(self) -> None:
        """Forgets what has long been silent."""
        self._history.sweep(self._wall())
        self._watches.sweep(self._clock.seconds())

    # --- inside -----------------------------------------------------------------------------------------------------

    def _look_at_groups(self) -> Iterator[None]:
        # a group that is found for the first time began behind the last look: else 4 records were 73,000 a second
        since, self._groups_looked_at = self._groups_looked_at, self._clock.seconds()
        read = {member.cells.group.labels: member for member in self._groups.members() if member.cells is not None}
        for labels, member in read.items():
            now = self._clock.seconds()
            # what is found for the first time has counted since its membership began, so the first look tells already
            watch = self._watches.of(labels, member.since)
            cells = None if member.cells is None else member.cells.group
            watch.look(now, cells, len(member.readers), member.unread_since)
            watch.unacknowledged = sum(count for count, _ in member.unacknowledged().values())
            lag = member.lag(int(self._wall() * 1000))
            watch.found(now, *((None, None) if lag is None else lag))
            yield
        counted = self._series.groups
        # a group may have come and gone since the last look
        for labels in {*self._watches.by_labels, *counted}:
            if labels not in read:
                now = self._clock.seconds()
                application, topic, version, group, reader = labels
                watch = self._watches.of(labels, since)
                watch.look(now, counted.get((application, topic, version, group, reader)), 0)
                watch.unacknowledged = 0
                yield

    async def _in_slices(self, work: Iterable[None]) -> None:
        began = self._clock.seconds()
        for _ in work:
            if self._clock.seconds() - began > SLICE_SECONDS:
                await deferLater(self._clock, PAUSE_SECONDS)
                began = self._clock.seconds()
