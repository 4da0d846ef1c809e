"""The gateway's steps: repeated publishes, topics made, partitions and offsets refused, and the breaker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
from store_in_memory import MemoryStore
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from kateway.config.schema import DeliveryConfig
from kateway.core.access.control import Place
from kateway.core.breaker import Breaker, BreakerConfig, Breakers
from kateway.core.elastic_topics import ElasticTopics
from kateway.core.gateway import Gateway, Publish, TopicCreation
from kateway.core.groups.memberships import Memberships
from kateway.core.idempotency import Answered, Idempotency, Use, _Entry
from kateway.core.inflight_shares import InflightShares
from kateway.core.reads import Start
from kateway.errors import (
    Draining,
    IdempotencyKeyReused,
    InvalidRecord,
    KatewayError,
    MalformedBatch,
    OffsetOutOfRange,
    OutcomeUnknown,
    Overloaded,
    PartitionNotFound,
    StoreUnavailable,
    TooLarge,
    TopicNotFound,
    Unavailable,
)
from kateway.model import Committed, HandedOff, Message, Receipt
from kateway.registry import plans
from kateway.registry.interface import Application, Elastic, Placement, Topic
from kateway.storage.interface import At, Outcome
from kateway.storage.partitioner import by_jump

Step = Callable[[Sequence[Message]], list[Outcome]]


def written(messages: Sequence[Message]) -> list[Outcome]:
    return [Receipt(0, number) for number, _ in enumerate(messages)]


def failing(*errors: Exception) -> Step:
    """Messages fail one after the other with these; the rest are written."""
    return lambda messages: [*errors, *written(messages)][: len(messages)]  # type: ignore[return-value]


class Store(MemoryStore):
    """Answers publishes as it is told, step by step, and keeps what it was given; offsets as of its logs."""

    def __init__(self, clock: Clock, *steps: Step) -> None:
        super().__init__(clock)
        self.steps = list(steps)
        self.given: list[list[bytes | None]] = []
        self.times: list[float] = []
        self.acks: list[int] = []
        self.moved: dict[str, Any] = {}

    def publish(self, topic: str, messages: Sequence[Message], acks: int, deadline: float) -> Deferred[list[Outcome]]:
        self.given.append([message.value for message in messages])
        self.times.append(self.clock.seconds())
        self.acks.append(acks)
        if topic not in self.logs:
            return succeed([TopicNotFound(topic) for _ in messages])
        return succeed((self.steps.pop(0) if self.steps else written)(messages))

    async def offsets(self, topic: str, at: At) -> dict[int, int]:
        return {p: 0 if at == "earliest" else self.end(topic, p) for p in range(len(self.logs[topic]))}

    def undecided(self, topic: str, partition: int) -> bool:
        return False

    async def reset(self, group: str, topic: str, offsets: dict[int, int]) -> None:
        self.moved[group] = dict(offsets)


class MemoryHandoff:
    """Keeps the messages that it takes; the topic ``unseen`` it does not take."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, bytes | None]] = []

    def holds(self, topic: str) -> bool:
        return any(topic == each for each, _ in self.kept)

    def take(
        self, topic: str, messages: Sequence[Message], deadline: float, otherwise: KatewayError
    ) -> Deferred[list[Outcome]]:
        if topic == "unseen":
            return succeed([otherwise] * len(messages))
        self.kept += [(topic, message.value) for message in messages]
        return succeed([HandedOff(len(self.kept)) for _ in messages])


class World:
    """A gateway over one store with the topic ``t`` of two partitions."""

    def __init__(self, *steps: Step, create: bool = False, handoff: bool = False) -> None:
        self.clock = Clock()
        self.store = Store(self.clock, *steps)
        self.store.make("t", 2)
        self.handoff = MemoryHandoff()
        groups = Memberships(lambda _name: self.store, self.clock, DeliveryConfig())  # type: ignore[arg-type, return-value]
        self.breakers = Breakers({"default": BreakerConfig()}, self.clock.seconds)
        self.gateway = Gateway(
            {"default": TopicCreation(create, 3, 1)},
            self.breakers,
            Idempotency(self.clock, lambda: 0),
            groups,
            self.clock,
            {"default": self.handoff} if handoff else None,  # type: ignore[dict-item]
        )

    def place(self, topic: str = "t") -> Place:
        return Place("default", self.store, topic)  # type: ignore[arg-type]

    def publish(self, *values: bytes, topic: str = "t", seconds: float = 5.0, retries: int = 3) -> list[Any]:
        """The outcomes, in a list that fills when they are known."""
        messages = [Message(value) for value in values]
        found: list[Any] = []
        publish = Publish(self.place(topic), messages, -1, self.clock.seconds() + seconds, retries)
        self.gateway.publish(publish).addCallback(found.extend)
        return found

    def batch(self, *partitions: int | None, topic: str = "t") -> Any:
        messages = [Message(b"v", None, (), partition) for partition in partitions]
        return self.now(self.gateway.publish_batch(Publish(self.place(topic), messages, -1, 5.0, 0)))

    @staticmethod
    def now(work: Any) -> Any:
        """The result of work that must be done at once; raises its failure."""
        done = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        found: list[Any] = []
        failed: list[Any] = []
        done.addCallbacks(found.append, failed.append)
        if failed:
            raise failed[0].value
        return found[0]


def test_application_with_its_share_under_way_is_refused_while_another_publishes() -> None:
    world = World()
    waiting: list[Deferred[list[Outcome]]] = []

    def publish(topic: str, messages: Sequence[Message], acks: int, deadline: float) -> Deferred[list[Outcome]]:
        waiting.append(Deferred())
        return waiting[-1]

    world.store.publish = publish  # type: ignore[method-assign]
    world.gateway._shares = {"default": InflightShares(100_000)}

    def ask(application: str) -> list[Any]:
        found: list[Any] = []
        publish = Publish(world.place(), [Message(b"x" * 1000)], -1, 5.0, 0, application=application)
        world.gateway.publish(publish).addCallbacks(found.extend, found.append)
        return found

    flood = [ask("flood") for _ in range(100)]
    refused = [found for found in flood if found]
    assert 10 < len(refused) < 50
    assert all(isinstance(found[0], Overloaded) for found in refused)
    assert ask("calm") == []
    waiting[0].callback([Receipt(0, 0)])
    waiting[1].errback(ZeroDivisionError("the store broke"))
    assert ask("flood") == []
    world.gateway._shares["default"].release("calm", world.gateway._shares["default"].held("calm"))


def test_written_messages_are_answered_at_once() -> None:
    world = World()
    assert world.publish(b"a", b"b") == [Receipt(0, 0), Receipt(0, 1)]
    assert world.clock.getDelayedCalls() == []


def test_only_messages_that_surely_were_not_written_are_tried_again() -> None:
    gone, refused = OutcomeUnknown("no answer"), InvalidRecord("no")
    world = World(failing(gone, Unavailable("no leader"), refused))
    found = world.publish(b"a", b"b", b"c", b"d")
    assert found == []
    world.clock.advance(0.05)
    assert found == [gone, Receipt(0, 0), refused, Receipt(0, 0)]
    assert world.store.given == [[b"a", b"b", b"c", b"d"], [b"b"]]


def test_pauses_between_retries_double() -> None:
    ill = failing(Unavailable("no leader"))
    world = World(ill, ill, ill, ill)
    found = world.publish(b"a")
    world.clock.pump([0.05, 0.1, 0.2, 0.4])
    assert [round(time, 2) for time in world.store.times] == [0.0, 0.05, 0.15, 0.35]
    assert isinstance(found[0], Unavailable)


def test_no_retry_is_made_that_would_begin_after_the_deadline() -> None:
    world = World(failing(Unavailable("no leader")), failing(Unavailable("no leader")))
    found = world.publish(b"a", seconds=0.1)
    world.clock.pump([0.05] * 4)
    assert len(world.store.given) == 2
    assert isinstance(found[0], Unavailable)


def test_without_retries_a_failure_is_told_at_once() -> None:
    assert isinstance(World(failing(Unavailable("no leader"))).publish(b"a", retries=0)[0], Unavailable)


def test_a_store_without_room_is_not_asked_again() -> None:
    world = World(failing(Overloaded("full")))
    assert isinstance(world.publish(b"a")[0], Overloaded)
    assert len(world.store.given) == 1


def test_a_topic_is_made_where_that_is_allowed() -> None:
    world = World(create=True)
    assert world.publish(b"a", topic="new") == [Receipt(0, 0)]
    assert world.store.partitions("new") == 3


def test_else_it_is_not() -> None:
    world = World()
    assert isinstance(world.publish(b"a", topic="new")[0], TopicNotFound)
    assert world.store.partitions("new") is None
    with pytest.raises(TopicNotFound):
        world.now(world.gateway.topic(world.place("new"), create=True))


def test_a_batch_that_names_a_partition_that_does_not_exist_writes_nothing() -> None:
    world = World()
    with pytest.raises(MalformedBatch, match="partition 2"):
        world.batch(0, 2, None)
    assert world.store.given == []
    assert world.batch(0, 1, None) == [Receipt(0, 0), Receipt(0, 1), Receipt(0, 2)]


def test_a_batch_may_name_the_partitions_of_a_topic_that_it_makes() -> None:
    world = World(create=True)
    assert world.batch(2, topic="new") == [Receipt(0, 0)]
    with pytest.raises(MalformedBatch):
        world.batch(3, topic="newer")


def test_lag_is_from_the_committed_offset_or_from_all_there_is() -> None:
    world = World()
    world.store.append("t", 0, *[b"v"] * 5)
    world.store.append("t", 1, *[b"v"] * 3)
    world.store.commits["g", "t", 0] = Committed(4)
    lags = world.now(world.gateway.lag(world.place(), "g"))
    assert [(lag.partition, lag.end, lag.committed, lag.lag) for lag in lags] == [(0, 5, 4, 1), (1, 3, None, 3)]


def test_a_reset_takes_a_place_in_time_or_offsets_that_exist() -> None:
    world = World()
    world.store.append("t", 0, *[b"v"] * 5)
    reset = world.gateway.reset
    world.now(reset(world.place(), "g", "latest"))
    assert world.store.moved["g"] == {0: 5, 1: 0}
    world.now(reset(world.place(), "g", {0: 5}))
    assert world.store.moved["g"] == {0: 5}
    with pytest.raises(OffsetOutOfRange):
        world.now(reset(world.place(), "g", {0: 6}))
    with pytest.raises(PartitionNotFound):
        world.now(reset(world.place(), "g", {2: 0}))
    assert world.store.moved["g"] == {0: 5}


def test_questions_about_a_topic_that_does_not_exist_are_refused() -> None:
    world = World(create=True)
    gateway, place = world.gateway, world.place("none")
    for question in (
        gateway.ends(place),
        gateway.lag(place, "g"),
        gateway.committed(place, "g"),
        gateway.acknowledge(place, "g", [], sync=False),
        gateway.read(place, 0, Start("earliest")).first(0, 1),
        gateway.read(place, None, Start("last", 1)).first(0, 1),
        gateway.read(place, None, Start("timestamp", 1)).first(0, 1),
    ):
        with pytest.raises(TopicNotFound):
            world.now(question)
    assert world.store.partitions("none") is None


def test_reading_a_partition_that_does_not_exist_is_refused() -> None:
    world = World()
    with pytest.raises(PartitionNotFound):
        world.now(world.gateway.read(world.place(), 2, Start("earliest")).first(0, 1))


# --- the breaker ---------------------------------------------------------------------------------------------------


def open_breaker(world: World) -> None:
    breaker = world.breakers["default"]
    for _ in range(20):
        breaker.failed(Unavailable("away"), 0.0)
    world.clock.advance(13)
    breaker.look(world.clock.seconds(), False)
    assert breaker.state == "open"


def test_publishes_that_fail_for_the_stores_sake_are_counted_once_each() -> None:
    world = World(*[failing(Unavailable("away"), Unavailable("away"), TooLarge())] * 3, failing(TooLarge()))
    for _ in range(3):
        world.publish(b"a", b"b", b"c", retries=0)
    world.publish(b"a", retries=0)
    assert world.breakers["default"].failures == 3
    assert world.breakers["default"].successes == 0


def test_batches_of_which_one_partition_fails_are_successes_and_never_open_the_breaker() -> None:
    world = World(*[failing(Unavailable("no leader"))] * 40)
    breaker = world.breakers["default"]
    for _ in range(40):
        world.publish(b"a", b"b", retries=0)
        world.clock.advance(0.5)
        breaker.look(world.clock.seconds(), True)
    assert (breaker.state, breaker.failures, breaker.successes) == ("closed", 0, 40)


def test_message_that_is_written_when_it_is_tried_again_is_a_success() -> None:
    world = World(failing(Unavailable("away")))
    world.publish(b"a")
    world.clock.advance(0.06)
    assert world.breakers["default"].successes == 1


def test_publishes_without_acks_that_fail_do_not_open_the_breaker() -> None:
    world = World(failing(Unavailable("away")))
    world.gateway.publish(Publish(world.place(), [Message(b"b")], 0, 5.0, 0))
    assert world.breakers["default"].failures == 0


def test_publish_that_is_written_is_counted_and_one_without_acks_is_not() -> None:
    world = World()
    world.publish(b"a")
    assert world.breakers["default"].successes == 1
    world.gateway.publish(Publish(world.place(), [Message(b"b")], 0, 5.0, 0))
    assert world.breakers["default"].successes == 1


def test_open_breaker_refuses_at_once_and_the_store_is_not_asked() -> None:
    world = World()
    open_breaker(world)
    outcomes = world.publish(b"a", b"b")
    assert [outcome.code for outcome in outcomes] == ["store-unavailable"] * 2
    assert world.batch(0, 99, topic="unknown")[0].code == "store-unavailable"
    assert world.store.given == []


def test_half_open_breaker_lets_one_publish_through_and_closes_when_it_is_written() -> None:
    world = World(failing(Unavailable("away")), written)
    open_breaker(world)
    breaker = world.breakers["default"]
    world.clock.advance(1)
    breaker.look(world.clock.seconds(), True)
    assert world.publish(b"a", retries=0)[0].code == "unavailable"
    assert breaker.state == "open"
    world.clock.advance(2)
    breaker.look(world.clock.seconds(), True)
    assert world.publish(b"b") == [Receipt(0, 0)]
    assert breaker.state == "closed"
    assert world.publish(b"c") == [Receipt(0, 0)]


def half_open(world: World) -> Breaker:
    open_breaker(world)
    world.clock.advance(1)
    breaker = world.breakers["default"]
    breaker.look(world.clock.seconds(), True)
    assert breaker.state == "half_open"
    return breaker


def test_publish_refused_for_its_applications_share_leaves_the_probe_to_the_next() -> None:
    world = World()
    shares = world.gateway._shares = {"default": InflightShares(1000)}
    shares["default"].take("", 990)
    breaker = half_open(world)
    assert world.publish(b"a" * 500)[0].code == "overloaded"
    shares["default"].release("", 990)
    assert world.publish(b"b") == [Receipt(0, 0)]
    assert breaker.state == "closed"


@pytest.mark.parametrize("late", [False, True])
def test_probe_whose_store_breaks_leaves_the_probe_to_the_next(late: bool) -> None:
    world = World()
    world.gateway._shares = {"default": InflightShares(1000)}
    breaker = half_open(world)
    written_to = world.store.publish

    def broken(topic: str, messages: Sequence[Message], acks: int, deadline: float) -> Deferred[list[Outcome]]:
        if late:
            return fail(ZeroDivisionError("a fault"))
        raise ZeroDivisionError("a fault")

    world.store.publish = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        World.now(world.gateway.publish(Publish(world.place(), [Message(b"a")], -1, 5.0, 0)))
    world.store.publish = written_to  # type: ignore[method-assign]
    assert breaker.state == "half_open"
    assert world.publish(b"b") == [Receipt(0, 0)]
    assert breaker.state == "closed"


def test_share_is_held_while_a_publish_is_tried_again() -> None:
    world = World(failing(Unavailable("no leader")))
    shares = InflightShares(1000)
    world.gateway._shares = {"default": shares}
    found = world.publish(b"a")
    assert shares.held("") > 0
    world.clock.advance(1)
    assert found == [Receipt(0, 0)]
    assert shares.held("") == 0


def test_publishes_that_give_the_store_no_chance_neither_open_the_breaker_nor_keep_it_open() -> None:
    world = World(*[failing(Unavailable("not in time"))] * 60)
    breaker = world.breakers["default"]

    def hasty() -> Any:
        began = world.clock.seconds()
        publish = Publish(world.place(), [Message(b"v")], -1, began + 0.01, 0, began)
        return World.now(world.gateway.publish(publish))[0]

    for _ in range(30):
        assert isinstance(hasty(), Unavailable)
        world.clock.advance(1)
        breaker.look(world.clock.seconds(), True)
    assert (breaker.state, breaker.failures) == ("closed", 0)
    open_breaker(world)
    world.clock.advance(1)
    breaker.look(world.clock.seconds(), True)
    assert isinstance(hasty(), Unavailable)
    assert breaker.state == "half_open"
    world.store.steps.clear()
    assert world.publish(b"patient") == [Receipt(0, 0)]
    assert breaker.state == "closed"


def test_key_whose_publish_is_known_to_be_written_is_answered_while_the_breaker_is_open() -> None:
    world = World()
    use = Use("app", "t", "v1", "k", b"one")
    publish = Publish(world.place(), [Message(b"v")], -1, 5.0, 0)
    world.gateway._idempotency._entries[use[:4]] = _Entry(b"one", 1000.0, [Receipt(0, 7)], None)
    open_breaker(world)
    assert World.now(world.gateway.publish_once(use, publish, batch=False)) == Answered([Receipt(0, 7)], True)
    with pytest.raises(IdempotencyKeyReused):
        World.now(world.gateway.publish_once(use._replace(fingerprint=b"two"), publish, batch=False))
    with pytest.raises(StoreUnavailable):
        World.now(world.gateway.publish_once(use._replace(key="l"), publish, batch=False))


def test_half_open_breaker_closes_by_a_publish_without_acks_too() -> None:
    world = World()
    open_breaker(world)
    world.clock.advance(1)
    world.breakers["default"].look(world.clock.seconds(), True)
    assert World.now(world.gateway.publish(Publish(world.place(), [Message(b"b")], 0, 5.0, 0))) == [Receipt(0, 0)]
    assert world.breakers["default"].state == "closed"


# --- the handoff ---------------------------------------------------------------------------------------------------


def test_open_breaker_hands_messages_off_but_not_those_that_decline_or_whose_topic_is_not_taken() -> None:
    world = World(handoff=True)
    open_breaker(world)
    assert world.publish(b"a", b"b") == [HandedOff(2), HandedOff(2)]
    declined = Publish(world.place(), [Message(b"c")], -1, 5.0, 0, 0.0, False)
    assert World.now(world.gateway.publish(declined))[0].code == "store-unavailable"
    assert world.publish(b"d", topic="unseen")[0].code == "store-unavailable"
    assert world.handoff.kept == [("t", b"a"), ("t", b"b")]
    assert world.store.given == []


def test_messages_go_behind_those_of_their_topic_that_are_kept_and_none_overtakes_them() -> None:
    world = World(handoff=True)
    world.handoff.kept = [("t", b"old")]
    world.store.make("u", 1)
    assert world.publish(b"a") == [HandedOff(2)]
    declined = Publish(world.place(), [Message(b"b")], -1, 5.0, 0, 0.0, False)
    assert World.now(world.gateway.publish(declined))[0].code == "store-unavailable"
    assert world.publish(b"c", topic="u") == [Receipt(0, 0)]
    assert world.store.given == [[b"c"]]


def test_message_that_surely_was_not_written_by_its_deadline_is_kept_and_one_that_may_be_is_not() -> None:
    world = World(failing(Unavailable("never sent"), OutcomeUnknown("no answer"), TooLarge()), handoff=True)
    outcomes = world.publish(b"a", b"b", b"c", b"d", retries=0)
    assert outcomes[0] == HandedOff(1)
    assert [outcome.code for outcome in outcomes[1:3]] == ["outcome-unknown", "too-large"]
    assert outcomes[3] == Receipt(0, 0)
    assert world.handoff.kept == [("t", b"a")]


def test_full_gateway_and_one_that_stops_hand_nothing_off() -> None:
    world = World(failing(Overloaded()), failing(Draining()), handoff=True)
    assert world.publish(b"a", retries=0)[0].code == "overloaded"
    assert world.publish(b"b", retries=0)[0].code == "draining"
    assert world.handoff.kept == []


def test_record_that_its_store_would_write_too_late_is_kept_and_says_nothing_to_the_breaker() -> None:
    world = World(failing(Overloaded("the broker takes less than arrives", late=True)), handoff=True)
    assert world.publish(b"a", retries=0) == [HandedOff(1)]
    assert world.breakers["default"].failures == 0
    without = World(failing(Overloaded("the broker takes less than arrives", late=True)))
    assert without.publish(b"a", retries=0)[0].code == "overloaded"


def test_kept_message_is_no_success_for_the_breaker() -> None:
    world = World(failing(Unavailable("away")), handoff=True)
    world.publish(b"a", retries=0)
    assert (world.breakers["default"].failures, world.breakers["default"].successes) == (1, 0)


def test_publish_with_a_key_is_written_with_all_acks_and_never_handed_off() -> None:
    world = World(written, failing(Unavailable("away")), handoff=True)

    async def publish(_use: Any, _place: Any, _count: int, messages: Any, _deadline: float, write: Any) -> Any:
        return Answered(await write(messages), False)

    world.gateway._idempotency.publish = publish  # type: ignore[method-assign]
    for key in ("k", "l"):
        asked = Publish(world.place(), [Message(b"v")], 1, world.clock.seconds() + 5.0, 0)
        work = world.gateway.publish_once(Use("app", "t", "v1", key, b""), asked, batch=False)
        Deferred.fromCoroutine(work)
    assert world.store.acks == [-1, -1]
    assert world.handoff.kept == []


def test_publish_with_a_key_waits_for_its_topic_no_longer_than_its_deadline() -> None:
    world = World()

    async def never(_name: str) -> Any:
        await Deferred()

    world.store.topic = never  # type: ignore[method-assign]
    failed: list[Any] = []
    publish = Publish(world.place(), [Message(b"v")], -1, world.clock.seconds() + 5.0, 0)
    work = world.gateway.publish_once(Use("app", "t", "v1", "k", b""), publish, batch=False)
    Deferred.fromCoroutine(work).addErrback(lambda failure: failed.append(failure.value))
    world.clock.advance(4.9)
    assert failed == []
    world.clock.advance(0.2)
    assert isinstance(failed[0], Unavailable)
    assert world.store.given == []


class Uncounted:
    """Counts nothing."""

    def held(self, messages: int) -> None: ...

    def not_released(self, messages: int) -> None: ...


def elastic_of(world: World, partitions: int) -> ElasticTopics:
    """The topic ``t`` with so many partitions in force."""
    elastic = ElasticTopics(
        {"default": world.store},  # type: ignore[dict-item]
        world.clock,
        lambda: None,
        Uncounted(),
        lambda: None,
        lambda: succeed(None),
        lease_seconds=0,
        max_held_bytes=100_000,
    )
    topic = Topic(application="app1", topic="t", version="v1", storage_name="t", elastic=Elastic())
    placement = Placement(application="app1", topic="t", version="v1", partitions=partitions)
    elastic.update(plans.build([Application(name="app1"), topic, placement], 1))
    world.gateway._elastic = elastic.topics
    return elastic


def test_key_of_a_topic_that_has_grown_is_looked_for_in_all_its_partitions() -> None:
    world = World()
    looked: list[int] = []
    shown = 2

    async def topics() -> Any:
        nonlocal shown
        shown = 4

    async def publish(_use: Any, _place: Any, count: int, messages: Any, _deadline: float, write: Any, _e: Any) -> Any:
        looked.append(count)
        return Answered(await write([message._replace(partition=3) for message in messages]), False)

    world.store.make("t", 4)
    world.store.partitions = lambda _topic: shown  # type: ignore[method-assign]
    world.store.topics = topics  # type: ignore[attr-defined]
    world.gateway._idempotency.publish = publish  # type: ignore[method-assign]
    elastic_of(world, 4).stop()
    publishing = Publish(world.place(), [Message(b"v", b"stays")], -1, 5.0, 0)
    answered = World.now(world.gateway.publish_once(Use("app", "t", "v1", "k", b""), publishing, batch=True))
    assert looked == [4]
    # its partition is the registry's word: it is not asked again whether there is such a one
    assert isinstance(answered.outcomes[0], Receipt)


def test_key_that_waited_for_a_growth_is_looked_for_in_the_partitions_of_then() -> None:
    world = World()
    elastic = elastic_of(world, 2)
    looked: list[int] = []

    async def publish(_use: Any, _place: Any, count: int, _messages: Any, _deadline: float, _w: Any, _e: Any) -> Any:
        looked.append(count)
        return Answered([], False)

    world.gateway._idempotency.publish = publish  # type: ignore[method-assign]
    topic = elastic.topics["default", "t"]
    placement = Placement(application="app1", topic="t", version="v1", partitions=2)
    world.store.make("t", 3)
    topic.take(attrs.evolve(placement, generation=2, state="announced", next_partitions=3), Elastic())
    moves = next(b"k%d" % n for n in range(100) if by_jump(b"k%d" % n, 2) != by_jump(b"k%d" % n, 3))
    publishing = Publish(world.place(), [Message(b"v", moves)], -1, 5.0, 0)
    Deferred.fromCoroutine(world.gateway.publish_once(Use("app", "t", "v1", "k", b""), publishing, batch=False))
    assert looked == []
    world.store.make("t", 4)
    topic.take(attrs.evolve(placement, generation=4, partitions=4), Elastic())
    assert looked == [4]


def test_batch_under_a_key_that_names_a_partition_that_is_not_there_is_malformed() -> None:
    world = World()
    for elastic in (False, True):
        if elastic:
            elastic_of(world, 2)
        messages = [Message(b"v", None, (), 1), Message(b"v", None, (), 2)]
        publishing = Publish(world.place(), messages, -1, 5.0, 0)
        with pytest.raises(MalformedBatch, match="names partition 2, but t has 2"):
            World.now(world.gateway.publish_once(Use("app", "t", "v1", "k", b""), publishing, batch=True))
        assert world.store.given == []


def test_keyed_message_of_an_elastic_topic_is_placed_by_the_registry_and_never_handed_off() -> None:
    away: Step = lambda messages: [StoreUnavailable("away") for _ in messages]  # noqa: E731
    world = World(*[away] * 20, handoff=True)
    elastic = ElasticTopics(
        {"default": world.store},  # type: ignore[dict-item]
        world.clock,
        lambda: None,
        Uncounted(),
        lambda: None,
        lambda: succeed(None),
        lease_seconds=0,
        max_held_bytes=0,
    )
    topic = Topic(application="app1", topic="t", version="v1", storage_name="t", elastic=Elastic())
    placement = Placement(application="app1", topic="t", version="v1", partitions=2)
    elastic.update(plans.build([Application(name="app1"), topic, placement], 1))
    world.gateway._elastic = elastic.topics
    found: list[Any] = []
    messages = [Message(b"1", b"key"), Message(b"2")]
    for message in messages:
        publish = Publish(world.place(), [message], -1, 5.0, 0)
        world.gateway.publish(publish).addCallback(found.extend)
    assert [type(each) for each in found] == [StoreUnavailable, HandedOff]
    assert world.handoff.kept == [("t", b"2")]
    # while messages are kept it waits its turn: not written before them, nor kept
    world.gateway.publish(Publish(world.place(), messages[:1], -1, 5.0, 0)).addCallback(found.extend)
    assert isinstance(found[-1], StoreUnavailable)
    assert world.handoff.kept == [("t", b"2")]
