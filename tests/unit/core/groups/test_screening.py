"""Groups whose records go out through transforms: what is passed over, shown otherwise, refused, and committed."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from test_memberships import World, joined, stop

from kateway.core.delivery.batch import Ack
from kateway.core.transforms.expressions import Expression
from kateway.core.transforms.in_force import TransformsInForce, View
from kateway.core.transforms.pipeline import Pipeline
from kateway.errors import Conflict, TransformFailed, Unavailable
from kateway.loop_turns import MOST_EXAMINED
from kateway.registry.interface import Snapshot, Transforms

NAME = ("app", "t", "v1")


class Registered:
    """A registry's snapshot that can be replaced."""

    def __init__(self, *steps: dict[str, Any], on_error: Any = "dead") -> None:
        self.put(*steps, on_error=on_error)
        self.in_force = TransformsInForce(lambda: self.snapshot, lambda: 0.0)

    def put(self, *steps: dict[str, Any], on_error: Any = "dead") -> None:
        entry = Transforms(application="app", topic="t", version="v1", outgoing=steps, on_error=on_error)
        self.snapshot = Snapshot(transforms=MappingProxyType({NAME: entry} if steps else {}))

    def view(self, wanted: str = "", *, dead: bool = False) -> View:
        return View(self.in_force, "app", NAME, Expression.compile(wanted) if wanted else None, dead=dead)


def view(*steps: dict[str, Any], wanted: str = "", on_error: Any = "dead") -> View:
    return Registered(*steps, on_error=on_error).view(wanted)


def world_of(seen: View, *values: bytes, partitions: int = 1) -> World:
    world = World(partitions)
    world.view = seen
    world.store.append("t", 0, *(values or [b"%d" % number for number in range(20)]))
    return world


EVEN = {"drop": "int(record.value) % 2 == 0"}


def shown(client: Any, count: int = 100) -> list[bytes]:
    """Values as a client is given them."""
    found: list[bytes] = []
    while len(found) < count and (batch := client.reader.take(count - len(found), 1 << 20)) is not None:
        found += [record.value for record in batch.records]
        client.leases += batch.leases or []
        client.reader.sent(batch, client.wire.write(batch))
    return found


def test_dropped_records_are_never_given_and_count_as_delivered() -> None:
    world = world_of(view(EVEN))
    client = joined(world, world.reader())
    assert client.read() == list(range(1, 20, 2))
    client.wire.confirm()
    client.wire.close(orderly=True)
    world.turn()
    assert world.committed() == 20
    stop(world)


def test_records_that_are_all_dropped_are_committed_without_a_delivery_and_wake_no_client() -> None:
    world = world_of(view({"drop": "true"}))
    client = joined(world, world.reader())
    called = client.called
    assert client.read() == []
    world.clock.advance(2)
    assert world.committed() == 20
    world.fill(5)
    assert client.called == called + 1  # a look, which finds nothing
    assert client.read() == []
    world.clock.advance(2)
    assert world.committed() == 25
    stop(world)


def test_dropped_records_before_and_behind_a_batch_in_flight_wait_for_it() -> None:
    world = world_of(view({"drop": "record.value != '5'"}))
    client = joined(world, world.reader())
    assert client.read() == [5]
    world.clock.advance(1.5)
    assert world.committed() in {None, 5}
    client.wire.confirm()
    client.wire.close(orderly=False)
    world.turn()
    again = world.reader()
    assert again.read() == [5]
    again.wire.confirm()
    again.wire.close(orderly=True)
    world.clock.advance(2)
    assert world.committed() == 20
    stop(world)


def test_explicit_readers_lease_what_is_shown_and_commit_across_what_is_dropped() -> None:
    world = world_of(view(EVEN))
    client = joined(world, world.reader(mode="explicit"))
    assert client.read(3) == [1, 3, 5]
    assert world.acknowledge(Ack(0, 1), Ack(0, 3), Ack(0, 5)) == [None, None, None]
    world.clock.advance(2)
    assert world.committed() in {6, 7}
    client.read()
    world.acknowledge(Ack(0, 19, upto=True))
    world.clock.advance(2)
    assert world.committed() == 20
    stop(world)


def test_values_are_shown_changed_and_come_back_changed() -> None:
    world = world_of(view({"mask": ["/a"]}), b'{"a":"secret"}', b'{"a":"hidden"}')
    client = joined(world, world.reader(mode="explicit", ack_timeout=2.0))
    masked = [b'{"a":"****"}', b'{"a":"****"}']
    assert shown(client) == masked
    world.clock.pump([0.25] * 20)
    assert shown(client) == masked
    client.wire.close(orderly=False)
    world.turn()
    stop(world)


def test_changed_transforms_go_into_force_between_two_records_of_a_stream() -> None:
    registered = Registered({"mask": ["/a"]})
    world = world_of(registered.view(), b'{"a":1}', b'{"a":2}', b'{"a":3}')
    client = joined(world, world.reader())
    assert shown(client, 1) == [b'{"a":"****"}']
    registered.put()
    assert shown(client, 1) == [b'{"a":2}']
    registered.put({"drop": "true"})
    assert shown(client, 1) == []
    stop(world)


def test_lease_that_comes_back_is_judged_by_the_transforms_of_then() -> None:
    registered = Registered({"mask": ["/a"]})
    world = world_of(registered.view(), b'{"a":1}', b'{"a":2}')
    client = joined(world, world.reader(mode="explicit", ack_timeout=2.0))
    shown(client)
    registered.put({"drop": "record.json.a == 1"})
    world.clock.pump([0.25] * 20)
    assert shown(client) == [b'{"a":2}']
    world.acknowledge(Ack(0, 1))
    world.clock.advance(2)
    assert world.committed() == 2
    stop(world)


@pytest.mark.parametrize("mode", ["auto", "explicit"])
def test_record_on_which_a_step_fails_goes_to_the_dead_letters_as_it_is_stored(mode: str) -> None:
    world = world_of(view({"mask": ["/a"]}), b'{"a":1}', b"no JSON", b'{"a":2}')
    client = joined(world, world.reader(mode=mode))
    assert shown(client) == [b'{"a":"****"}'] * 2
    world.clock.pump([0.1] * 5)
    (dead,) = world.store.logs["t.g.dead"][0]
    assert dead.value == b"no JSON"
    assert dict(dead.headers)["kateway-dead-reason"].startswith(b"transform-failed: ")
    if mode == "explicit":
        world.acknowledge(Ack(0, 0), Ack(0, 2))
    else:
        client.wire.confirm()
        client.wire.close(orderly=True)
    world.clock.advance(2)
    assert world.committed() == 3
    stop(world)


def test_record_that_cannot_be_written_to_the_dead_letters_is_not_committed() -> None:
    world = world_of(view({"mask": ["/a"]}), b"no JSON", b'{"a":2}')
    world.store.refuse_publish = Unavailable("away")
    client = joined(world, world.reader())
    assert shown(client) == [b'{"a":"****"}']
    client.wire.confirm()
    client.wire.close(orderly=True)
    world.clock.advance(2)
    assert world.committed() in {None, 0}
    stop(world)


def test_on_error_pass_shows_the_record_as_it_is() -> None:
    world = world_of(view({"mask": ["/a"]}, on_error="pass"), b"no JSON", b'{"a":2}')
    client = joined(world, world.reader())
    assert shown(client) == [b"no JSON", b'{"a":"****"}']
    stop(world)


def test_on_error_stop_ends_the_stream_behind_the_records_before_and_loses_none() -> None:
    registered = Registered({"mask": ["/a"]}, on_error="stop")
    world = world_of(registered.view(), b'{"a":1}', b"no JSON", b'{"a":2}')
    client = joined(world, world.reader())
    assert shown(client, 1) == [b'{"a":"****"}']
    with pytest.raises(TransformFailed):
        client.reader.take(10, 1 << 20)
    client.wire.confirm()
    client.wire.close(orderly=True)
    world.clock.advance(2)
    assert world.committed() == 1
    registered.put()
    assert shown(world.reader()) == [b"no JSON", b'{"a":2}']
    stop(world)


def test_dead_letter_on_which_a_step_fails_ends_the_stream() -> None:
    world = world_of(Registered({"mask": ["/a"]}).view(dead=True), b"no JSON")
    client = joined(world, world.reader())
    with pytest.raises(TransformFailed):
        client.reader.take(10, 1 << 20)
    stop(world)


def test_readers_of_one_group_have_the_same_filter() -> None:
    world = world_of(view(wanted="record.value == '7'"), partitions=2)
    joined(world, world.reader())
    world.view = view(wanted="record.value == '8'")
    with pytest.raises(Conflict):
        world.reader()
    world.view = view(wanted="record.value == '7'")
    world.reader()
    stop(world)


def test_filter_is_true_of_no_record_that_it_cannot_be_asked_of() -> None:
    world = world_of(view(wanted="record.json.a > 1"), b'{"a":1}', b"no JSON", b'{"b":2}', b'{"a":2}')
    client = joined(world, world.reader())
    assert shown(client) == [b'{"a":2}']
    client.wire.confirm()
    client.wire.close(orderly=True)
    world.clock.advance(2)
    assert world.committed() == 4
    stop(world)


def test_one_turn_examines_so_many_records_and_the_next_goes_on() -> None:
    world = world_of(view({"drop": "record.value != 'last'"}), *[b"x"] * (3 * MOST_EXAMINED), b"last")
    client = joined(world, world.reader())
    taken = 0
    while (batch := client.reader.take(1, 1 << 20)) is None:
        taken += 1
        assert taken < 10
        called = client.called
        world.turn()
        assert client.called == called + 1
    assert batch.records[0].value == b"last"
    assert taken == 3
    stop(world)


def test_lag_of_what_is_dropped_goes_to_nothing() -> None:
    world = world_of(view(EVEN))
    client = joined(world, world.reader())
    client.read()
    client.wire.confirm()
    client.wire.close(orderly=True)
    world.clock.advance(2)
    assert world.store.end("t", 0) == world.committed()
    stop(world)


def test_record_passed_over_between_a_kept_and_a_refused_one_is_done_with() -> None:
    world = world_of(
        view({"drop": "record.json.drop == true"}),
        b'{"drop":false}',
        b'{"drop":true}',
        b"no JSON",
        b'{"drop":false}',
    )
    client = joined(world, world.reader(mode="explicit"))
    assert len(shown(client)) == 2
    world.acknowledge(Ack(0, 0), Ack(0, 3))
    world.clock.pump([0.1] * 30)
    assert world.committed() == 4
    stop(world)


def test_step_that_breaks_refuses_its_record_and_holds_up_none_behind_it(logged_errors: list[Any]) -> None:
    class Odd:
        kind = "odd"

        def run(self, seen: Any, _now: float) -> Any:
            if seen.value == b"3":
                raise ZeroDivisionError("a fault")
            return seen

        def table(self) -> dict[str, Any]:
            return {}

    registered = Registered({"drop": "false"})
    entry = registered.snapshot.transforms[NAME]
    pipeline = Pipeline((Odd(),))
    registered.in_force._compiled[id(entry)] = (entry, (pipeline, pipeline))
    world = world_of(registered.view())
    client = joined(world, world.reader())
    assert len(shown(client)) == 19
    client.wire.confirm()
    client.wire.close(orderly=True)
    world.clock.pump([0.1] * 30)
    assert world.committed() == 20
    assert len(world.store.logs["t.g.dead"][0]) == 1
    assert len(logged_errors) == 1
    logged_errors.clear()
    stop(world)


def test_leases_that_come_back_are_examined_a_turn_at_a_time() -> None:
    registered = Registered({"mask": ["/a"]})
    world = world_of(registered.view(), *[b'{"a":1}'] * (2 * MOST_EXAMINED + 10))
    client = joined(world, world.reader(mode="explicit", ack_timeout=2.0))
    while shown(client, 1000):
        world.turn()
    registered.put({"drop": "true"})
    world.clock.pump([0.25] * 20)
    turns = 0
    while world.ledger(0).leases.items:
        assert client.reader.take(100, 1 << 20) is None
        world.turn()
        turns += 1
        assert turns < 10
    assert turns >= 2
    world.clock.pump([0.1] * 30)
    assert world.committed() == 2 * MOST_EXAMINED + 10
    stop(world)
