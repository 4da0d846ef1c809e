"""Reads without a group through transforms and filters: all that is there is given, however slow its client is."""

from __future__ import annotations

import pytest
from log_store import Store, log
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock

from kateway.core.reads import PartitionRead, Run
from kateway.core.screened_reads import ScreenedRead
from kateway.core.transforms.in_force import TransformsInForce, View
from kateway.loop_turns import LoopTurns
from kateway.model import Record
from kateway.registry.interface import Snapshot

FIFTH = "record.offset % 5 == 0"


class Reading:
    """A read of one partition of 40 records, two an answer of the store."""

    def __init__(self, filter: str | None, records: int = 40) -> None:
        self.clock = Clock()
        self.store = Store([log(list(range(records)))])
        self.store.on_read = self._takes_time
        in_force = TransformsInForce(Snapshot, self.clock.seconds)
        view = View(in_force, "app1", ("app1", "foo", "v1"), None if filter is None else in_force.filter(filter))
        self.read = ScreenedRead(
            PartitionRead(self.store, "t", 0, ("offset", 0)), view, LoopTurns(self.clock), self.clock
        )

    def _takes_time(self, _partition: int) -> None:
        self.clock.rightNow += 0.01

    def given(self, waiting: Deferred[Run | None]) -> list[int] | None:
        """Runs the loop until an answer is there: the offsets, ``None`` at the end."""
        found: list[Run | None] = []
        waiting.addCallback(found.append)
        for _ in range(1000):
            if found:
                break
            self.clock.advance(0.004)
        (run,) = found
        return None if run is None else [record.offset for record in run[1]]

    def first(self, wait_seconds: float = 0) -> Deferred[Run | None]:
        return ensureDeferred(self.read.first(wait_seconds, 1000))

    def next(self) -> list[int] | None:
        return self.given(ensureDeferred(self.read.next(1000)))


@pytest.mark.parametrize(("filter", "expected"), [(None, list(range(40))), (FIFTH, list(range(0, 40, 5)))])
def test_read_whose_client_rests_for_minutes_between_two_runs_gives_everything(
    filter: str | None, expected: list[int]
) -> None:
    reading = Reading(filter)
    found: list[int] = []
    run = reading.given(reading.first())
    while run is not None:
        found += run
        reading.clock.advance(300)
        run = reading.next()
    assert found == expected


def test_record_to_show_behind_a_long_stretch_of_others_is_found() -> None:
    reading = Reading("record.offset == 399", records=400)
    assert reading.given(reading.first()) == [399]
    assert reading.clock.seconds() > 1, "it took longer than any wait for records"
    assert reading.next() is None


def test_read_of_a_log_with_nothing_to_show_waits_for_a_record_that_is() -> None:
    reading = Reading("record.offset == 101", records=100)
    waiting = reading.first(5)
    for offset in (100, 101):
        reading.store.logs[0].append(Record(offset, offset, None, b"x"))
    assert reading.given(waiting) == [101]


def test_read_of_a_log_with_nothing_to_show_ends_at_its_end() -> None:
    reading = Reading("false")
    assert reading.given(reading.first(0.05)) is None
    assert reading.store.reads >= 20, "its wait of 0.05 s was over long before"
