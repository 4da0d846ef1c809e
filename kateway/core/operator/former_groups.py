"""Finds the groups that stores keep places for, once after the start: the history remembers groups over a restart, and
lacks those of its last minutes where the gateway was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import cast

from twisted.logger import Logger

from kateway.core.operator.lags_of_left import labels_of
from kateway.core.operator.naming import Names
from kateway.errors import KatewayError
from kateway.observe.group_watch import Found, GroupWatches
from kateway.storage.interface import CommittedGroups, Store

MOST_GROUPS = 2000
"""Of one cluster; the lag of each is asked for again and again."""

_log = Logger()


class FormerGroups:
    """Watches them. ``shared`` are clusters that others may read without a gateway; ``seconds`` is a clock."""

    def __init__(
        self,
        names: Names,
        stores: Mapping[str, Store],
        shared: Collection[str],
        watches: GroupWatches,
        seconds: Callable[[], float],
    ) -> None:
        self._names = names
        self._shared = shared
        self._watches = watches
        self._seconds = seconds
        self._left = {
            name: cast(CommittedGroups, store) for name, store in stores.items() if hasattr(store, "committed_groups")
        }
        """Clusters that were not asked yet."""

    async def find(self) -> None:
        """Asks the clusters that were not asked yet; one that does not answer is asked the next time."""
        if not self._names.known:
            return
        for cluster, store in list(self._left.items()):
            try:
                found = await store.committed_groups(self._names.may_be_group)
            except KatewayError:
                continue
            if self._left.pop(cluster, None) is not None:
                self._watch(cluster, found)

    def _watch(self, cluster: str, found: Mapping[str, Collection[str]]) -> None:
        # in open mode a group's name does not tell whether its members are clients of a gateway
        where: Found = "shared store" if self._names.open and cluster in self._shared else "store"
        pairs = sorted((group, topic) for group, topics in found.items() for topic in topics)
        if len(pairs) > MOST_GROUPS:
            _log.warn("{cluster} keeps places of {n} groups: the first {most} are listed until the others are read",
                      cluster=cluster, n=len(pairs), most=MOST_GROUPS)  # fmt: skip
        for group, topic in pairs[:MOST_GROUPS]:
            names = self._names.found(cluster, group, topic)
            if names is None:
                continue
            labels = labels_of(*names)
            if labels not in self._watches.by_labels:
                watch = self._watches.of(labels, self._seconds())
                watch.unread_at, watch.found_in = watch.read_at, where
