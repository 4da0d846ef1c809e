"""A client that is given nothing at its gateway reads at another as well; the home holds partition 0, this one 1."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from links_in_memory import Pipe
from test_memberships import Client, Wire, stop
from test_passing import HOME, KEY, SELF, Linked, TwoGateways
from twisted.internet.defer import Deferred

from kateway.cluster.interface import Holders
from kateway.core.delivery.batch import Ack
from kateway.core.delivery.moved_leases import decode
from kateway.core.groups.wanted import Wanted
from kateway.core.passing.joined_reader import LONGEST_PAUSE_SECONDS, JoinedReader
from kateway.errors import Denied, GatewayGone, GatewayUnavailable, Unavailable


class Shared(TwoGateways):
    def __init__(self) -> None:
        super().__init__(2)
        for partition in range(2):
            self.store.append("t", partition, *(b"%d" % number for number in range(10)))
        former = self.at_home()
        self.member.give(0)
        self.turn()
        former.reader.finish()
        self.directory.kept = Holders(1, {0: HOME})
        self.client = self.ask_reader(partitions=2)
        self.member.give(1)
        self.directory.kept = Holders(2, {0: HOME, 1: SELF})

    def at_home(self, short: bool = True) -> Client:
        """A client of the home's own."""
        wire = Wire()
        client = Client(self, self.groups.reader(KEY, Wanted(short=short), wire), wire)
        self.clients.append(client)
        self.turn()
        return client

    def pass_time(self, seconds: float, step: float = 0.05) -> None:
        super().pass_time(seconds, step)

    def read(self, client: Client, seconds: float = 1.0, count: int = 1000) -> list[tuple[int, int]]:
        """What comes within some time: partitions and offsets."""
        got = len(client.got)
        for _ in range(round(seconds / 0.05)):
            client.read(count - (len(client.got) - got))
            self.pass_time(0.05)
        return [(partition, offset) for partition, offset, _ in client.got[got:]]


@pytest.fixture
def world() -> Iterator[Shared]:
    world = Shared()
    yield world
    for client in world.clients:
        client.wire.close(orderly=False)
    world.passing.stop()
    Deferred.fromCoroutine(world.others.stop(0))
    stop(world)


HERE = [(1, offset) for offset in range(10)]
AWAY = [(0, offset) for offset in range(10)]


def test_client_gets_the_records_of_another_gateway_after_those_of_its_own(world: Shared) -> None:
    assert world.client.read(10) == list(range(10))
    assert world.read(world.client) == AWAY
    assert world.client.got == [(partition, offset, 1) for partition, offset in HERE + AWAY]
    world.client.wire.confirm()
    world.client.reader.finish()
    world.client.wire.ask()
    world.pass_time(2)
    assert world.committed(0) == world.committed(1) == 10
    assert world.store.commits["g", "t", 0].metadata == ""


def test_records_expected_until_the_other_gateway_has_answered(world: Shared) -> None:
    world.client.read(10)
    assert world.client.read() == []
    assert world.client.reader.expects()
    assert world.read(world.client) == AWAY
    assert world.read(world.client) == []
    assert not world.client.reader.expects()


def test_batch_that_came_for_more_room_than_is_left_is_asked_for_anew(world: Shared) -> None:
    world.client.read(10)
    assert world.client.read() == []
    world.pass_time(0.1)
    assert world.client.read() == []  # ten records of the other gateway are on their way, as many as there are
    world.pass_time(0.1)
    assert world.read(world.client, count=3) == AWAY[:3]
    assert world.read(world.client) == AWAY[3:]
    assert [attempt for _, _, attempt in world.client.got] == [1] * 20


def test_spare_reader_gives_way_to_a_client_of_the_home(world: Shared) -> None:
    world.client.read(10)
    assert world.read(world.client) == AWAY
    world.client.wire.ask()
    world.store.append("t", 0, b"later")
    own = world.at_home(short=False)
    world.pass_time(0.2)
    assert own.read() == [10]
    assert not world.client.failed
    assert list(world.membership.readers) == [own.reader]
    world.store.append("t", 1, b"later")
    assert world.read(world.client) == [(1, 10)]
    own.reader.finish()
    own.wire.ask()
    world.store.append("t", 0, b"last")
    assert world.read(world.client, 2 * LONGEST_PAUSE_SECONDS) == [(0, 11)]


def test_spare_reader_does_not_keep_the_home_in_the_group(world: Shared) -> None:
    world.client.read(10)
    assert world.read(world.client) == AWAY
    world.client.wire.ask()
    world.read(world.client, world.config.linger_seconds + 3)
    assert not world.groups.groups
    assert not world.client.failed
    assert world.committed(0) == 10


def test_spare_reader_with_records_in_flight_at_all_times_does_not_keep_the_home_in_the_group(world: Shared) -> None:
    world.client.read(10)
    assert world.read(world.client) == AWAY
    for number in range(int(world.config.linger_seconds) + 3):
        world.store.append("t", 0, b"%d" % number)
        if world.groups.groups:
            assert world.ledger(0).in_flight
        world.read(world.client, 1.0)  # not confirmed, so not settled
    assert not world.groups.groups


def test_leases_of_a_spare_reader_do_not_keep_the_home_in_the_group_and_move_with_the_partition(
    world: Shared,
) -> None:
    mode = {"mode": "explicit", "ack_timeout": 600}
    world.client.reader.finish()
    world.client.wire.ask()
    world.pass_time(0.2)
    spare = world.reader(spare=True, **mode)  # type: ignore[arg-type]
    assert len(spare.read(3)) == 3
    world.pass_time(world.config.linger_seconds + 3)
    assert not world.groups.groups
    found = [committed.metadata for (_, _, partition), committed in world.store.commits.items() if partition == 0]
    assert [len(decode(0, text).leases) for text in found] == [3]


def test_home_that_ends_gives_its_records_to_the_next(world: Shared) -> None:
    world.client.read(10)
    assert world.read(world.client, count=4) == AWAY[:4]
    world.pipe.lose(GatewayGone("it has ended"))
    world.pass_time(0.2)
    assert not world.client.failed
    second = world.at_home()
    assert second.read() == list(range(10))


def test_response_that_carried_later_records_of_another_gateway_is_cut_off(world: Shared) -> None:
    world.client.read(10)
    assert world.read(world.client) == AWAY
    world.pipe.lose(GatewayGone("it has ended"))
    world.pass_time(0.2)
    # what its client had not settled comes again, which is no part of the same response
    world.pipe = Pipe(world.clock, world.serving)
    world.linking.there[HOME] = Linked(world.pipe, world.clock)
    with pytest.raises(Unavailable, match="read again from offset 0"):
        world.read(world.client)
    assert [error.retriable for error in world.client.failed] == [True]


def test_store_that_refuses_to_say_which_gateways_there_are_is_asked_seldom_and_not_waited_for(world: Shared) -> None:
    world.client.read(10)
    world.directory.kept = Denied("not authorised")
    before = len(world.directory.asked)
    assert world.read(world.client, 30) == []
    assert 5 <= len(world.directory.asked) - before <= 12
    assert not world.client.failed
    world.client.reader.finish()


def test_client_that_was_moved_reads_what_its_own_gateway_is_given_later(world: Shared) -> None:
    world.client.read(10)
    world.client.wire.ask()
    own = world.store.subscriptions[-1]
    own.lose(1)
    own.give()
    world.directory.kept = Holders(2, {0: HOME, 1: HOME})
    world.pass_time(1)
    assert world.client.reader.gateway == "home"
    world.directory.kept = Holders(2, {0: HOME, 1: SELF})
    world.store.append("t", 1, b"later")
    own.give(1)
    assert set(world.read(world.client)) == {*AWAY, (1, 10)}
    assert not world.client.failed


def test_home_that_is_away_is_asked_again_seldom_and_seldomer(world: Shared) -> None:
    world.linking.there[HOME] = GatewayUnavailable("it hangs")
    world.client.read(10)
    before = world.passing.counts.get("read", 0)
    assert world.read(world.client, 30) == []
    assert 5 <= world.passing.counts["read"] - before <= 12
    # its client is not told that there is nothing
    assert world.client.reader.last_error is world.linking.there[HOME]
    world.linking.there[HOME] = GatewayGone("it has ended")
    world.read(world.client, 15)
    assert world.client.reader.last_error is None


def test_gateway_that_holds_every_partition_asks_no_other(world: Shared) -> None:
    world.member.give(0, 1)
    world.turn()
    world.client.read()
    asked = len(world.directory.asked)
    world.pass_time(5)
    assert len(world.directory.asked) == asked


def test_client_that_goes_while_another_gateway_is_asked_leaves_nothing(world: Shared) -> None:
    world.client.read(10)
    world.client.read()
    world.clock.advance(0.03)  # the request is on its way
    world.client.reader.finish()
    world.client.wire.close(orderly=True)
    world.pass_time(0.5)
    assert not world.membership.readers
    assert world.membership.idle()


def test_topic_of_one_partition_is_read_at_one_gateway(world: Shared) -> None:
    found = world.run(world.passing.reader(KEY, Wanted(partitions=1), wire := Wire()))
    assert not isinstance(found, JoinedReader)
    found.finish()
    wire.close(orderly=True)


def test_leased_records_of_both_gateways_are_acknowledged_at_one(world: Shared) -> None:
    world.client.wire.close(orderly=False)
    world.client.reader.finish()
    world.pass_time(0.2)
    client = world.ask_reader(mode="explicit", partitions=2)
    assert sorted(world.read(client)) == sorted(AWAY + HERE)
    found, answered = world.pass_acks(*[Ack(partition, offset) for partition, offset in HERE + AWAY])
    assert found == [None] * 20
    assert answered == {"home", "self"}
