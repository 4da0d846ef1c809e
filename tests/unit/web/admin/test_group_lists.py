"""Lists of a thousand groups: in short slices, by pages, worked out once for all that ask at the same time."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kateway.core.operator.naming import Names
from kateway.core.operator.situations import Situations
from kateway.loop_turns import LoopTurns
from kateway.observe.bundles import Labels
from kateway.observe.group_watch import GroupWatches
from kateway.observe.history import History
from kateway.observe.verdicts import Situation
from kateway.web.admin.group_rows import LISTED_SECONDS, SLICE_SECONDS, GroupRows
from kateway.web.admin.groups import GroupCalls
from kateway.web.admin.requests import AdminCall

GROUPS = 1000
ROW_SECONDS = 0.0005
"""Of this test's clock, for each figure that is worked out."""
MOST_SLICE_SECONDS = 0.01


class SlicedClock(Clock):
    """Notes how many rows were worked out when each pause begins."""

    def __init__(self) -> None:
        super().__init__()
        self.slices: list[int] = []
        self.rows = 0

    def callLater(self, delay: float, callable: Any, *args: object, **kwargs: object) -> Any:
        self.slices.append(self.rows)
        self.rows = 0
        return super().callLater(delay, callable, *args, **kwargs)


class CountedSituations(Situations):
    """Counts verdicts, and takes some of the clock's time for each."""

    def __init__(self, clock: SlicedClock, watches: GroupWatches) -> None:
        breakers: Any = {"default": SimpleNamespace(state="closed")}
        history = History(("one",), 10**6)
        super().__init__(watches, history, breakers, lambda _: 0.0, lambda: True, clock.seconds, clock.seconds)
        self.asked: Counter[Labels] = Counter()
        self._clock = clock

    def of(self, labels: Labels, member: Any, cluster: str, lag: int | None = None) -> tuple[Situation | None, bool]:
        self.asked[labels] += 1
        self._clock.rows += 1
        self._clock.rightNow += ROW_SECONDS  # type: ignore[attr-defined]
        return super().of(labels, member, cluster, lag)


class World:
    """A thousand groups that were read within the last day, each a record further behind than the one before."""

    def __init__(self) -> None:
        self.clock = SlicedClock()
        watches = GroupWatches()
        for number in range(GROUPS):
            watch = watches.of(("default", "t", "v1", f"g{number:04}", "default"), 0.0)
            watch.look(0.0, None, 0, 0.0)
            watch.found(0.0, number, None)
        self.situations = CountedSituations(self.clock, watches)
        store: Any = object()
        memberships: Any = SimpleNamespace(live={}, turns=LoopTurns(self.clock))
        nothing: Any = None
        names = Names({"default": store}, None)
        self.rows = GroupRows(names, memberships, self.clock, self.situations)
        self.calls = GroupCalls(names, nothing, memberships, nothing, self.clock, self.rows)

    def ask(self, *queries: dict[str, str]) -> list[dict[str, Any]]:
        """The answers of requests that come at the same time."""
        nothing: Any = None
        asked = [Deferred.fromCoroutine(self.calls.groups(AdminCall(nothing, {}, query, nothing))) for query in queries]
        while not all(each.called for each in asked):
            self.clock.advance(0)
        found: list[Any] = []
        for each in asked:
            each.addCallback(found.append)
        return [orjson.loads(response.body) for response in found]


def test_sorted_list_is_worked_out_in_slices_that_others_do_not_feel() -> None:
    world = World()
    (page,) = world.ask({"sort": "lag", "desc": "1", "limit": "100"})
    assert [row["lag"] for row in page["items"]] == list(range(GROUPS - 1, GROUPS - 101, -1))
    assert page["items"][0]["verdict"]["state"] == "abandoned"
    assert max(world.clock.slices) * ROW_SECONDS <= SLICE_SECONDS + ROW_SECONDS <= MOST_SLICE_SECONDS
    assert len(world.clock.slices) >= GROUPS * ROW_SECONDS / (SLICE_SECONDS + ROW_SECONDS) - 1


def test_requests_at_the_same_time_share_the_work() -> None:
    world = World()
    query = {"desc": "1", "limit": "5"}
    by_lag, by_severity, of_verdict = world.ask(
        {**query, "sort": "lag"}, {**query, "sort": "severity"}, {**query, "state": "abandoned"}
    )
    assert set(world.situations.asked.values()) == {1}
    assert len(by_lag["items"]) == len(by_severity["items"]) == len(of_verdict["items"]) == 5
    world.clock.advance(LISTED_SECONDS)
    world.ask({**query, "sort": "lag"})
    assert set(world.situations.asked.values()) == {2}


@pytest.mark.parametrize("query", [{}, {"contains": "g09"}, {"after": "default/t/v1/g0500"}])
def test_list_by_name_works_out_no_more_than_its_page(query: dict[str, str]) -> None:
    world = World()
    (page,) = world.ask({"limit": "100", **query})
    assert len(page["items"]) == 100
    assert world.situations.asked.total() == 100
