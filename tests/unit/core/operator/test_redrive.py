"""What a redrive does with what its topic says of each letter: acknowledge, go on, or end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.task import Clock

from kateway.core.access.control import Place
from kateway.core.delivery.batch import Ack, Batch
from kateway.core.gateway import Lag, Publish
from kateway.core.operator.naming import GroupPlace
from kateway.core.operator.redrive import STALL_SECONDS, Letter, Redrive
from kateway.errors import Denied, KatewayError, OutcomeUnknown, TooLarge, TopicNotFound, Unavailable
from kateway.model import Receipt, Record
from kateway.storage.interface import Outcome


class Store:
    def partitions(self, topic: str) -> int:
        return 1


class Reader:
    """A queue of one partition, taken two letters at a time."""

    def __init__(self, count: int) -> None:
        self.letters = [Record(offset, 0, None, b"%d" % offset) for offset in range(count)]
        self.held: list[Batch] = []
        self.late = False
        self.asked_for: dict[int, int] = {}
        self.over = False
        self.last_error = None

    def take(self, max_records: int, max_bytes: int) -> Batch | None:
        records, self.letters = self.letters[:2], self.letters[2:]
        if not records:
            return None
        self.held.append(Batch(0, records[0].offset, records, None, 0.0))
        return self.held[-1]

    def sent(self, batch: Batch, span: object) -> None:
        self.held.remove(batch)

    def expects(self, ends: Mapping[int, int]) -> bool:
        self.asked_for = dict(ends)
        return self.late

    def on_readable(self, callback: object) -> None: ...

    def on_failed(self, callback: object) -> None: ...

    def finish(self) -> None:
        self.over = True


class Parts:
    """Gateway and memberships, which note what is asked of them in its order."""

    def __init__(self, count: int, *outcomes: Outcome) -> None:
        self.clock = Clock()
        self.queue = Reader(count)
        self.outcomes = list(outcomes)
        self.seen: list[tuple[str, list[Any]]] = []
        self.count = count

    async def lag(self, place: Place, group: str) -> list[Lag]:
        assert (place.topic, group) == ("foo.g.dead", "g")
        return [Lag(0, self.count, 0, self.count, 0, 0.0)]

    async def dead_letters_written(self, *_key: str) -> None: ...

    def reader(self, _key: object, _wanted: object, _connection: object) -> Reader:
        return self.queue

    def publish(self, publish: Publish) -> Deferred[list[Outcome]]:
        assert (publish.acks, publish.handoff, publish.place.topic) == (-1, False, "foo")
        self.seen.append(("publish", [message.value for message in publish.messages]))
        return succeed([self.outcomes.pop(0) for _ in publish.messages])

    async def acknowledge(self, *key: Any, sync: bool = False) -> list[None]:
        self.seen.append(("commit" if sync else "acknowledge", list(key[3])))
        return [None] * len(key[3])

    def redrive(self, *letters: int, per_second: float | None = None) -> tuple[Redrive, Deferred[None]]:
        made = Redrive(
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self.clock,
            lambda: round(self.clock.seconds() * 1000),
            GroupPlace(Place("default", Store(), "foo"), "g"),  # type: ignore[arg-type]
            "app1",
            letters=[Letter(0, offset) for offset in letters] or None,
            per_second=per_second,
        )
        ensureDeferred(made.start())
        return made, ensureDeferred(made.run())


def test_letters_are_acknowledged_behind_their_publish_and_committed_at_the_end() -> None:
    parts = Parts(3, Receipt(0, 7), Receipt(0, 8), Receipt(0, 9))
    redrive, running = parts.redrive()
    assert running.called
    assert parts.seen == [
        ("commit", []),
        ("publish", [b"0", b"1"]),
        ("acknowledge", [Ack(0, 0), Ack(0, 1)]),
        ("publish", [b"2"]),
        ("acknowledge", [Ack(0, 2)]),
        ("commit", []),
    ]
    assert (redrive.state, redrive.done, redrive.total) == ("done", 3, 3)
    assert parts.queue.over
    assert parts.queue.held == []


def test_letter_that_the_topic_refuses_is_told_and_kept_and_those_behind_it_go_on() -> None:
    parts = Parts(4, Receipt(0, 7), TooLarge("too large"), Receipt(0, 8), Receipt(0, 9))
    redrive, _running = parts.redrive()
    assert (redrive.state, redrive.done, redrive.failed) == ("done", 3, 1)
    assert [(failure.letter, failure.reason) for failure in redrive.failures] == [(Letter(0, 1), "too large")]
    assert ("acknowledge", [Ack(0, 0)]) in parts.seen
    assert [batch.first for batch in parts.queue.held] == [0]


@pytest.mark.parametrize(
    "error", [Unavailable("away"), OutcomeUnknown("who knows"), TopicNotFound("gone"), Denied("no right")]
)
def test_store_that_is_away_or_takes_no_letter_of_the_topic_ends_it_and_what_was_written_is_acknowledged(
    error: KatewayError,
) -> None:
    parts = Parts(4, Receipt(0, 7), error)
    redrive, _running = parts.redrive()
    assert (redrive.state, redrive.error, redrive.done, redrive.failed) == ("failed", error, 1, 1)
    assert parts.seen == [("commit", []), ("publish", [b"0", b"1"]), ("acknowledge", [Ack(0, 0)])]
    assert parts.queue.over


def test_some_letters_are_published_and_the_others_held() -> None:
    parts = Parts(6, Receipt(0, 7), Receipt(0, 8))
    redrive, _running = parts.redrive(1, 2)
    assert [values for action, values in parts.seen if action == "publish"] == [[b"1"], [b"2"]]
    assert (redrive.state, redrive.done, redrive.missing) == ("done", 2, [])
    assert [batch.first for batch in parts.queue.held] == [0, 2]


def test_letters_that_do_not_come_are_waited_for_no_longer_than_so() -> None:
    parts = Parts(2, Receipt(0, 7), Receipt(0, 8))
    parts.count, parts.queue.late = 5, True
    redrive, running = parts.redrive()
    assert parts.queue.asked_for == {0: 5}
    parts.clock.advance(STALL_SECONDS - 0.1)
    assert not running.called
    parts.clock.advance(0.2)
    assert running.called
    assert (redrive.state, redrive.done, parts.clock.getDelayedCalls()) == ("failed", 2, [])
    assert isinstance(redrive.error, Unavailable)


def test_stop_ends_it_between_two_publishes() -> None:
    parts = Parts(4, Receipt(0, 7), Receipt(0, 8), Receipt(0, 9))
    redrive, running = parts.redrive(per_second=1)
    assert redrive.done == 2
    redrive.stop()
    assert running.called
    assert (redrive.state, redrive.done) == ("stopped", 2)
    assert parts.clock.getDelayedCalls() == []
