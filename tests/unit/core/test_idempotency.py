"""Idempotency keys: each is written once, though answers get lost and gateways are replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from kateway.core.access.control import Place
from kateway.core.idempotency import Answered, Idempotency, Use, fingerprint
from kateway.core.key_index import HEADER, ONE_READ_BYTES, SCOPE_HEADER
from kateway.errors import (
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    KatewayError,
    OffsetOutOfRange,
    OutcomeUnknown,
    TooLarge,
    Unavailable,
)
from kateway.model import Message, Receipt, Record, TopicInfo
from kateway.storage.interface import At, Fetched, Outcome
from kateway.storage.partitioner import by_key

PARTITIONS = 2


class Store:
    """Partitions as lists. ``fates`` say what becomes of the next publishes; ``late`` ones are written when decided."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.logs: list[list[Record]] = [[] for _ in range(PARTITIONS)]
        self.fates: list[str] = []
        self.late: list[tuple[Message, bool]] = []
        self.bytes_read = 0
        self.at_once = 3
        self.visible = 1 << 40
        """Records from here on are of an open transaction."""

    def now_ms(self) -> int:
        return round(self.clock.seconds() * 1000)

    async def topic(self, topic: str) -> TopicInfo:
        return TopicInfo(topic, len(self.logs))

    async def offsets(self, topic: str, at: At) -> Mapping[int, int]:
        if at == "earliest":
            return dict.fromkeys(range(len(self.logs)), 0)
        # as Kafka: for readers of committed records an open transaction is the end
        ends = {number: min(len(log), self.visible) for number, log in enumerate(self.logs)}
        if at == "latest":
            return ends
        return {
            number: min(next((record.offset for record in log if record.timestamp >= int(at)), len(log)), ends[number])
            for number, log in enumerate(self.logs)
        }

    async def read(self, topic: str, partition: int, offset: int, *, max_bytes: int, wait_seconds: float) -> Fetched:
        assert max_bytes == ONE_READ_BYTES
        await succeed(None)
        log = self.logs[partition]
        if offset > len(log):
            raise OffsetOutOfRange("beyond the end")
        records = log[offset : offset + self.at_once][: max(self.visible - offset, 0)]
        self.bytes_read += sum(len(record.value or b"") for record in records)
        return Fetched(records, offset + len(records), min(len(log), self.visible))

    def undecided(self, topic: str, partition: int) -> bool:
        return any(message.partition == partition for message, _ in self.late)

    def decide(self) -> None:
        late, self.late = self.late, []
        for message, is_written in late:
            if is_written:
                self.append(message)

    def append(self, message: Message) -> Receipt:
        assert message.partition is not None
        log = self.logs[message.partition]
        timestamp = self.now_ms() if message.timestamp is None else message.timestamp
        log.append(Record(len(log), timestamp, message.key, message.value, message.headers))
        return Receipt(message.partition, len(log) - 1)

    async def write(self, messages: Sequence[Message]) -> list[Outcome]:
        return [self._write(message) for message in messages]

    def _write(self, message: Message) -> Outcome:
        match self.fates.pop(0) if self.fates else "written":
            case "written":
                return self.append(message)
            case "refused":
                return Unavailable("not just now")
            case "answer lost":
                self.append(message)
                return OutcomeUnknown("no answer")
            case "lost":
                return OutcomeUnknown("no answer")
            case fate:
                self.late.append((message, fate == "written late"))
                return OutcomeUnknown("no answer yet")

    def count(self, key: str) -> int:
        return sum(1 for log in self.logs for record in log if (HEADER, key.encode()) in record.headers)


class World:
    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.clock.advance(100_000)
        self.store = Store(self.clock)
        self.options = options
        self.restart()

    def restart(self) -> None:
        """Another gateway, which knows nothing."""
        self.keys = Idempotency(self.clock, self.store.now_ms, **self.options)

    def publish(
        self,
        key: str,
        *values: bytes,
        seconds: float = 5.0,
        write: Callable[[Sequence[Message]], Awaitable[list[Outcome]]] | None = None,
        application: str = "app",
        timestamp: int | None = None,
    ) -> list[Any]:
        """The answer, or the error, in a list that fills when it is there."""
        messages = [Message(value, timestamp=timestamp) for value in values]
        use = Use(application, "t", "v1", key, fingerprint(messages, -1, len(messages) > 1))
        place = Place("default", self.store, "t")  # type: ignore[arg-type]
        deadline = self.clock.seconds() + seconds
        work = self.keys.publish(use, place, len(self.store.logs), messages, deadline, write or self.store.write)
        found: list[Any] = []
        Deferred.fromCoroutine(work).addCallbacks(found.append, lambda failure: found.append(failure.value))
        return found


KEYS = [f"k{number}" for number in range(20)]


def grow(world: World, partitions: int) -> None:
    world.store.logs += [[] for _ in range(partitions - len(world.store.logs))]


@pytest.mark.parametrize("restarted", [True, False])
def test_repeat_after_partitions_were_added_is_found_where_the_first_was_placed(restarted: bool) -> None:
    world = World()
    world.store.logs = [[]]
    # another gateway, which has looked at the topic before it grew, and knows none of the keys
    other = Idempotency(world.clock, world.store.now_ms)
    world.keys, mine = other, world.keys
    world.publish("first", b"v")
    world.keys = mine
    first = {key: world.publish(key, b"v", key.encode())[0].outcomes for key in KEYS}
    grow(world, 7)
    if restarted:
        world.restart()
    else:
        world.keys = other
    for key in KEYS:
        (again,) = world.publish(key, b"v", key.encode())
        assert (again.replayed, again.outcomes) == (True, first[key])
        assert world.store.count(key) == 2
    (reused,) = world.publish(KEYS[0], b"another")
    assert reused.code == "idempotency-key-reused"


def test_topic_that_has_its_partitions_for_long_is_read_in_one_of_them() -> None:
    world = World()
    grow(world, 4)
    for log in world.store.logs:
        log.append(Record(0, world.store.now_ms() - 5_000_000, None, b"old", ()))
    world.restart()
    looked: list[int] = []
    find = world.keys._index.find

    async def counted(place: Place, partition: int, *args: Any, **options: Any) -> Any:
        looked.append(partition)
        return await find(place, partition, *args, **options)

    world.keys._index.find = counted  # type: ignore[method-assign]
    world.publish("k", b"v")
    assert looked == [by_key(b"k", 4)]
    grow(world, 5)
    looked.clear()
    world.publish("l", b"v")
    assert set(looked) == {by_key(b"l", count) for count in range(1, 6)}
    world.clock.advance(4000)
    looked.clear()
    world.publish("m", b"v")
    assert looked == [by_key(b"m", 5)]


def test_repeat_is_answered_as_the_first_time_and_writes_nothing() -> None:
    world = World()
    (first,) = world.publish("k", b"a")
    (again,) = world.publish("k", b"a")
    assert first == Answered(again.outcomes, False)
    assert again.replayed
    assert world.store.count("k") == 1


def test_another_gateway_finds_it_among_the_records() -> None:
    world = World()
    (first,) = world.publish("k", b"a")
    world.publish("other", b"b")
    world.restart()
    assert world.publish("k", b"a") == [Answered(first.outcomes, True)]
    assert world.store.count("k") == 1


@pytest.mark.parametrize("elsewhere", [False, True])
def test_key_of_another_request_is_refused(elsewhere: bool) -> None:
    world = World()
    world.publish("k", b"a")
    if elsewhere:
        world.restart()
    (refused,) = world.publish("k", b"b")
    assert isinstance(refused, IdempotencyKeyReused)


def test_key_whose_publish_was_refused_may_be_used_anew() -> None:
    world = World()
    world.store.fates = ["refused"]
    assert isinstance(world.publish("k", b"a")[0].outcomes[0], Unavailable)
    (other,) = world.publish("k", b"other")
    assert isinstance(other.outcomes[0], Receipt)


def test_repeat_while_the_first_is_under_way_waits_for_its_outcome() -> None:
    world = World()
    gate: Deferred[None] = Deferred()

    async def held(messages: Sequence[Message]) -> list[Outcome]:
        await gate
        return await world.store.write(messages)

    first = world.publish("k", b"a", write=held)
    second = world.publish("k", b"a")
    impatient = world.publish("k", b"a", seconds=1.0)
    foreign = world.publish("k", b"b")
    assert isinstance(foreign[0], IdempotencyKeyReused)
    world.clock.advance(1.1)
    assert isinstance(impatient[0], IdempotencyKeyInUse)
    gate.callback(None)
    assert first[0].outcomes == second[0].outcomes
    assert (first[0].replayed, second[0].replayed) == (False, True)
    assert world.store.count("k") == 1


def test_repeat_of_an_unknown_outcome_waits_until_it_is_decided() -> None:
    world = World()
    world.store.fates = ["written late"]
    assert isinstance(world.publish("k", b"a")[0].outcomes[0], OutcomeUnknown)
    again = world.publish("k", b"a")
    world.clock.advance(0.5)
    assert again == []
    world.store.decide()
    world.clock.advance(0.5)
    assert again[0].replayed
    assert world.store.count("k") == 1


def test_repeat_of_an_outcome_that_stays_unknown_is_refused_at_its_deadline() -> None:
    world = World()
    world.store.fates = ["written late"]
    world.publish("k", b"a")
    again = world.publish("k", b"a", seconds=1.0)
    world.clock.pump([0.1] * 15)
    assert isinstance(again[0], IdempotencyKeyInUse), "503 would say that nothing was written"


def test_of_a_batch_only_the_missing_records_are_written() -> None:
    world = World()
    world.store.fates = ["written", "refused", "answer lost"]
    (first,) = world.publish("k", b"a", b"b", b"b")
    assert [isinstance(outcome, Receipt) for outcome in first.outcomes] == [True, False, False]
    (again,) = world.publish("k", b"a", b"b", b"b")
    assert all(isinstance(outcome, Receipt) for outcome in again.outcomes)
    assert len(set(again.outcomes)) == 3
    assert world.store.count("k") == 3
    assert world.publish("k", b"a", b"b", b"b") == [Answered(again.outcomes, True)]


def test_key_is_free_when_its_window_is_over() -> None:
    world = World(window_seconds=100.0)
    world.publish("k", b"a")
    world.clock.advance(101)
    assert not world.publish("k", b"b")[0].replayed
    assert world.store.count("k") == 2


def test_outcome_that_was_forgotten_is_found_among_the_records() -> None:
    world = World(max_entries=2)
    for number in range(20):
        world.publish(f"k{number}", b"%d" % number)
    assert world.keys.evicted >= 17
    assert len(world.keys._entries) <= 3
    for number in range(20):
        assert world.publish(f"k{number}", b"%d" % number)[0].replayed


def test_window_that_is_too_long_to_be_read_is_read_in_several_attempts() -> None:
    world = World(scan_max_bytes=500)
    world.publish("k", b"a")
    for _ in range(50):
        world.store.append(Message(b"x" * 50, partition=0))
        world.store.append(Message(b"x" * 50, partition=1))
    world.restart()
    answers = []
    while not answers or isinstance(answers[-1], Unavailable):
        answers += world.publish("k", b"a")
    assert len(answers) > 2
    assert answers[-1].replayed


def test_callers_that_wait_for_one_partition_share_a_scan() -> None:
    world = World()
    for _ in range(100):
        world.store.append(Message(b"x" * 10, partition=0))
        world.store.append(Message(b"x" * 10, partition=1))
    for number in range(50):
        world.publish(f"k{number}", b"v")
    # once the window of both partitions, and then what was added since
    assert world.store.bytes_read < 2 * 100 * 10 + 50 * 10


def test_failed_look_fails_every_caller_that_waits_for_it() -> None:
    world = World()
    gate: Deferred[None] = Deferred()
    read = world.store.offsets

    async def away(topic: str, at: At) -> Mapping[int, int]:
        await gate
        raise Unavailable("away")

    world.store.offsets = away  # type: ignore[method-assign]
    asked = [world.publish(f"k{number}", b"v") for number in range(10)]
    gate.callback(None)
    assert all(isinstance(each[0], Unavailable) for each in asked)
    world.store.offsets = read  # type: ignore[method-assign]
    assert not world.publish("k1", b"v")[0].replayed


STEPS = st.sampled_from(["publish", "restart", "decide"])
FATES = st.sampled_from(["written", "written", "refused", "answer lost", "lost", "written late", "lost late"])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["publish", "restart", "decide"]), st.integers(0, 3), st.lists(FATES, max_size=3))
    ),
    st.integers(1, 5),
)
def test_every_key_is_written_once_whatever_becomes_of_answers(
    steps: list[tuple[str, int, list[str]]], entries: int
) -> None:
    world = World(max_entries=entries)
    bodies = {0: (b"a",), 1: (b"b",), 2: (b"a",), 3: (b"a", b"b", b"b")}
    for step, number, fates in steps:
        world.store.fates = list(fates)
        if step == "publish":
            world.publish(f"k{number}", *bodies[number], seconds=0.3)
            world.clock.pump([0.1] * 5)
        elif step == "restart":
            # what a gateway that ended had sent is decided before its successor serves
            world.store.decide()
            world.restart()
        else:
            world.store.decide()
    world.store.fates = []
    world.store.decide()
    for number, values in bodies.items():
        (answer,) = world.publish(f"k{number}", *values)
        assert isinstance(answer, Answered), repr(answer)
        assert all(isinstance(outcome, Receipt) for outcome in answer.outcomes)
        found = Counter(
            record.value for log in world.store.logs for record in log if (HEADER, b"k%d" % number) in record.headers
        )
        assert found == Counter(values)


def test_errors_of_the_caller_leave_the_key_free() -> None:
    world = World()

    async def refuse(_messages: Sequence[Message]) -> list[Outcome]:
        raise TooLarge

    assert isinstance(world.publish("k", b"a", write=refuse)[0], KatewayError)
    assert not world.publish("k", b"b")[0].replayed


def test_partitions_that_are_not_asked_for_any_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr("kateway.core.key_index.MOST_PARTITIONS", 3)
    for number in range(10):
        use = Use("app", f"t{number}", "v1", "k", b"")
        place = Place("default", world.store, f"t{number}")  # type: ignore[arg-type]
        work = world.keys.publish(use, place, 1, [Message(b"a")], world.clock.seconds() + 5, world.store.write)
        Deferred.fromCoroutine(work).addErrback(lambda _: None)
    index = world.keys._index
    assert len(index._partitions) == 3
    assert index._count == sum(len(part.keys) for part in index._partitions.values())


def test_keys_that_are_all_under_way_do_not_stop_another_one() -> None:
    world = World(max_entries=2)
    gate: Deferred[None] = Deferred()

    async def held(messages: Sequence[Message]) -> list[Outcome]:
        await gate
        return await world.store.write(messages)

    waiting = [world.publish(key, b"a", write=held) for key in "abcde"]
    gate.callback(None)
    assert all(isinstance(found[0], Answered) for found in waiting)


def test_key_of_another_application_is_another_key_though_the_topic_is_shared() -> None:
    world = World()
    world.publish("k", b"a", application="one")
    (other,) = world.publish("k", b"b", application="two")
    assert not other.replayed
    world.restart()
    assert world.publish("k", b"b", application="two")[0].replayed
    assert world.store.count("k") == 2


def test_record_that_is_dated_a_little_before_now_is_found_and_one_from_long_ago_is_refused() -> None:
    world = World(window_seconds=100.0)
    dated = world.store.now_ms() - 250_000
    world.store.fates = ["answer lost"]
    world.publish("k", b"a", timestamp=dated)
    world.restart()
    assert world.publish("k", b"a", timestamp=dated)[0].replayed
    (refused,) = world.publish("l", b"a", timestamp=1000)
    assert refused.code == "invalid-parameter"
    assert (world.store.count("k"), world.store.count("l")) == (1, 0)


def test_open_transaction_that_hides_records_is_no_proof_that_a_key_is_unused() -> None:
    world = World()
    world.store.visible = 0
    world.store.fates = ["answer lost"]
    world.publish("k", b"a")
    (hidden,) = world.publish("k", b"a")
    assert isinstance(hidden, IdempotencyKeyInUse)
    (new,) = world.publish("l", b"a")
    assert isinstance(new, Unavailable)
    world.store.visible = 1 << 40
    assert world.publish("k", b"a")[0].replayed
    assert world.store.count("k") == 1


def test_new_keys_beyond_the_bound_do_not_read_the_window_again_and_dropped_ones_are_found() -> None:
    world = World(max_entries=50)
    world.store.at_once = 1000
    for number in range(200):
        world.publish(f"k{number}", b"v" * 100)
    world.restart()
    for number in range(10):
        world.publish(f"new{number}", b"x")
    before = world.store.bytes_read
    for number in range(10):
        world.publish(f"other{number}", b"x")
    assert world.store.bytes_read - before < 200
    assert world.publish("k0", b"v" * 100)[0].replayed
    assert world.publish("k199", b"v" * 100)[0].replayed


def test_key_with_records_far_apart_is_found_whole_after_it_was_dropped() -> None:
    world = World(max_entries=1)
    world.store.at_once = 1000
    world.store.fates = ["written", "lost"]
    world.publish("k", b"a", b"b")
    for number in range(20):
        world.publish(f"other{number}", b"x")
    world.restart()
    assert all(isinstance(outcome, Receipt) for outcome in world.publish("k", b"a", b"b")[0].outcomes)
    for number in range(20, 40):
        world.publish(f"other{number}", b"x")
    world.restart()
    assert world.publish("k", b"a", b"b")[0].replayed
    assert world.store.count("k") == 2


@pytest.mark.parametrize("elsewhere", [False, True])
def test_repeat_whose_date_has_grown_old_is_answered_as_the_first(elsewhere: bool) -> None:
    world = World()
    dated = world.store.now_ms()
    (first,) = world.publish("k", b"a", timestamp=dated)
    world.clock.advance(3000)
    if elsewhere:
        world.restart()
    assert world.publish("k", b"a", timestamp=dated) == [Answered(first.outcomes, True)]


def test_record_behind_many_hidden_ones_is_no_unused_key() -> None:
    world = World()
    for _ in range(7):
        world.store.append(Message(b"open", partition=0))
        world.store.append(Message(b"open", partition=1))
    world.store.visible = 0
    world.restart()
    world.publish("k", b"a")
    assert world.store.count("k") == 0
    world.store.visible = 1 << 40
    assert not world.publish("k", b"a")[0].replayed
    world.store.visible = 3
    world.restart()
    assert isinstance(world.publish("k", b"a")[0], Unavailable)
    assert world.store.count("k") == 1


def test_records_that_can_be_read_a_moment_later_are_waited_for() -> None:
    world = World()
    world.publish("k", b"a")
    world.restart()
    world.store.visible = 0
    read = world.store.read

    async def soon(*arguments: Any, wait_seconds: float, **options: Any) -> Fetched:
        if wait_seconds:
            world.store.visible = 1 << 40
        return await read(*arguments, wait_seconds=wait_seconds, **options)

    world.store.read = soon  # type: ignore[method-assign]
    assert world.publish("k", b"a")[0].replayed


def test_scope_header_of_the_client_does_not_hide_its_key() -> None:
    world = World()
    message = Message(b"a", None, ((SCOPE_HEADER, b"0123456789abcdef"),))
    use = Use("app", "t", "v1", "k", b"")
    place = Place("default", world.store, "t")  # type: ignore[arg-type]
    answers: list[Any] = []
    for _ in range(2):
        world.restart()
        work = world.keys.publish(use, place, 2, [message], world.clock.seconds() + 5, world.store.write)
        Deferred.fromCoroutine(work).addCallback(answers.append)
    assert [answer.replayed for answer in answers] == [False, True]
