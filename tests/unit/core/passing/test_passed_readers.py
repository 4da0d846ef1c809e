"""A reader of another gateway's records: what it settles is settled, what it does not comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from linked_world import LinkedWorld
from links_in_memory import Pipe
from test_memberships import Wire, joined, stop
from twisted.internet.defer import Deferred

from kateway.cluster.frames import BadFrame
from kateway.core.delivery.batch import Ack, Batch
from kateway.core.delivery.moved_leases import decode
from kateway.core.passing import messages
from kateway.core.passing.messages import Counts, Malformed
from kateway.errors import Draining, GatewayUnavailable, NotHere, TooManyConsumers, Unavailable
from kateway.model import Record


@pytest.fixture
def world() -> Iterator[LinkedWorld]:
    world = LinkedWorld()
    world.store.append("t", 0, *(b"%d" % number for number in range(20)))
    joined(world, world.reader()).reader.finish()
    yield world
    for client in world.clients:
        client.wire.close(orderly=False)
    stop(world)


def test_orderly_close_of_another_gateways_client_settles_what_it_confirmed(world: LinkedWorld) -> None:
    client = world.remote()
    assert client.read(10) == list(range(10))
    client.wire.confirm(4 * 5 + 3)  # five records and three bytes
    client.wire.close(orderly=True)
    world.turn()
    assert world.committed() == 5
    assert world.remote().read(2) == [5, 6]


def test_reset_of_another_gateways_client_gives_all_back_as_a_second_attempt(world: LinkedWorld) -> None:
    client = world.remote()
    client.read(10)
    client.wire.confirm()
    client.wire.close(orderly=False)
    world.turn()
    assert world.committed() is None
    second = world.remote()
    assert second.read(12) == list(range(12))
    assert [attempt for _, _, attempt in second.got] == [2] * 10 + [1, 1]


class FaultyWire(Wire):
    """A connection that fails once when it is asked how far it has come."""

    fails = False

    def confirmed(self) -> int | None:
        if self.fails:
            self.fails = False
            raise ValueError("a fault")
        return super().confirmed()


def test_batch_is_settled_though_a_look_at_its_connection_broke(
    world: LinkedWorld, logged_errors: list[dict[str, Any]]
) -> None:
    wire = FaultyWire()
    client = world.remote(wire, short=False)
    assert client.read(3) == [0, 1, 2]
    wire.confirm()
    wire.fails = True
    for _ in range(20):
        world.clock.advance(0.25)
        world.pipe.pump()
    assert not wire.fails
    assert len(logged_errors) == 1
    logged_errors.clear()
    assert world.committed() == 3


def test_client_that_lives_on_settles_the_batch_that_it_has_and_no_later_one(world: LinkedWorld) -> None:
    client = world.remote()
    client.read(3)
    client.wire.confirm()
    client.read(3)
    for _ in range(20):
        world.clock.advance(0.25)
        world.turn()
    assert world.committed() == 3
    client.wire.close(orderly=False)
    world.turn()
    assert world.remote().read(1) == [3]


def test_link_that_breaks_gives_back_what_was_not_settled(world: LinkedWorld) -> None:
    client = world.remote()
    client.read(4)
    client.wire.confirm()
    world.pipe.lose(GatewayUnavailable("the link broke"))
    world.pipe = Pipe(world.clock, world.serving)
    assert [error.code for error in client.failed] == ["gateway-unavailable"]
    with pytest.raises(GatewayUnavailable):
        client.reader.take(1, 100)
    second = world.remote()
    assert second.read(5) == [0, 1, 2, 3, 4]
    assert [attempt for _, _, attempt in second.got] == [2, 2, 2, 2, 1]
    client.reader.finish()
    client.wire.close(orderly=True)
    world.turn()
    assert world.committed() is None


def test_batch_that_was_not_written_comes_again_as_a_first_attempt(world: LinkedWorld) -> None:
    client = world.remote()
    client.read(4, send=False)
    client.reader.finish()
    world.turn()
    second = world.remote()
    assert second.read(4) == [0, 1, 2, 3]
    assert [attempt for _, _, attempt in second.got] == [1, 1, 1, 1]


def test_batch_that_is_released_comes_again_to_the_same_reader(world: LinkedWorld) -> None:
    client = world.remote()
    batch = client.reader.take(2, 1000)
    assert batch is not None
    client.reader.release(batch)
    assert client.read(3) == [0, 1, 2]
    assert [attempt for _, _, attempt in client.got] == [1, 1, 1]


def test_home_passes_one_batch_for_each_that_is_asked_for(world: LinkedWorld) -> None:
    client = world.remote()
    client.read(5)
    before = world.pipe.count
    world.fill(5)
    for _ in range(20):
        world.clock.advance(0.25)
        world.turn()
    # nothing was asked for: nothing but heartbeats of the link, which this one has not, may pass
    assert world.pipe.count == before
    (passed,) = world.serving._readers
    assert not passed.waits


def test_home_takes_nothing_while_its_link_is_full(world: LinkedWorld) -> None:
    world.pipe.far.full = True
    client = world.remote()
    assert client.read(1) == []
    assert not world.ledger(0).in_flight
    # asked again and again, it still registers once
    for _ in range(3):
        world.fill(1)
        world.turn()
    assert len(world.pipe.far._writable) == 1
    world.pipe.far.drained()
    world.turn()
    assert client.read(1) == [0]


def test_lease_of_another_gateways_client_is_acknowledged_here(world: LinkedWorld) -> None:
    client = world.remote(mode="explicit")
    assert client.read(3) == [0, 1, 2]
    assert len(set(client.leases)) == 1
    assert world.acknowledge(Ack(0, 0, lease=client.leases[0]), Ack(0, 1)) == [None, None]
    world.clock.advance(61)
    world.turn()
    second = world.remote(mode="explicit")
    assert second.read(2) == [2, 3]
    assert [attempt for _, _, attempt in second.got] == [2, 1]


def test_lease_of_another_gateways_client_that_asks_for_no_more_moves_with_its_partition(world: LinkedWorld) -> None:
    client = world.remote(mode="explicit")
    assert client.read(3) == [0, 1, 2]
    world.turn()
    place, left_out = world.ledger(0).last_place(world.clock.seconds(), 0.0)
    assert place is not None
    assert [lease.offset for lease in decode(place.offset, place.metadata).leases] == [0, 1, 2]
    assert left_out == 0


def test_poll_that_another_one_keeps_waiting_is_refused_like_one_here(world: LinkedWorld) -> None:
    world.remote(short=False)
    with pytest.raises(TooManyConsumers):
        world.remote(short=False)


def test_reader_of_a_gateway_that_drains_fails_with_it_and_settles_still(world: LinkedWorld) -> None:
    client = world.remote()
    client.read(3)
    world.serving.drain()
    world.turn()
    assert isinstance(client.failed[0], Draining)
    client.reader.finish()
    client.wire.confirm()
    client.wire.close(orderly=True)
    world.turn()
    assert world.committed() == 3
    # the gateway of another client's poll joins the group, and has its partitions when they are free
    with pytest.raises(NotHere):
        world.remote()


def test_gateway_that_holds_nothing_says_so(world: LinkedWorld) -> None:
    world.member.revoke(0)
    world.turn()
    with pytest.raises(NotHere):
        world.remote()


def test_state_of_the_home_is_told_where_it_changes(world: LinkedWorld) -> None:
    client = world.remote()
    client.read(21)
    assert client.reader.available_since is not None
    assert not client.reader.expects()
    world.membership.failed(Unavailable("the coordinator is away"))
    Deferred.fromCoroutine(world.serving.tell_states())
    world.turn()
    assert isinstance(client.reader.last_error, Unavailable)
    assert client.reader.last_error.detail == "the coordinator is away"


def test_what_a_websockets_pong_says_is_settled(world: LinkedWorld) -> None:
    client = world.remote()
    client.read(4)
    client.reader.settled({0: 2})
    for _ in range(3):
        world.clock.advance(0.5)
        world.turn()
    assert world.committed() == 3


@pytest.mark.parametrize(
    "counts",
    [Counts(2, 0), Counts(0, 1), Counts(1, 4)],
    ids=["more-batches-than-passed", "read-before-sent", "more-records-than-sent"],
)
def test_counts_that_cannot_be_end_the_link(world: LinkedWorld, counts: Counts) -> None:
    client = world.remote()
    assert client.reader.take(3, 1000) is not None
    stream = next(iter(world.pipe.near._streams.values()))
    stream.send(messages.settle(counts))
    with pytest.raises(BadFrame):
        world.pipe.pump()
    world.pipe.lose(GatewayUnavailable("cut"))


def test_batch_that_was_not_asked_for_ends_the_link(world: LinkedWorld) -> None:
    world.remote()
    stream = next(iter(world.pipe.far._streams.values()))
    stream.send(messages.batch(Batch(0, 0, [Record(0, 0, None, b"x")], None, 0.0)))
    with pytest.raises(BadFrame):
        world.pipe.pump()
    world.pipe.lose(GatewayUnavailable("cut"))


def test_record_that_is_too_large_for_a_link_fails_its_reader_and_stays(world: LinkedWorld) -> None:
    client = world.remote()
    client.read(20)
    world.store.append("t", 0, b"x" * (1 << 20))
    world.turn()
    with pytest.raises(GatewayUnavailable):
        client.reader.take(1, 1000)
    assert isinstance(client.failed[0], GatewayUnavailable)
    assert "max_frame_bytes" in client.failed[0].detail
    client.reader.finish()
    client.wire.confirm()
    client.wire.close(orderly=True)
    world.turn()
    assert world.committed() == 20


@pytest.mark.parametrize("cut", [1, 5, 20, 30, -1])
def test_batch_that_is_cut_off_is_refused(cut: int) -> None:
    records = [Record(7, 1, b"k", b"v", (("n", b"x"), ("m", None))), Record(9, 2, None, None)]
    message = messages.batch(Batch(3, 5, records, [2, 1], 0.0))
    whole: Any = messages.batch_of(message, 1.0)
    assert (whole.partition, whole.start, whole.records, whole.attempts) == (3, 5, records, [2, 1])
    with pytest.raises(Malformed):
        messages.batch_of(message[:cut], 1.0)


def test_reader_of_another_gateway_that_cannot_be_told_keeps_no_other_from_being_told(
    world: LinkedWorld, logged_errors: list[dict[str, Any]]
) -> None:
    class Broken:
        waits = True

        def tell_state(self) -> None:
            raise ZeroDivisionError

        def fail(self, _error: object) -> None:
            raise ZeroDivisionError

    broken: Any = Broken()
    world.serving._readers[broken] = None
    client = world.remote(mode="explicit", short=False)
    Deferred.fromCoroutine(world.serving.tell_states())
    world.serving.drain()
    world.turn()
    assert [type(error) for error in client.failed] == [Draining]
    assert len(logged_errors) == 2
    logged_errors.clear()
