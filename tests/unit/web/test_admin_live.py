"""When a live stream says something, and when nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.task import Clock

from kateway.errors import Unavailable
from kateway.web.admin.event_streams import COMMENT_SECONDS, EventStreams
from kateway.web.admin.live import LiveCalls, Rows
from kateway.web.admin.requests import AdminCall
from kateway.web.exchange import Request


class Wire:
    """An exchange that keeps what is written."""

    def __init__(self) -> None:
        self.request = Request(
            b"GET", b"/", [], b"", http_1_1=True, peer="192.0.2.1", secure=False, id="id", received=0.0
        )
        self.events: list[bytes] = []
        self.open = True
        self.ended = ""
        self.gone: Any = None

    def begin(self, status: int, headers: object) -> None:
        self.status = status

    def write(self, pieces: list[bytes]) -> None:
        self.events += pieces

    def writable(self) -> bool:
        return self.open

    def on_gone(self, callback: Any) -> None:
        self.gone = callback

    def finish(self) -> None:
        self.ended = "finished"

    def abort(self) -> None:
        self.ended = "cut"


class World:
    """One stream of rows that a test sets."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.rows: dict[str, Any] = {"a": {"name": "a", "lag": 1}}
        self.wire = Wire()
        self.given_up = 0
        self.streams = EventStreams(lambda _request, _call: None, lambda _actor, _ended: self.give_up, self.clock)
        self.calls = LiveCalls({"all": self.view}, self.streams)
        asked = AdminCall(self.wire.request, {}, {"view": "all"}, self.wire)  # type: ignore[arg-type]
        with pytest.raises(StopIteration):
            self.calls.live_rows(asked).send(None)

    def give_up(self) -> None:
        self.given_up += 1

    async def view(self, _names: Sequence[str] | None) -> Rows:
        return dict(self.rows)

    def later(self, seconds: int) -> list[bytes]:
        """What is said within these seconds."""
        self.wire.events.clear()
        for _ in range(seconds):
            self.clock.advance(1.0)
        return self.wire.events


def test_nothing_is_said_while_nothing_changes_but_a_comment() -> None:
    world = World()
    assert len(world.wire.events) == 1
    assert world.later(int(COMMENT_SECONDS) - 1) == []
    assert world.later(1) == [b":\n\n"]


def test_only_what_changed_is_said() -> None:
    world = World()
    world.rows["b"] = {"name": "b", "lag": 2}
    assert world.later(1) == [b'event: change\nid: 2\ndata: {"rows":[{"name":"b","lag":2}],"gone":[]}\n\n']
    del world.rows["a"]
    assert world.later(1) == [b'event: change\nid: 3\ndata: {"rows":[],"gone":["a"]}\n\n']


def test_slow_client_gets_the_last_rows_alone() -> None:
    world = World()
    world.wire.open = False
    for lag in range(2, 7):
        world.rows["a"] = {"name": "a", "lag": lag}
        assert world.later(1) == []
    world.wire.open = True
    assert world.later(1) == [b'event: change\nid: 2\ndata: {"rows":[{"name":"a","lag":6}],"gone":[]}\n\n']


def test_client_that_goes_ends_its_stream() -> None:
    world = World()
    world.wire.gone()
    assert world.wire.ended == "finished"
    assert not world.clock.getDelayedCalls()
    assert (world.given_up, len(world.streams)) == (1, 0)


def test_stream_that_begins_during_the_drain_ends_at_once() -> None:
    world = World()
    world.streams.drain()
    wire = Wire()
    with pytest.raises(StopIteration):
        world.calls.live_rows(AdminCall(wire.request, {}, {"view": "all"}, wire)).send(None)  # type: ignore[arg-type]
    assert wire.ended == "finished"
    assert len(world.streams) == 0
    assert not world.clock.getDelayedCalls()


def test_stream_whose_first_rows_cannot_be_had_is_watched_no_more() -> None:
    world = World()
    wire = Wire()

    async def fails() -> None:
        raise Unavailable("the registry is away")

    world.streams.begin(AdminCall(wire.request, {}, {}, wire), "live_rows", fails)  # type: ignore[arg-type]
    assert wire.ended == "finished"
    assert world.given_up == 1
