"""Asks stores for the lag of groups that were read here within the last day and are not any more.

A few at a time, whether any page is open or not, so that each is asked within the time that a lag may be old.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import ceil

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from kateway.core.gateway import Gateway
from kateway.core.operator.naming import GroupName, Names
from kateway.errors import KatewayError
from kateway.observe.bundles import Labels
from kateway.observe.group_watch import GroupWatches
from kateway.registry.interface import DEAD_SUFFIX

ASK_SECONDS = 10.0
"""Between two batches."""
LEAST = 20
"""Groups of a batch, where there are so many: few groups are asked each time."""


class LagsOfLeft:
    """The batches. ``read`` gives the groups that are read here, whose lag is known without asking."""

    def __init__(
        self,
        names: Names,
        gateway: Gateway,
        watches: GroupWatches,
        read: Callable[[], Collection[Labels]],
        clock: IReactorTime,
        interval_seconds: float,
    ) -> None:
        self._names = names
        self._gateway = gateway
        self._watches = watches
        self._read = read
        self._clock = clock
        self._interval = interval_seconds

    async def ask(self, elsewhere: Collection[Labels] = ()) -> None:
        """Asks for the lags that are oldest; one that its store does not tell becomes unknown, and so does that of a
        group that is read ``elsewhere``, by other processes of this gateway, which tell it.
        """
        read = {*self._read(), *elsewhere}
        self.forget(read)
        left = [labels for labels in self._watches.by_labels if labels not in read]
        left.sort(key=lambda labels: self._watches.by_labels[labels].lag_at or 0.0)
        batch = left[: max(ceil(len(left) * ASK_SECONDS / self._interval), LEAST)]
        await gatherResults([Deferred.fromCoroutine(self._ask(labels)) for labels in batch], consumeErrors=True)

    def forget(self, told: Collection[Labels] | None = None) -> None:
        """Forgets the lags that others tell of groups that are not read here: all without ``told``."""
        here = self._read()
        for labels, watch in self._watches.by_labels.items():
            if labels not in here and watch.lag is not None and (told is None or labels in told):
                watch.found(self._clock.seconds(), None, None)

    async def _ask(self, labels: Labels) -> None:
        name, dead = group_named(labels)
        lag: int | None = None
        try:
            place, group = self._names.group(name, dead=dead)
            lag = sum(each.lag for each in await self._gateway.lag(place, group))
        except KatewayError:
            pass  # its topic is gone, or its store is away
        watch = self._watches.by_labels.get(labels)
        if watch is not None and labels not in self._read():
            # how old the first record is would cost a read a partition
            watch.found(self._clock.seconds(), lag, 0.0 if lag == 0 else None)


def group_named(labels: Labels) -> tuple[GroupName, bool]:
    """Returns a group's name by the labels of its series, and whether its dead letters are meant."""
    application, topic, version, group, reader = labels
    source = topic.removesuffix(f".{group}{DEAD_SUFFIX}")
    return GroupName(reader, application, source, version, group), source != topic


def labels_of(name: GroupName, dead: bool) -> Labels:
    """Returns the labels of a group's series by its name."""
    topic = f"{name.topic}.{name.group}{DEAD_SUFFIX}" if dead else name.topic
    return name.application, topic, name.version, name.group, name.reader
