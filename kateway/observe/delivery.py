"""Counts what becomes of the records that a group's readers were given."""

from __future__ import annotations

from collections.abc import Callable

from kateway.observe.bundles import ClusterCells, GroupCells


class DeliveryCells:
    """The cells of one group. ``seconds`` is the reactor's clock, ``wall`` gives seconds since the epoch."""

    __slots__ = ("_age", "_seconds", "_settle", "_wall", "group")

    def __init__(
        self, group: GroupCells, cluster: ClusterCells, seconds: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self.group = group
        self._age = cluster.age
        self._settle = cluster.settle
        self._seconds = seconds
        self._wall = wall

    def confirmed(self, timestamp_ms: int, records: int) -> None:
        """Counts records that have arrived, the first of which has that timestamp."""
        self._age.observe(self._wall() - timestamp_ms / 1000, records)

    def settled(self, records: int, since: float) -> None:
        """Counts records that were read, sent at ``since``."""
        self.group.ok.value += records
        self._settle.observe(self._seconds() - since, records)
