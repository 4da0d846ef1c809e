"""A membership by the classic protocol before a coordinator that answers by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from kateway.errors import KatewayError
from kateway.storage.kafka.cluster.connection import NoAnswer
from kateway.storage.kafka.consumer.group_protocol import COOPERATIVE, HEARTBEAT_INTERVAL_SECONDS, Membership
from kateway.storage.kafka.consumer.membership import ILLEGAL_GENERATION, REBALANCE, Joining
from kateway.storage.kafka.protocol import group_requests as wire
from kateway.storage.kafka.protocol.primitives import array, data, i16, i32, string

NAMES = {wire.JOIN_GROUP: "join", wire.SYNC_GROUP: "sync", wire.HEARTBEAT: "beat", wire.LEAVE_GROUP: "leave"}


class Sent(NamedTuple):
    """A request, the connections that it went over, and its answer."""

    name: str
    over: Connections
    answer: Deferred[bytes]
    body: bytes


class Connections:
    """A pool."""

    def __init__(self, cluster: Cluster) -> None:
        self.client_id = "test"
        self._cluster = cluster
        self.aborted = 0

    def request(self, _node: int, key: int, _version: int, body: bytes, **_options: Any) -> Deferred[bytes]:
        answer: Deferred[bytes] = Deferred()
        self._cluster.sent.append(Sent(NAMES[key], self, answer, body))
        return answer

    def abort(self, _node: int) -> None:
        self.aborted += 1

    def close(self) -> Deferred[None]:
        return succeed(None)


class Cluster:
    """Client and coordinators in one."""

    def __init__(self) -> None:
        self.reactor = Clock()
        self.sent: list[Sent] = []
        self.count: int | None = 4

    def watch(self, _changed: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    def partition_count(self, _topic: str) -> int | None:
        return self.count

    def refresh(self) -> Deferred[None]:
        return succeed(None)

    async def look_for(self, _topic: str) -> object:
        """The listing has come meanwhile."""
        self.count = 4
        return self

    def pool(self, _purpose: str, _client_id: str = "") -> Connections:
        return Connections(self)

    async def find(self, _group: str) -> int:
        return 1

    def forget(self, _group: str) -> None: ...

    async def join_version(self, _node: int) -> int:
        return wire.NAMING_JOIN_GROUP_VERSION

    def next(self, name: str) -> Sent:
        """The oldest request that is not answered."""
        sent = self.sent.pop(0)
        assert sent.name == name
        return sent

    def joins(self, generation: int) -> Sent:
        """Lets the member, which another one leads, into a generation."""
        join = self.next("join")
        said = i32(0) + i16(0) + i32(generation) + string(COOPERATIVE) + string("leader") + string("me") + array([])
        join.answer.callback(said)
        return join

    def syncs(self, error: int = 0) -> None:
        assignment = b"" if error else wire.encode_assignment({"t": [0]})
        self.next("sync").answer.callback(i16(error) + data(assignment))


class Holder:
    def __init__(self) -> None:
        self.owned: set[int] = set()
        self.dropped = False

    def take_over(self, partitions: frozenset[int]) -> None:
        self.owned |= partitions

    async def hand_over(self, partitions: frozenset[int]) -> None:
        self.owned -= partitions

    def drop(self) -> None:
        self.dropped = True

    def failed(self, error: KatewayError) -> None:
        raise error


def rejoining() -> tuple[Cluster, Holder, Membership]:
    """A member of generation 1 with partition 0, which joins again."""
    cluster, holder = Cluster(), Holder()
    membership = Membership(
        Joining(
            cluster,  # type: ignore[arg-type]
            cluster.pool("group"),  # type: ignore[arg-type]
            cluster,  # type: ignore[arg-type]
            holder,
            group="g",
            topic="t",
            session_timeout_seconds=10.0,
        )
    )
    membership.start()
    cluster.joins(1)
    cluster.syncs()
    assert holder.owned == {0}
    cluster.reactor.advance(HEARTBEAT_INTERVAL_SECONDS)
    cluster.next("beat").answer.callback(i16(REBALANCE))
    return cluster, holder, membership


def stop(cluster: Cluster, membership: Membership) -> None:
    stopping = Deferred.fromCoroutine(membership.stop())
    while cluster.sent:
        sent = cluster.sent.pop(0)
        if not sent.answer.called:
            sent.answer.callback(i16(0))
    assert stopping.called
    assert not cluster.reactor.getDelayedCalls()


def test_join_that_meets_another_rebalance_goes_over_the_same_connection_and_loses_nothing() -> None:
    cluster, holder, membership = rejoining()
    generation = membership.generation
    assert generation is not None
    first = cluster.joins(2)
    cluster.syncs(REBALANCE)
    # a commit of the generation that is over by now, in which the partition is ours still
    membership.refused({ILLEGAL_GENERATION}, generation)
    second = cluster.joins(3)
    assert second.over is first.over
    assert not first.over.aborted
    cluster.syncs()
    assert (holder.owned, holder.dropped) == ({0}, False)
    cluster.reactor.advance(HEARTBEAT_INTERVAL_SECONDS)
    cluster.next("beat").answer.callback(i16(0))
    assert first.over.aborted == 1  # an idle one is not kept
    stop(cluster, membership)


def test_commit_refused_behind_a_join_whose_answer_was_lost_loses_nothing() -> None:
    cluster, holder, membership = rejoining()
    generation = membership.generation
    assert generation is not None
    join = cluster.next("join")
    join.answer.errback(NoAnswer("the connection is gone"))
    assert join.over.aborted == 1
    membership.refused({ILLEGAL_GENERATION}, generation)
    cluster.reactor.advance(1)
    cluster.joins(3)
    cluster.syncs()
    assert (holder.owned, holder.dropped) == ({0}, False)
    stop(cluster, membership)


def test_commit_refused_in_a_generation_that_is_not_being_left_loses_the_partitions() -> None:
    cluster, holder, membership = rejoining()
    cluster.joins(2)
    cluster.syncs()
    assert membership.generation is not None
    membership.refused({ILLEGAL_GENERATION}, membership.generation)
    assert holder.dropped
    stop(cluster, membership)
