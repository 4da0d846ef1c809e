"""Finds the cells of a label set, or makes them, within bounds; and forgets what is unregistered or long idle.

Traffic is counted in bundles, one for each topic and one for each group. What keeps one for longer than a request asks
whether it is ``live``, so that what is forgotten stays so. A label set that has no room is counted under ``(other)``,
and in ``kateway_metrics_overflow_total``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from kateway.observe import families
from kateway.observe.bundles import GROUP_GAUGES, OTHER, Bundle, ClusterCells, GroupCells, Labels, TopicCells
from kateway.observe.cells import Counter, Histogram
from kateway.observe.families import Family

MOST_OBJECTS = 2000
"""Topics, groups and applications of a family."""
IDLE_SECONDS = 86400.0
OF_APPLICATIONS = (families.QUOTA_THROTTLED,)
"""Counted by themselves, and forgotten with their application."""

Cell = Counter | Histogram
K = TypeVar("K")
B = TypeVar("B", bound=Bundle)


class Series:
    """All label sets that are counted; ``seconds`` is a clock that never goes back."""

    def __init__(
        self,
        seconds: Callable[[], float],
        *,
        max_series: int,
        max_objects: int = MOST_OBJECTS,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.seconds = seconds
        self.wall = wall
        """Gives seconds since the epoch."""
        self._max_series = max_series
        self._max_objects = max_objects
        self._cells: dict[str, dict[Labels, Cell]] = {name: {} for name in families.FAMILIES}
        self._lines = 0
        self.topics: dict[tuple[str, str, str], TopicCells] = {}
        """By application, topic and version."""
        self.groups: dict[tuple[str, str, str, str, str], GroupCells] = {}
        """By application, topic, version, group and the reader's application."""
        self._clusters: dict[str, ClusterCells] = {}
        self._changed: dict[tuple[str, Labels], tuple[float, float]] = {}
        """Of counters by themselves: the value that the last look found changed, and when that was."""
        self._other_topic: TopicCells | None = None
        self._other_group: GroupCells | None = None

    # --- finding ----------------------------------------------------------------------------------------------------

    def topic(self, application: str, topic: str, version: str) -> TopicCells:
        """Returns the cells of a topic's publishes. Hot."""
        key = application, topic, version
        found = self.topics.get(key)
        if found is not None:
            return found
        if not self._room(len(self.topics), 2):
            self._overflow(TopicCells.FAMILIES)
            return self.other_topic()
        made = self.topics[key] = TopicCells(self, key, self.seconds())
        return made

    def other_topic(self) -> TopicCells:
        """Returns the cells of publishes that belong to no topic that is known."""
        if self._other_topic is None:
            self._other_topic = TopicCells(self, (OTHER,) * len(families.TOPIC), 0.0)
        return self._other_topic

    def group(self, application: str, topic: str, version: str, group: str, reader: str) -> GroupCells:
        """Returns the cells of a group's reading."""
        key = application, topic, version, group, reader
        found = self.groups.get(key)
        if found is not None:
            return found
        if not self._room(len(self.groups), 10 + GROUP_GAUGES):
            if self._other_group is None:
                self._other_group = GroupCells(self, (OTHER,) * len(families.GROUP), 0.0)
            self._overflow(GroupCells.FAMILIES)
            return self._other_group
        made = self.groups[key] = GroupCells(self, key, self.seconds())
        self._lines += GROUP_GAUGES
        return made

    def cluster(self, name: str) -> ClusterCells:
        """Returns the cells of a cluster; there are as many as are configured."""
        found = self._clusters.get(name)
        if found is None:
            found = self._clusters[name] = ClusterCells(self, name)
        return found

    def counter(self, family: Family, labels: Labels = ()) -> Counter:
        """Returns a counter by itself."""
        cell = self._find(family, labels)
        assert isinstance(cell, Counter)
        return cell

    def histogram(self, family: Family, labels: Labels = ()) -> Histogram:
        """Returns a histogram by itself."""
        cell = self._find(family, labels)
        assert isinstance(cell, Histogram)
        return cell

    def put(self, family: Family, labels: Labels) -> Counter:
        """Returns a counter of a bundle; its room is the bundle's affair."""
        cells = self._cells[family.name]
        cell = cells.get(labels)
        if cell is None:
            cell = cells[labels] = Counter()
            self._lines += 1
        assert isinstance(cell, Counter)
        return cell

    def _find(self, family: Family, labels: Labels) -> Cell:
        cells = self._cells[family.name]
        cell = cells.get(labels)
        if cell is None:
            if family is not families.OVERFLOW and not self._room(len(cells), family.lines):
                self._overflow((family,))
                labels = (OTHER,) * len(family.labels)
                cell = cells.get(labels)
            else:
                self._lines += family.lines
            if cell is None:
                cell = cells[labels] = Histogram(family.buckets) if family.buckets else Counter()
        return cell

    def _room(self, objects: int, lines: int) -> bool:
        return objects < self._max_objects and self._lines + lines <= self._max_series

    def has_room(self, family: Family) -> bool:
        """Whether one label set more of a bundle has room; else it is counted as overflow."""
        if self._room(0, family.lines):
            return True
        self._overflow((family,))
        return False

    def _overflow(self, beyond: Sequence[Family]) -> None:
        for family in beyond:
            self.counter(families.OVERFLOW, (family.name,)).value += 1

    # --- showing ----------------------------------------------------------------------------------------------------

    def cells(self, family: Family) -> list[tuple[Labels, Cell]]:
        """Returns the label sets of a family and their cells."""
        return list(self._cells[family.name].items())

    # --- forgetting -------------------------------------------------------------------------------------------------

    def keep_registered(
        self,
        topic: Callable[[Labels], bool],
        group: Callable[[Labels], bool],
        application: Callable[[str], bool] = lambda _name: True,
    ) -> None:
        """Forgets the topics, groups and applications that are not registered any more."""
        self._forget(self.topics, lambda bundle: not topic(bundle.labels))
        self._forget(self.groups, lambda bundle: not group(bundle.labels))
        for family in OF_APPLICATIONS:
            for labels in list(self._cells[family.name]):
                if labels[0] != OTHER and not application(labels[0]):
                    self._drop(family, labels)

    def sweep(self, in_use: Collection[Bundle] = ()) -> None:
        """Forgets topics, groups and applications that have counted nothing for ``IDLE_SECONDS``, but those in use."""
        now = self.seconds()
        kept = {id(bundle) for bundle in in_use}

        def idle(bundle: Bundle) -> bool:
            total = sum(self.put(*name).value for name in bundle.names)
            if total != bundle.seen or id(bundle) in kept:
                bundle.seen = total
                bundle.changed_at = now
            return now - bundle.changed_at >= IDLE_SECONDS

        self._forget(self.topics, idle)
        self._forget(self.groups, idle)
        for family in OF_APPLICATIONS:
            for labels, cell in self.cells(family):
                assert isinstance(cell, Counter)
                value, since = self._changed.get((family.name, labels), (-1.0, now))
                if cell.value != value:
                    self._changed[family.name, labels] = cell.value, now
                elif labels[0] != OTHER and now - since >= IDLE_SECONDS:
                    self._drop(family, labels)

    def _drop(self, family: Family, labels: Labels) -> None:
        del self._cells[family.name][labels]
        self._changed.pop((family.name, labels), None)
        self._lines -= family.lines

    def _forget(self, bundles: dict[K, B], gone: Callable[[Bundle], bool]) -> None:
        for key, bundle in list(bundles.items()):
            if gone(bundle):
                del bundles[key]
                bundle.live = False
                self._lines -= bundle.lines
                for family, labels in bundle.names:
                    del self._cells[family.name][labels]
