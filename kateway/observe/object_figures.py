"""Works out the samples of applications, topics and groups for the history, a few objects at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from kateway.observe import families
from kateway.observe.bundles import OTHER, Labels
from kateway.observe.cells import Counter
from kateway.observe.group_watch import GroupWatches
from kateway.observe.history import OBJECT_STEP_SECONDS, History
from kateway.observe.last_minute import LastMinute
from kateway.observe.series import Series

OF_PUBLISHES = frozenset({"publish_records", "publish_bytes"})
"""Quotas that hold no reader up."""


class ObjectFigures:
    """One look after the other at what is counted of objects."""

    def __init__(self, series: Series, history: History, watches: GroupWatches) -> None:
        self._series = series
        self._history = history
        self._watches = watches
        self._passed_at = series.seconds()
        """When the last look began: what is found for the first time began behind it."""
        self._topics: dict[Labels, LastMinute] = {}
        self._throttled: dict[str, LastMinute] = {}
        self._used: dict[str, list[int]] = defaultdict(lambda: [0] * 5)

    def look(self, wall: float) -> Iterator[None]:
        """Looks at every object, groups first; gives way after each. ``wall`` is the time that their samples have."""
        seconds, began = self._series.seconds, self._series.seconds()
        topics: dict[Labels, list[float]] = defaultdict(lambda: [0.0] * 4)
        applications: dict[str, list[float]] = defaultdict(lambda: [0.0] * 6)
        for labels, watch in list(self._watches.by_labels.items()):
            # a sample is the mean of its whole step, also where the group began within it
            rates = watch.rates(OBJECT_STEP_SECONDS)
            records, size = rates["out_records"], rates["out_bytes"]
            figures = (records, size, rates["acknowledged"], watch.lag, watch.oldest_seconds)
            self._history.record("group", labels, wall, figures)
            topics[labels[:3]][2] += records
            reader = applications[labels[4]]
            reader[2] += records
            reader[3] += size
            self._use(labels[4], 2, watch.sent)
            yield
        for labels, cells in list(self._series.topics.items()):
            counted = self._topics.get(labels)
            if counted is None:
                counted = self._topics[labels] = LastMinute(self._passed_at, 3)
            counted.look(seconds(), (cells.records.value, cells.bytes.value, cells.failed))
            for producer in cells.producers.values():
                producer.look(seconds(), wall)
            records, size, errors = counted.rates()
            topic, owner = topics[labels], applications[labels[0]]
            topic[0], topic[1], topic[3] = records, size, errors
            owner[0] += records
            owner[1] += size
            owner[4] += errors
            self._use(labels[0], 0, counted.step()[:2])
            yield
        throttles = self.throttles()
        for application, total in throttles.items():
            counted = self._throttled.get(application)
            if counted is None:
                counted = self._throttled[application] = LastMinute(self._passed_at, 2)
            counted.look(seconds(), total)
            applications[application][5] = counted.rates()[0]
            self._use(application, 4, counted.step()[:1])
            yield
        yield from self._record(wall, topics, applications)
        self._passed_at = began
        self._forget(throttles)

    def throttled(self, application: str) -> float:
        """How often its quotas refused a request within the last minute that may have been a read."""
        counted = self._throttled.get(application)
        return 0.0 if counted is None else counted.growth()[1]

    def refused(self, application: str) -> float:
        """How often its quotas refused any request within the last minute."""
        counted = self._throttled.get(application)
        return 0.0 if counted is None else counted.growth()[0]

    def throttles(self) -> dict[str, list[float]]:
        """Refusals of each application since the start: all, and those by quotas that hold readers up."""
        totals: dict[str, list[float]] = defaultdict(lambda: [0.0] * 2)
        for labels, cell in self._series.cells(families.QUOTA_THROTTLED):
            if isinstance(cell, Counter) and labels[0] != OTHER:
                totals[labels[0]][0] += cell.value
                if labels[1] not in OF_PUBLISHES:
                    totals[labels[0]][1] += cell.value
        return totals

    def take_used(self) -> dict[str, list[int]]:
        """Returns what applications have used since this was last called: records and bytes in, records and bytes out,
        refusals by a quota.
        """
        used, self._used = self._used, defaultdict(lambda: [0] * 5)
        return dict(used)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _record(
        self, wall: float, topics: dict[Labels, list[float]], applications: dict[str, list[float]]
    ) -> Iterator[None]:
        history = self._history
        known_topics = [labels for kind, labels in history.objects if kind == "topic"]
        for labels in {*topics, *known_topics}:
            history.record("topic", labels, wall, topics[labels])
            yield
        known = [labels[0] for kind, labels in history.objects if kind == "application"]
        for application in {*applications, *known}:
            history.record("application", (application,), wall, applications[application])
            yield

    def _use(self, application: str, place: int, used: Sequence[float]) -> None:
        if any(used):
            figures = self._used[application]
            for further, grown in enumerate(used):
                figures[place + further] += int(grown)

    def _forget(self, throttles: Collection[str]) -> None:
        for labels in [labels for labels in self._topics if labels not in self._series.topics]:
            del self._topics[labels]
        for application in [application for application in self._throttled if application not in throttles]:
            del self._throttled[application]
