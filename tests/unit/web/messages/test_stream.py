"""The streaming loop: when it sends, waits, beats, slows down and ends. The group is real, the store in memory."""

from __future__ import annotations

import math
from collections.abc import Callable

from store_in_memory import MemoryStore
from twisted.internet.task import Clock

from kateway.config.schema import DeliveryConfig
from kateway.core.delivery.batch import Batch
from kateway.core.delivery.confirmation import Span, Watcher
from kateway.core.groups.memberships import Memberships
from kateway.core.groups.wanted import Wanted
from kateway.errors import Denied, KatewayError, Unavailable
from kateway.observe.series import Series
from kateway.web.messages.read_counts import ReadCounts
from kateway.web.messages.stream import FIRST_BATCH_BYTES, Bounds, Feed

HEARTBEAT_SECONDS = 7.0


class Outlet:
    """A client, its connection and its response: notes what it is told; takes when the test lets it."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.batches: list[int] = []
        self.told: list[str] = []
        self.room = True
        self.position = 0
        self.drained: Callable[[], None] | None = None
        self.left: Callable[[], None] | None = None
        self.watchers: list[Watcher] = []
        self.gone = False

    # the connection

    def confirmed(self) -> int | None:
        return self.position

    def stalled(self) -> bool:
        return False

    def watch(self, watcher: Watcher) -> None:
        self.watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        if watcher in self.watchers:
            self.watchers.remove(watcher)

    # the outlet

    def send(self, batch: Batch) -> tuple[int, Span]:
        lengths = [len(record.value or b"") for record in batch.records]
        self.values += [record.value for record in batch.records]
        self.batches.append(len(lengths))
        start, self.position = self.position, self.position + sum(lengths)
        return sum(lengths), Span(start, lengths, self.position)

    def writable(self) -> bool:
        return self.room

    def on_writable(self, callback: Callable[[], None] | None) -> None:
        self.drained = callback

    def on_gone(self, callback: Callable[[], None] | None) -> None:
        self.left = callback
        if self.gone and callback is not None:
            callback()

    def beat(self) -> None:
        self.told.append("beat")

    def end(self, last_error: KatewayError | None, *, leaving: bool) -> None:
        self.told.append(f"end {last_error.code if last_error else ''}{'leaving' if leaving else ''}".strip())

    def fail(self, error: KatewayError) -> None:
        self.told.append(f"fail {error.code}")


class World:
    """The topic ``t`` of one partition and one feed of it."""

    def __init__(self, pause: Callable[[int], float] | None = None, *, joined: bool = True, **bounds: float) -> None:
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.store.make("t", 1)
        groups = Memberships(lambda _name: self.store, self.clock, DeliveryConfig())  # type: ignore[arg-type, return-value]
        self.outlet = Outlet()
        self.ended = 0
        reader = groups.reader(("default", "g", "t"), Wanted(), self.outlet)
        self.series = Series(self.clock.seconds, max_series=40000)
        self.cells = self.series.group("shop", "t", "v1", "g", "till")
        self.counts = ReadCounts(self.cells, reader, self.clock.seconds)
        given = {"records": 1000, "bytes": math.inf, "first_seconds": 30.0, "idle_seconds": 1.0, **bounds}
        self.feed = Feed(
            reader,
            self.outlet,
            Bounds(**given),  # type: ignore[arg-type]
            self.clock,
            HEARTBEAT_SECONDS,
            pause,
            self.counts,
        )
        self.feed.start(self._ended)
        if joined:
            self.join()

    def join(self) -> None:
        """The partition is assigned."""
        self.store.subscriptions[-1].give(0)

    def _ended(self) -> None:
        self.ended += 1

    def write(self, *values: bytes) -> None:
        self.store.append("t", 0, *values)
        self.turns()

    def turns(self) -> None:
        for _ in range(20):
            self.clock.advance(0)


def test_records_are_sent_as_they_come_and_the_idle_time_ends_it() -> None:
    world = World()
    world.write(b"a", b"b")
    world.clock.advance(0.9)
    world.write(b"c")
    assert world.outlet.values == [b"a", b"b", b"c"]
    world.clock.advance(0.9)
    assert world.outlet.told == []
    world.clock.advance(0.1)
    assert (world.outlet.told, world.ended) == (["end"], 1)


def test_the_first_record_is_waited_for_longer() -> None:
    world = World()
    world.clock.advance(29.9)
    assert world.outlet.told == []
    world.clock.advance(0.1)
    assert world.outlet.told == ["end"]


def test_the_limit_ends_it_at_once_and_is_kept() -> None:
    world = World(records=2)
    world.write(b"a", b"b", b"c")
    assert (world.outlet.values, world.outlet.told) == ([b"a", b"b"], ["end"])


def test_the_record_that_passes_the_size_is_still_delivered() -> None:
    world = World(bytes=30)
    world.write(b"a" * 20)
    world.write(b"a" * 25)
    world.write(b"b")
    assert (world.outlet.values, world.outlet.told) == ([b"a" * 20, b"a" * 25], ["end"])


def test_a_record_larger_than_a_whole_response_comes_alone_in_the_next() -> None:
    world = World(bytes=30)
    world.write(b"aa")
    world.write(b"a" * 50)
    assert (world.outlet.values, world.outlet.told) == ([b"aa"], ["end"])


def test_a_follower_gets_heartbeats_and_no_end() -> None:
    world = World(idle_seconds=math.inf, records=1 << 60)
    world.clock.pump([HEARTBEAT_SECONDS, HEARTBEAT_SECONDS])
    world.write(b"a")
    world.clock.advance(HEARTBEAT_SECONDS - 0.1)
    assert world.outlet.told == ["beat", "beat"]
    world.outlet.room = False
    world.clock.advance(60)
    assert world.outlet.told == ["beat", "beat"], "a client without room is sent none"
    world.feed.end(leaving=True)
    assert world.outlet.told[-1] == "end leaving"


def test_a_client_without_room_is_not_taken_for() -> None:
    world = World()
    world.outlet.room = False
    world.write(b"a")
    assert world.outlet.values == []
    world.outlet.room = True
    assert world.outlet.drained is not None
    world.outlet.drained()
    assert world.outlet.values == [b"a"]


def test_for_a_slow_client_nothing_is_kept_at_hand_until_it_has_room() -> None:
    world = World()
    send = world.outlet.send

    def fill_up(batch: Batch) -> tuple[int, Span]:
        world.outlet.room = False
        return send(batch)

    world.outlet.send = fill_up  # type: ignore[method-assign]
    world.write(*[b"x" * (FIRST_BATCH_BYTES // 4)] * 8)
    assert world.outlet.batches == [4]
    assert world.store.subscriptions[-1].resting == {0}
    world.outlet.room = True
    assert world.outlet.drained is not None
    world.outlet.drained()
    world.turns()
    assert world.outlet.batches == [4, 4]


def test_a_client_that_takes_at_once_is_given_more_at_a_time() -> None:
    world = World()
    world.write(*[b"x" * (FIRST_BATCH_BYTES // 4)] * 28)
    assert world.outlet.batches == [4, 8, 16]


def test_a_quota_slows_it_down_and_refuses_nothing() -> None:
    counted: list[int] = []

    def pause(size: int) -> float:
        counted.append(size)
        return 2.0 if size else 0.0

    world = World(pause)
    world.write(b"aaa")
    world.write(b"b")
    assert world.outlet.values == [b"aaa"]
    world.clock.advance(1.9)
    assert world.outlet.told == [], "the pause is not idle time"
    world.clock.advance(0.1)
    world.turns()
    assert (world.outlet.values, counted) == ([b"aaa", b"b"], [0, 3, 1])


def test_pause_that_comes_while_a_turn_is_due_is_kept() -> None:
    pauses = [0.0, 0.0, 2.0]
    world = World(lambda size: pauses.pop(0) if pauses else 0.0)
    for value in (b"a", b"b", b"c"):
        # the client has room again before the turn that was to come at once
        world.store.append("t", 0, value)
        assert world.outlet.drained is not None
        world.outlet.drained()
    world.turns()
    assert world.outlet.values == [b"a", b"b"]
    world.clock.advance(1.9)
    assert world.outlet.values == [b"a", b"b"]
    world.clock.advance(0.1)
    assert world.outlet.values == [b"a", b"b", b"c"]


def test_a_quota_that_is_used_up_holds_the_first_record_back() -> None:
    world = World(lambda size: 0.0 if size else 3.0)
    world.write(b"a")
    world.clock.advance(2.9)
    assert world.outlet.values == []
    world.clock.advance(0.1)
    assert world.outlet.values == [b"a"]


def test_fault_of_the_group_is_the_reason_where_nothing_came() -> None:
    world = World()
    world.store.subscriptions[-1].listener.failed(Unavailable("no coordinator"))
    world.clock.advance(30)
    assert world.outlet.told == ["end unavailable"]


def test_a_group_that_is_over_fails_it() -> None:
    world = World()
    world.store.subscriptions[-1].listener.failed(Denied("not this group"))
    world.turns()
    assert (world.outlet.told, world.ended) == (["fail denied"], 1)


def test_a_permission_that_is_gone_fails_it_once() -> None:
    world = World()
    world.feed.fail(Denied("revoked"))
    world.feed.fail(Denied("revoked"))
    world.feed.end()
    assert (world.outlet.told, world.ended) == (["fail denied"], 1)
    world.write(b"a")
    assert world.outlet.values == []


def test_a_client_that_goes_has_its_response_ended_and_is_told_nothing_more() -> None:
    world = World()
    world.write(b"a")
    assert world.outlet.left is not None
    world.outlet.left()
    world.clock.advance(60)
    assert (world.outlet.told, world.ended) == (["end"], 1)
    assert (world.outlet.left, world.outlet.drained) == (None, None)


def test_stream_whose_client_rests_longer_than_idle_goes_on_when_it_has_room() -> None:
    world = World(idle_seconds=1.0)
    world.write(b"a")
    world.outlet.room = False
    world.write(b"b")
    world.turns()
    filled = list(world.outlet.values)
    world.clock.pump([0.5] * 10)
    assert world.outlet.told == []
    world.write(b"c")
    world.outlet.room = True
    assert world.outlet.drained is not None
    world.outlet.drained()
    world.turns()
    assert world.outlet.values[: len(filled)] == filled
    assert world.outlet.values == [b"a", b"b", b"c"]
    world.clock.advance(0.9)
    assert world.outlet.told == []
    world.clock.pump([0.1] * 3)
    assert world.outlet.told == ["end"]


def test_time_in_which_a_rebalance_has_taken_the_partitions_is_not_idle() -> None:
    world = World(idle_seconds=1.0)
    world.write(b"a")
    member = world.store.subscriptions[-1]
    world.clock.advance(0.5)
    member.lose(0)
    world.clock.pump([0.5] * 6)
    assert world.outlet.told == []
    member.give(0)
    world.write(b"b")
    assert world.outlet.values[-1] == b"b"
    world.clock.pump([0.3] * 4)
    assert world.outlet.told == ["end"]


def test_time_in_which_the_group_is_being_joined_does_not_count_for_the_timeout_up_to_a_bound() -> None:
    world = World(first_seconds=1.0, joined=False)
    world.clock.pump([0.5] * 8)
    assert world.outlet.told == []
    world.join()
    world.clock.advance(0.9)
    assert world.outlet.told == []
    world.clock.pump([0.2] * 2)
    assert world.outlet.told == ["end"]

    stuck = World(first_seconds=1.0, joined=False)
    stuck.clock.pump([0.5] * 24)
    assert stuck.outlet.told == ["end"]


def test_timeout_is_not_put_off_where_the_store_is_away() -> None:
    world = World(first_seconds=1.0, joined=False)
    world.store.subscriptions[-1].listener.failed(Unavailable("the cluster is away"))
    world.clock.pump([0.5] * 3)
    assert world.outlet.told == ["end unavailable"]


def test_stream_that_breaks_unforeseen_fails_and_gives_its_reader_back(logged_errors: list[dict[str, object]]) -> None:
    world = World()
    world.outlet.send = lambda batch: 1 // 0  # type: ignore[method-assign,assignment,return-value]
    world.write(b"a")
    assert world.outlet.told == ["fail internal"]
    assert world.ended == 1
    assert logged_errors
    logged_errors.clear()


def test_records_and_their_bytes_are_counted_as_they_are_sent() -> None:
    world = World()
    world.write(b"aa", b"bbb")
    world.write(b"c")
    assert (world.cells.records.value, world.cells.bytes.value, world.cells.redelivered.value) == (3, 6, 0)


def test_time_without_room_is_counted_while_it_lasts_and_no_longer() -> None:
    world = World(idle_seconds=math.inf)
    world.outlet.room = True
    world.write(b"a")
    world.clock.advance(5.0)
    assert world.cells.blocked.value == 0, "a client that waits is not blocked"
    drained = world.outlet.drained
    send = world.outlet.send

    def filling(batch: Batch) -> tuple[int, Span]:
        world.outlet.room = False
        return send(batch)

    world.outlet.send = filling  # type: ignore[method-assign]
    world.write(b"b")
    world.clock.advance(3.0)
    world.counts.count_blocked()
    assert world.cells.blocked.value == 3.0
    world.clock.advance(2.0)
    world.outlet.room = True
    world.outlet.send = send  # type: ignore[method-assign]
    assert drained is not None
    drained()
    world.clock.advance(4.0)
    world.counts.count_blocked()
    assert world.cells.blocked.value == 5.0


def test_time_without_room_is_counted_to_the_end_of_the_stream() -> None:
    world = World(idle_seconds=math.inf)
    send = world.outlet.send

    def filling(batch: Batch) -> tuple[int, Span]:
        world.outlet.room = False
        return send(batch)

    world.outlet.send = filling  # type: ignore[method-assign]
    world.write(b"a")
    world.clock.advance(3.0)
    world.feed.fail(Denied("no more"))
    world.clock.advance(3.0)
    world.counts.count_blocked()
    assert world.cells.blocked.value == 3.0


def test_client_that_has_gone_before_the_start_leaves_nothing_running() -> None:
    world = World(idle_seconds=math.inf, first_seconds=math.inf)
    world.feed.end()
    outlet = world.outlet
    before = len(world.clock.getDelayedCalls())
    outlet.gone = True
    groups = Memberships(lambda _name: world.store, world.clock, DeliveryConfig())  # type: ignore[arg-type, return-value]
    reader = groups.reader(("default", "other", "t"), Wanted(), outlet)
    bounds = Bounds(records=math.inf, bytes=math.inf, first_seconds=math.inf, idle_seconds=math.inf)  # type: ignore[arg-type]
    feed = Feed(reader, outlet, bounds, world.clock, HEARTBEAT_SECONDS, None, None)
    feed.start(world._ended)
    outlet.told.clear()
    world.clock.pump([1.0] * 60)
    assert outlet.told == []
    assert outlet.drained is None
    assert len(world.clock.getDelayedCalls()) <= before
