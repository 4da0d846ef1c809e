"""Handlers of two processes: either answers for both, as JSON that went from one to the other."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kateway.core.breaker import BreakerConfig, Breakers
from kateway.core.operator.naming import Names
from kateway.core.operator.situations import Situations
from kateway.observe.group_watch import GroupWatches
from kateway.observe.history import History
from kateway.observe.parts import PART_SECONDS, Parts
from kateway.web.admin.breakers import BreakerCalls
from kateway.web.admin.group_rows import GroupRows
from kateway.web.admin.groups import GroupCalls
from kateway.web.admin.history import HistoryCalls
from kateway.web.admin.requests import AdminCall

Part = Callable[[Any], Coroutine[Any, Any, Any]]
NOTHING: Any = None
GROUP = ("default", "t", "v1", "g1", "default")


class Beside:
    """The other one of two processes; it does not answer while it is ``away``."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.parts: Mapping[str, Part] = {}
        self.away = False

    @property
    def absent(self) -> Sequence[int]:
        return (1 - self.index,) if self.away else ()

    async def ask(self, what: str, arguments: Any = None, *, seconds: float = PART_SECONDS) -> Parts:
        if self.away:
            return Parts({}, (1 - self.index,))
        answer = await self.parts[what](orjson.loads(orjson.dumps(arguments)))
        return Parts({1 - self.index: orjson.loads(orjson.dumps(answer))})


class Process:
    """One of two."""

    def __init__(self, index: int, clock: Clock) -> None:
        self.others = Beside(index)
        self.clock = clock
        self.history = History(("in_records", "stores_up"), 10**6)
        self.figures = HistoryCalls(self.history, NOTHING, clock, clock.seconds, self.others)
        self.watches = GroupWatches()
        breakers: Any = {"default": SimpleNamespace(state="closed")}
        situations = Situations(
            self.watches, self.history, breakers, lambda _: 0.0, lambda: True, clock.seconds, clock.seconds
        )
        memberships: Any = SimpleNamespace(live={})
        store: Any = object()
        names = Names({"default": store}, None)
        rows = GroupRows(names, memberships, clock, situations, self.others)
        self.groups = GroupCalls(names, NOTHING, memberships, NOTHING, clock, rows, self.others)
        administration: Any = SimpleNamespace(
            breakers=Breakers({"default": BreakerConfig()}, clock.seconds), now_ms=lambda: 0
        )
        self.breakers = BreakerCalls(administration, self.others)
        self.parts = {
            "history": self.figures.part,
            "groups": rows.part,
            "breakers": self.breakers.part,
            "set_breaker": self.breakers.set_here,
        }


@pytest.fixture
def both() -> tuple[Process, Process]:
    clock = Clock()
    clock.advance(1_000_000)
    one, other = Process(0, clock), Process(1, clock)
    one.others.parts, other.others.parts = other.parts, one.parts
    return one, other


def answer(handler: Callable[[AdminCall], Coroutine[Any, Any, Any]], **query: str) -> Any:
    found: list[Any] = []
    Deferred.fromCoroutine(handler(AdminCall(NOTHING, {}, query, NOTHING))).addCallback(found.append)
    (response,) = found
    assert response.status == 200
    return orjson.loads(response.body)


def test_history_is_the_same_at_either_process(both: tuple[Process, Process]) -> None:
    for process, records in zip(both, (10.0, 32.0), strict=True):
        process.history.gateway.record(process.clock.seconds(), [records, 1.0])
        process.history.record("topic", ("a", "t", "v1"), process.clock.seconds(), [records, 0.0, None, 0.0])
    both[1].history.record("topic", ("a", "other", "v1"), both[1].clock.seconds(), [5.0, 0.0, 0.0, 0.0])
    for process in both:
        series = answer(process.figures.history, series="in_records,stores_up", window="15m")["series"]
        assert (series["in_records"][-1], series["stores_up"][-1]) == (42.0, 1.0)
        topic = answer(process.figures.history, series="in_records,out_records", object="a/t/v1", window="15m")[
            "series"
        ]
        assert (topic["in_records"][-1], topic["out_records"][-1]) == (42.0, None)
        rows: list[Any] = []
        Deferred.fromCoroutine(process.figures.rows("topic", None, 10)).addCallback(rows.append)
        assert {name: row["in_records"] for name, row in rows[0].items()} == {"a/t/v1": 42.0, "a/other/v1": 5.0}


def test_history_without_a_process_says_whose_part_it_lacks(both: tuple[Process, Process]) -> None:
    one, other = both
    other.history.gateway.record(one.clock.seconds(), [32.0, 1.0])
    one.others.away = True
    told = answer(one.figures.history, series="in_records", window="15m")
    assert set(told["series"]["in_records"]) == {None}
    assert told["unanswered_processes"] == [1]
    one.others.away = False
    assert "unanswered_processes" not in answer(one.figures.history, series="in_records", window="15m")


def test_group_that_the_other_process_has_read_is_listed_here(both: tuple[Process, Process]) -> None:
    one, other = both
    now = one.clock.seconds()
    watch = other.watches.of(GROUP, now - 60)
    watch.look(now, None, 0, now - 60)
    watch.found(now, 7, None)
    for process in both:
        for query in ({}, {"sort": "lag"}):
            told = answer(process.groups.groups, **query)
            (row,) = told["items"]
            assert (row["name"], row["lag"], row["verdict"]["state"]) == ("default/t/v1/g1", 7, "abandoned")
            assert "unanswered_processes" not in told
        one.clock.advance(2)
    one.others.away = True
    assert answer(one.groups.groups) == {"items": [], "next": None, "unanswered_processes": [1]}


def test_breaker_is_as_open_as_that_of_the_process_that_refuses_most(both: tuple[Process, Process]) -> None:
    one, other = both
    told: list[Any] = []
    set_here = other.breakers.set_here({"cluster": "default", "state": "open"})
    Deferred.fromCoroutine(set_here).addCallback(told.append)
    (row,) = answer(one.breakers.breakers)["items"]
    assert (row["state"], [each["state"] for each in row["processes"]]) == ("open", ["closed", "open"])
    # one that has just been started takes over what was done by hand
    Deferred.fromCoroutine(one.breakers.take_over()).addCallback(told.append)
    (row,) = answer(one.breakers.breakers)["items"]
    assert [each["state"] for each in row["processes"]] == ["open", "open"]
