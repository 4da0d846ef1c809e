"""Joins the parts that remember what the gateway's figures were: looks, history, its file, verdicts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThreadPool

from kateway.config.schema import HistoryConfig
from kateway.core.breaker import Breakers
from kateway.core.gateway import Gateway
from kateway.core.groups.memberships import Memberships
from kateway.core.operator.former_groups import FormerGroups
from kateway.core.operator.known import Known
from kateway.core.operator.lags_of_left import ASK_SECONDS, LagsOfLeft
from kateway.core.operator.naming import Names
from kateway.core.operator.situations import Situations
from kateway.core.operator.usage import UsageBook
from kateway.daemon.change_keeping import SAVE_SECONDS, ChangeKeeping
from kateway.daemon.forgetting import group_is_there
from kateway.daemon.history_keeping import HistoryKeeping
from kateway.daemon.looking import SWEEP_SECONDS, Looking
from kateway.daemon.periodic import RegularWork
from kateway.observe.bundles import Labels
from kateway.observe.exposition import Sampler
from kateway.observe.gateway_series import SERIES
from kateway.observe.group_watch import GroupWatch, GroupWatches
from kateway.observe.history import GATEWAY_STEP_SECONDS, OBJECT_STEP_SECONDS, History
from kateway.observe.parts import ALONE, OtherProcesses
from kateway.observe.series import Series
from kateway.observe.troubles import Changes
from kateway.registry.interface import Registry
from kateway.storage.interface import Store
from kateway.web.admin.history import HistoryCalls
from kateway.web.admin.producers import ProducerCalls
from kateway.web.admin.usage import UsageCalls

USAGE_FILE = "usage.sqlite3"
READ = "groups_read"
"""What the first process asks the others for."""
USAGE_SECONDS = 60.0
"""So much of the usage is lost at most where the process is killed."""


class Observing:
    """One gateway's. ``wall`` gives seconds since the epoch; ``shared`` are the clusters that others may read without a
    gateway.
    """

    def __init__(
        self,
        settings: HistoryConfig,
        series: Series,
        names: Names,
        gateway: Gateway,
        groups: Memberships,
        breakers: Breakers,
        registry: Registry,
        stores: Mapping[str, Store],
        shared: Collection[str],
        changes: Changes,
        samplers: Sequence[Sampler],
        count_blocked: Callable[[], None],
        directory: Path,
        reactor: Any,
        wall: Callable[[], float],
        others: OtherProcesses = ALONE,
        data: Path | None = None,
    ) -> None:
        """``data``: the directory that all processes of the gateway share, where there are several."""

        async def in_thread(work: Callable[[], Any]) -> Any:
            return await deferToThreadPool(reactor, reactor.getThreadPool(), work)

        self._settings = settings
        self._groups = groups
        self._registry = registry
        self._processes = others
        self._others = False
        self._started = False
        self.history = History(SERIES, settings.max_bytes)
        watches = GroupWatches()
        self.looking = Looking(series, self.history, watches, groups, count_blocked, samplers, reactor, wall)
        self.situations = Situations(
            watches,
            self.history,
            breakers,
            self.looking.figures.throttled,
            lambda: not self._others,
            reactor.seconds,
            wall,
        )
        self._former = FormerGroups(names, stores, shared, watches, reactor.seconds)
        self._lags = LagsOfLeft(names, gateway, watches, self._read, reactor, settings.lag_interval_seconds)
        self._keeping = HistoryKeeping(self.history, directory, reactor)
        self._watches = watches
        self._clock = reactor
        self._changes = ChangeKeeping(changes, directory, reactor)
        known = Known(names, gateway, groups)
        self.figures = HistoryCalls(self.history, known, reactor, wall, others)
        self._book = UsageBook((data or directory) / USAGE_FILE, self.looking.figures.take_used, in_thread, wall)
        self.usage = UsageCalls(self._book, known, wall, others)
        self.producers = ProducerCalls(series, known, wall, others)

    async def start(self, regular: RegularWork) -> None:
        """Reads the file, and looks from then on."""
        await self._keeping.load()
        await self._changes.load()
        self._started = True
        self.looking.resume()
        regular.every(GATEWAY_STEP_SECONDS, self.looking.look_at_gateway)
        regular.every(OBJECT_STEP_SECONDS, self.looking.look_at_objects)
        regular.every(ASK_SECONDS, self._ask)
        regular.every(SAVE_SECONDS, self._changes.save)
        regular.every(USAGE_SECONDS, self._book.write)
        regular.every(SWEEP_SECONDS, self.looking.sweep)
        regular.every(self._settings.snapshot_interval_seconds, self._keeping.save)

    async def stop(self) -> None:
        """Writes the files, but not over one that was never read."""
        if self._started:
            await self._keeping.save()
            await self._changes.save()
            await self.looking.look_at_objects()
            await self._book.write()

    def left(self) -> Iterator[tuple[Labels, GroupWatch]]:
        """Gives the groups that were read here within the last day, with what is known of them lately; those of which
        the registry knows no more are left out.
        """
        registered = self._registry.driver != "open"
        for labels, watch in list(self.situations.watches.by_labels.items()):
            if watch.found_in:
                # how long it has been left is not known: it must not call a person at each start
                continue
            if not registered or group_is_there(self._registry.snapshot, labels):
                yield labels, watch

    async def _ask(self) -> None:
        self._others = len(await self._registry.gateways()) > 1
        if self._processes.index:
            # the first process asks for all: else each would have the lags of the same groups in its history
            self._lags.forget()
            return
        await self._former.find()
        read: set[Labels] = set()
        for told in (await self._processes.ask(READ)).all:
            read |= {tuple(labels) for labels in told["read"]}
            for labels, seconds in told["left"]:
                if tuple(labels) not in self._watches.by_labels:
                    self._watches.of(tuple(labels), self._clock.seconds() - seconds)
        await self._lags.ask(read)

    async def read_part(self, _arguments: Any) -> dict[str, Any]:
        """The groups that this process reads, and for how many seconds it has not read the others that it watches."""
        read, now = self._read(), self._clock.seconds()
        watches = self._watches.by_labels.items()
        return {
            "read": list(read),
            "left": [[labels, now - watch.read_at] for labels, watch in watches if labels not in read],
        }

    def _read(self) -> Mapping[Labels, None]:
        return {member.cells.group.labels: None for member in self._groups.members() if member.cells is not None}
