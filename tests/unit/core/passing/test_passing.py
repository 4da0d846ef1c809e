"""What a gateway passes on, to whom, and what it answers where the other one has lost the group, ended or hangs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from linked_world import LinkedWorld
from links_in_memory import Pipe
from test_memberships import Client, Wire, joined, stop
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from kateway.cluster.interface import Holders, Home
from kateway.config.schema import ClusterConfig
from kateway.core.delivery.batch import Ack
from kateway.core.groups.memberships import Memberships
from kateway.core.groups.wanted import Wanted
from kateway.core.passing.passing import PassingOn
from kateway.core.passing.serving import Serving
from kateway.errors import (
    Conflict,
    GatewayGone,
    GatewayUnavailable,
    GroupBusy,
    KatewayError,
    NotFound,
    NotHere,
    TooManyConsumers,
    Unavailable,
)

KEY = ("default", "g", "t")
HOME, OTHER, SELF = Home("home", "h:1"), Home("other", "o:1"), Home("self", "s:1")


class Directory:
    """Says what the test says; what is kept may be another than what is fresh."""

    def __init__(self) -> None:
        self.kept: Holders | KatewayError = Holders(1, {0: HOME})
        self.fresh: Holders | KatewayError | None = None
        self.next: list[Holders] = []
        """What is fresh the next times."""
        self.asked: list[bool] = []

    async def find(self, cluster: str, group: str, topic: str, *, fresh: bool = False) -> Holders:
        assert (cluster, group, topic) == KEY
        self.asked.append(fresh)
        found = self.fresh if fresh and self.fresh is not None else self.kept
        if fresh and self.next:
            found = self.next.pop(0)
        if isinstance(found, KatewayError):
            raise found
        return found


class Linked:
    """A link in memory, with the calls' bounds."""

    def __init__(self, pipe: Pipe, clock: Clock) -> None:
        self.peer = ""
        self._pipe = pipe
        self._clock = clock

    def call(self, request: bytes, timeout_seconds: float) -> Deferred[bytes]:
        answer = self._pipe.near.call(request)

        def late(_failure: object, _seconds: float) -> bytes:
            raise GatewayUnavailable("it did not answer")

        return answer.addTimeout(timeout_seconds, self._clock, late)

    def open(self, request: bytes, end: Any) -> Any:
        return self._pipe.near.open(request, end)


class Linking:
    """Links to the gateways that there are."""

    def __init__(self) -> None:
        self.there: dict[Home, Linked | KatewayError] = {}

    def link(self, home: Home) -> Deferred[Any]:
        found = self.there.get(home, GatewayGone("it has ended"))
        return fail(found) if isinstance(found, KatewayError) else succeed(found)


class TwoGateways(LinkedWorld):
    """The world's own gateway is the home; ``passing`` is of another one."""

    def __init__(self, partitions: int = 1) -> None:
        super().__init__(partitions)
        self.directory, self.linking = Directory(), Linking()
        self.linking.there[HOME] = Linked(self.pipe, self.clock)
        self.others = Memberships(lambda _: self.store, self.clock, self.config)  # type: ignore[arg-type, return-value]
        self.passing = PassingOn(
            "self", self.others, self.directory, self.linking, self.clock, ClusterConfig(request_timeout_seconds=2)
        )

    def pass_time(self, seconds: float, step: float = 0.1) -> None:
        """Lets it pass at both gateways and on the link between them."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            self.pipe.pump()

    def run(self, work: Coroutine[Any, Any, Any], seconds: float = 0.0) -> Any:
        found: list[Any] = []
        Deferred.fromCoroutine(work).addBoth(found.append)
        self.pass_time(seconds + 0.3)
        (outcome,) = found
        if hasattr(outcome, "raiseException"):
            outcome.raiseException()
        return outcome

    def pass_acks(self, *acks: Ack, sync: bool = False) -> tuple[list[KatewayError | None], set[str]]:
        answered: set[str] = set()
        return self.run(self.passing.acknowledge(KEY, acks, sync=sync, answered=answered), 3), answered

    def ask_reader(self, short: bool = True, partitions: int = 1, mode: Any = "auto") -> Client:
        wanted = Wanted(mode, short=short, partitions=partitions, names=("", "t", "v1", "g", ""))
        wire = Wire()
        client = Client(self, self.run(self.passing.reader(KEY, wanted, wire)), wire)
        self.clients.append(client)
        return client


@pytest.fixture
def make() -> Iterator[Callable[..., TwoGateways]]:
    made: list[TwoGateways] = []

    def make(partitions: int = 1) -> TwoGateways:
        world = TwoGateways(partitions)
        made.append(world)
        for partition in range(partitions):
            world.store.append("t", partition, *(b"%d" % number for number in range(10)))
        return world

    yield make
    for world in made:
        for client in world.clients:
            client.wire.close(orderly=False)
        world.passing.stop()
        Deferred.fromCoroutine(world.others.stop(0))
        stop(world)


@pytest.fixture
def world(make: Callable[..., TwoGateways]) -> TwoGateways:
    """The home has a client with leases on the first three records."""
    world = make()
    leased = joined(world, LinkedWorld.reader(world, mode="explicit"))
    world.clients.append(leased)
    assert leased.read(3) == [0, 1, 2]
    return world


def test_acknowledgement_goes_to_the_gateway_that_holds_the_partition(world: TwoGateways) -> None:
    found, answered = world.pass_acks(Ack(0, 0), Ack(0, 7), Ack(0, 1, lease="another"), sync=True)
    assert [type(each) for each in found] == [type(None), NotFound, Conflict]
    assert answered == {"home"}
    assert world.committed() == 1
    assert world.directory.asked == [False]


def test_gateway_that_holds_it_no_more_has_the_coordinator_asked_anew(world: TwoGateways) -> None:
    second = Memberships(lambda _: world.store, world.clock, world.config)  # type: ignore[arg-type, return-value]
    world.linking.there[OTHER] = Linked(Pipe(world.clock, Serving(second, None, world.clock)), world.clock)  # type: ignore[arg-type]
    world.directory.kept, world.directory.fresh = Holders(1, {0: OTHER}), Holders(1, {0: HOME})
    assert world.pass_acks(Ack(0, 0)) == ([None], {"home"})
    assert world.directory.asked == [False, True]


def test_acknowledgement_for_a_gateway_that_has_ended_is_what_the_commit_says(world: TwoGateways) -> None:
    world.pass_acks(Ack(0, 0), Ack(0, 2), sync=True)
    del world.linking.there[HOME]
    found, answered = world.pass_acks(Ack(0, 0), Ack(0, 1), Ack(0, 2), Ack(0, 0, upto=True))
    assert [type(each) for each in found] == [type(None), NotFound, type(None), type(None)]
    assert answered == {"self"}


def test_lease_that_a_gateway_left_is_acknowledged_at_one_that_joins_for_it(world: TwoGateways) -> None:
    Deferred.fromCoroutine(world.groups.stop(0))
    world.turn()
    del world.linking.there[HOME]
    world.directory.kept = Holders(0, {})
    found: list[Any] = []
    answered: set[str] = set()
    acks = [Ack(0, 0), Ack(0, 7), Ack(0, 1, lease="another")]
    work = world.passing.acknowledge(KEY, acks, sync=False, answered=answered)
    Deferred.fromCoroutine(work).addBoth(found.append)
    world.clock.pump([0.1] * 4)
    assert found == []
    assert world.others.groups == 1
    world.member.give(0)
    world.directory.kept = Holders(1, {0: SELF})
    world.clock.pump([0.1] * 10)
    assert [type(each) for each in found[0]] == [type(None), NotFound, Conflict]
    assert answered == {"self"}


def test_acknowledgement_of_a_lease_whose_partition_stays_away_is_to_be_repeated(world: TwoGateways) -> None:
    world.member.revoke(0)
    world.turn()
    del world.linking.there[HOME]
    world.directory.kept = Holders(2, {})
    work = world.passing.acknowledge(KEY, [Ack(0, 0), Ack(0, 7)], sync=False, answered=set())
    with pytest.raises(NotHere) as raised:
        world.run(work, 7)
    assert raised.value.retriable


def test_acknowledgement_waits_while_the_group_rebalances_and_the_coordinator_names_no_home(world: TwoGateways) -> None:
    world.directory.kept = Holders(0, {}, rebalancing=True)
    found: list[Any] = []
    work = world.passing.acknowledge(KEY, [Ack(0, 0)], sync=False, answered=set())
    Deferred.fromCoroutine(work).addBoth(found.append)
    world.clock.pump([0.1] * 10)
    assert found == []
    assert world.others.groups == 0
    world.directory.kept = Holders(1, {0: HOME})
    world.pass_time(1)
    assert found == [[None]]


def test_acknowledgement_finds_the_next_owner_that_came_and_committed_since_the_coordinator_was_asked(
    world: TwoGateways,
) -> None:
    world.directory.kept = Holders(1, {})
    world.directory.next = [Holders(1, {}), Holders(1, {0: HOME})]
    assert world.pass_acks(Ack(0, 0), sync=True) == ([None], {"home"})
    assert world.directory.asked == [False, True, True]


def test_acknowledgement_waits_while_the_coordinator_names_this_gateway_that_has_not_got_the_partition_yet(
    world: TwoGateways,
) -> None:
    world.directory.kept = Holders(1, {0: SELF})
    found: list[Any] = []
    work = world.passing.acknowledge(KEY, [Ack(0, 0)], sync=False, answered=set())
    Deferred.fromCoroutine(work).addBoth(found.append)
    world.clock.pump([0.1] * 10)
    assert found == []
    world.directory.kept = Holders(1, {0: HOME})
    world.pass_time(1)
    assert found == [[None]]


@pytest.mark.parametrize(
    "kept", [Holders(1, {0: SELF}), Holders(2, {1: OTHER}, rebalancing=True), Holders(2, {1: OTHER})]
)
def test_acknowledgement_of_a_partition_that_is_on_its_way_too_long_is_to_be_repeated(
    world: TwoGateways, kept: Holders
) -> None:
    world.directory.kept = kept
    work = world.passing.acknowledge(KEY, [Ack(0, 0)], sync=False, answered=set())
    with pytest.raises(NotHere):
        world.run(work, 7)


def test_acknowledgement_waits_for_a_process_that_an_upgrade_replaces_to_leave_its_group(world: TwoGateways) -> None:
    config = ClusterConfig(request_timeout_seconds=2)
    successor = PassingOn("gateway-a-0-22", world.others, world.directory, world.linking, world.clock, config)
    world.directory.kept = Holders(1, {0: Home("gateway-a-0-11", "h:1/0")})
    found: list[Any] = []
    work = successor.acknowledge(KEY, [Ack(0, 0)], sync=False, answered=set())
    Deferred.fromCoroutine(work).addBoth(found.append)
    world.clock.pump([0.1] * 10)
    assert found == []
    world.directory.kept = Holders(1, {0: HOME})
    world.pass_time(1)
    assert found == [[None]]


def test_acknowledgement_in_a_partition_that_is_no_gateways_or_not_there_is_answered_at_once(
    world: TwoGateways,
) -> None:
    world.directory.kept = Holders(1, {}, foreign=frozenset({0}))
    outcomes = world.run(world.passing.acknowledge(KEY, [Ack(0, 7), Ack(1, 0)], sync=False, answered=set()))
    assert [type(outcome) for outcome in outcomes] == [NotFound, NotFound]


def test_acknowledgement_over_a_link_that_ends_is_made_again(world: TwoGateways) -> None:
    linked = world.linking.there[HOME]
    assert isinstance(linked, Linked)
    ended: list[bytes] = []

    def end(request: bytes, _timeout_seconds: float) -> Deferred[bytes]:
        ended.append(request)
        del linked.call  # type: ignore[method-assign]
        return fail(GatewayUnavailable("the gateway is shutting down"))

    linked.call = end  # type: ignore[method-assign]
    assert world.pass_acks(Ack(0, 0)) == ([None], {"home"})
    assert len(ended) == 1


def test_acknowledgement_for_a_gateway_that_hangs_ends_in_time(world: TwoGateways) -> None:
    hanging = Pipe(world.clock, world.serving)
    hanging.far.receive = lambda _frame: None  # type: ignore[method-assign]
    world.linking.there[HOME] = Linked(hanging, world.clock)
    with pytest.raises(GatewayUnavailable):
        world.pass_acks(Ack(0, 0), Ack(0, 1))
    assert world.ledger(0).leases.items.keys() == {0, 1, 2}


def test_acknowledgements_of_several_gateways_are_answered_each_by_its_own(
    make: Callable[..., TwoGateways],
) -> None:
    world = make(2)
    leased = joined(world, LinkedWorld.reader(world, mode="explicit"))
    world.clients.append(leased)
    leased.read(20)
    world.directory.kept = Holders(2, {0: HOME, 1: OTHER})
    world.linking.there[OTHER] = GatewayUnavailable("it hangs")
    found, answered = world.pass_acks(Ack(1, 0), Ack(0, 0))
    assert [type(each) for each in found] == [GatewayUnavailable, type(None)]
    assert answered == {"home"}


def test_questions_are_answered_with_what_all_gateways_know(world: TwoGateways) -> None:
    answered: set[str] = set()
    found = world.run(world.passing.unacknowledged(KEY, answered))
    assert {partition: count for partition, (count, _) in found.items()} == {0: 3}
    assert answered == {"home"}
    with pytest.raises(GroupBusy):
        world.run(world.passing.let_go(KEY))
    world.clients[0].reader.finish()
    world.run(world.passing.let_go(KEY), 1)
    assert not world.groups.groups
    del world.linking.there[HOME]
    answered.clear()
    assert world.run(world.passing.unacknowledged(KEY, answered)) == {}
    assert answered == {"self"}
    world.run(world.passing.let_go(KEY))
    world.run(world.passing.dead_letters_written(KEY))


def test_reader_reads_elsewhere_where_a_membership_would_get_nothing(world: TwoGateways) -> None:
    client = world.ask_reader(mode="explicit")
    assert client.reader.gateway == "home"
    client.read(2)
    world.turn()
    assert client.read(2) or client.got
    assert not world.others.groups


@pytest.mark.parametrize(
    "holders", [Holders(1, {0: HOME}), Holders(0, {}), Holders(2, {}), Unavailable("it moves")],
    ids=["fewer-members-than-partitions", "no-member", "no-gateway-among-them", "coordinator-away"],
)  # fmt: skip
def test_reader_joins_where_a_membership_may_get_partitions(
    make: Callable[..., TwoGateways], holders: Holders | KatewayError
) -> None:
    world = make(2)
    world.directory.kept = holders
    client = world.ask_reader(partitions=2)
    assert client.reader.gateway == ""
    assert world.others.groups == 1


def test_reader_for_which_one_gateway_has_no_place_is_given_to_another(make: Callable[..., TwoGateways]) -> None:
    world = make(2)
    world.clients.append(joined(world, LinkedWorld.reader(world, short=False)))
    world.member.lose(1)
    world.turn()
    world.directory.kept = Holders(2, {0: HOME, 1: OTHER})
    second = Memberships(lambda _: world.store, world.clock, world.config)  # type: ignore[arg-type, return-value]
    pipe = Pipe(world.clock, Serving(second, None, world.clock))  # type: ignore[arg-type]
    world.linking.there[OTHER] = Linked(pipe, world.clock)
    local = second.reader(KEY, Wanted(), Wire())
    world.member.give(1)
    world.turn()
    local.finish()
    for _ in range(10):
        found: list[Any] = []
        wanted = Wanted(short=False, partitions=2, names=("", "t", "v1", "g", ""))
        Deferred.fromCoroutine(world.passing.reader(KEY, wanted, wire := Wire())).addBoth(found.append)
        for _ in range(6):
            world.clock.advance(0)
            world.pipe.pump()
            pipe.pump()
        assert found[0].gateway == "other"
        found[0].finish()
        wire.close(orderly=True)
        pipe.pump()
    world.linking.there[OTHER] = GatewayUnavailable("it hangs")
    with pytest.raises(TooManyConsumers):
        world.ask_reader(short=False, partitions=2)
    Deferred.fromCoroutine(second.stop(0))
    world.clock.pump([0.1] * 10)


def test_reader_whose_membership_got_nothing_moves_to_the_gateway_that_has_it(world: TwoGateways) -> None:
    world.directory.kept = Holders(0, {})
    client = world.ask_reader(mode="explicit")
    assert world.others.groups == 1
    world.directory.kept = Holders(2, {0: HOME})
    world.member.give()
    world.pass_time(1)
    assert client.reader.gateway == "home"
    assert client.called
    client.reader.take(4, 1000)
    world.turn()
    assert client.read(4) == [3, 4, 5, 6]
    assert not next(iter(world.others.members())).readers


def test_readers_move_though_the_coordinator_was_away_meanwhile(world: TwoGateways) -> None:
    world.directory.kept = Holders(0, {})
    client = world.ask_reader(mode="explicit")
    world.directory.kept = Unavailable("it moves")
    world.member.give()
    for kept in (Unavailable("it moves"), Holders(2, {0: HOME})):
        world.directory.kept = kept
        world.pass_time(2)
    assert client.reader.gateway == "home"


def test_reader_waits_while_a_rebalance_has_partitions_without_a_holder(make: Callable[..., TwoGateways]) -> None:
    world = make(2)
    joined(world, LinkedWorld.reader(world, mode="explicit"))
    world.directory.kept = Holders(0, {})
    client = world.ask_reader(mode="explicit", partitions=2)
    # the new member has nothing yet; the other gateway is about to give partition 1 up
    world.directory.kept = Holders(2, {0: HOME})
    world.member.give()
    world.pass_time(2)
    assert client.reader.gateway == ""
    # nothing comes: another program may have it
    world.pass_time(2)
    assert client.reader.gateway == "home"


def test_readers_move_no_more_when_the_gateway_stops(world: TwoGateways) -> None:
    world.directory.kept = Holders(0, {})
    world.ask_reader(mode="explicit")
    asked: Deferred[Holders] = Deferred()

    async def find(*_key: str, fresh: bool = False) -> Holders:
        world.directory.asked.append(fresh)
        return await asked

    world.directory.find = find  # type: ignore[method-assign]
    world.member.give()
    for _ in range(10):
        world.clock.advance(0.1)
    count = len(world.directory.asked)
    world.passing.stop()
    for _ in range(100):
        world.clock.advance(0.1)
    assert len(world.directory.asked) == count == 2


def test_reader_of_another_gateway_hears_that_the_partitions_have_gone(world: TwoGateways) -> None:
    client = world.ask_reader(mode="explicit")
    PassingOn("home", world.groups, world.directory, world.linking, world.clock, ClusterConfig())
    world.member.lose(0)
    world.member.give()
    world.pass_time(1)
    assert [error.code for error in client.failed] == ["not-here"]


def test_readers_move_though_those_of_a_membership_that_ended_were_about_to(world: TwoGateways) -> None:
    world.directory.kept = Holders(0, {})
    world.ask_reader(mode="explicit")
    world.member.give()
    # its topic was unregistered and made again, say: another membership takes its place
    world.member.listener.failed(Conflict("the topic is gone"))
    world.turn()
    world.directory.kept = Holders(0, {})
    client = world.ask_reader(mode="explicit")
    world.directory.kept = Holders(2, {0: HOME})
    world.member.give()
    world.pass_time(3)
    assert client.reader.gateway == "home"


def test_no_reader_moves_when_a_rebalance_comes_while_the_gateway_stops(world: TwoGateways) -> None:
    world.directory.kept = Holders(0, {})
    world.ask_reader(mode="explicit")
    world.passing.stop()
    count = len(world.directory.asked)
    world.member.give()
    world.pass_time(3)
    assert len(world.directory.asked) == count
