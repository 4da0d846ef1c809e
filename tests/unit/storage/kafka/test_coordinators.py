"""Where groups are coordinated, as brokers say that answer by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from kateway.errors import Denied, Unavailable
from kateway.storage.kafka.cluster.connection import NoAnswer
from kateway.storage.kafka.cluster.coordinators import Coordinators
from kateway.storage.kafka.protocol.metadata import API_VERSIONS
from kateway.storage.kafka.protocol.primitives import (
    NO_TAGS,
    ByteReader,
    array,
    compact_array,
    compact_string,
    i16,
    i32,
)
from kateway.storage.kafka.protocol.requests import FIND_COORDINATOR

LOADING, NOT_AUTHORIZED = 14, 30


class Brokers:
    """Client and pool in one: brokers 1 and 2, of which 1 was heard last."""

    def __init__(self, version: int = 4) -> None:
        self.version = version
        self.view = SimpleNamespace(brokers={1: None, 2: None})
        self.source = 1
        self.errors: dict[tuple[int, str], int] = {}
        """By the broker that is asked, and the group."""
        self.down: set[int] = set()
        self.silent: set[int] = set()
        """Brokers that say what they speak, and no more."""
        self.asked: list[tuple[int, list[str]]] = []
        self.held: list[Deferred[bytes]] | None = None
        self.versions_asked = 0
        self.coordinators = Coordinators(self, self)  # type: ignore[arg-type]

    def request(self, node: int, key: int, version: int, body: bytes, *, timeout_seconds: float) -> Deferred[bytes]:
        if node in self.down:
            return fail(NoAnswer(f"broker {node} is away"))
        if key == API_VERSIONS:
            self.versions_asked += 1
            return succeed(i16(0) + array([i16(FIND_COORDINATOR) + i16(0) + i16(self.version)]))
        if node in self.silent:
            return fail(NoAnswer(f"broker {node} does not answer"))
        assert (key, version) == (FIND_COORDINATOR, 4 if self.version >= 4 else 0)
        read = ByteReader(body)
        if version == 0:
            self.asked.append((node, [read.string()]))
            return succeed(i16(self.errors.get((node, self.asked[-1][1][0]), 0)) + i32(2))
        read.skip_tags()
        assert read.i8() == 0
        groups = read.compact_array(read.compact_string)
        self.asked.append((node, groups))
        answer = NO_TAGS + i32(0) + compact_array(self._of(node, group) for group in groups) + NO_TAGS
        if self.held is None:
            return succeed(answer)
        held: Deferred[bytes] = Deferred()
        self.held.append(held)
        return held.addCallback(lambda _: answer)

    def _of(self, node: int, group: str) -> bytes:
        error = i16(self.errors.get((node, group), 0))
        return (
            compact_string(group) + i32(2) + compact_string("host") + i32(9092) + error + compact_string("") + NO_TAGS
        )

    def find(self, *groups: str) -> list[Any]:
        """What those that ask for the groups at once get."""
        found: list[Any] = []
        for group in groups:
            finding = Deferred.fromCoroutine(self.coordinators.find(group))
            finding.addCallbacks(found.append, lambda failure: found.append(failure.value))
        return found


def test_groups_that_are_asked_for_while_an_answer_is_awaited_are_asked_for_at_once() -> None:
    brokers = Brokers()
    brokers.held = []
    found = brokers.find("a", "b", "c", "a", "c")
    brokers.held[0].callback(b"")
    brokers.held[1].callback(b"")
    assert brokers.asked == [(1, ["a"]), (1, ["b", "c"])]
    assert found == [2] * 5
    assert brokers.versions_asked == 1
    assert brokers.find("a", "b", "c") == [2] * 3
    assert len(brokers.asked) == 2


def test_broker_that_does_not_know_the_question_of_many_is_asked_for_each() -> None:
    brokers = Brokers(version=2)
    brokers.errors[1, "b"] = NOT_AUTHORIZED
    first, second = brokers.find("a", "b")
    assert first == 2
    assert isinstance(second, Denied)
    assert brokers.asked == [(1, ["a"]), (1, ["b"])]


def test_group_that_one_broker_does_not_know_is_asked_of_the_next_one_alone() -> None:
    brokers = Brokers()
    brokers.errors[1, "c"] = LOADING
    brokers.held = []
    found = brokers.find("a", "b", "c")
    for answer in brokers.held:  # it grows meanwhile
        answer.callback(b"")
    assert found == [2] * 3
    assert brokers.asked == [(1, ["a"]), (1, ["b", "c"]), (2, ["c"])]


@pytest.mark.parametrize("down", [{1}, {1, 2}])
def test_broker_that_is_away_is_passed_over(down: set[int]) -> None:
    brokers = Brokers()
    brokers.down = down
    (found,) = brokers.find("a")
    assert found == 2 if len(down) == 1 else isinstance(found, Unavailable)


@pytest.mark.parametrize("version", [2, 4])
def test_broker_that_ends_between_its_two_answers_is_passed_over(version: int) -> None:
    brokers = Brokers(version)
    brokers.silent = {1}
    assert brokers.find("a", "b") == [2, 2]


def test_caller_that_gives_up_leaves_the_others_alone() -> None:
    brokers = Brokers()
    brokers.held = []
    first = Deferred.fromCoroutine(brokers.coordinators.find("a"))
    found = brokers.find("a")
    first.addErrback(lambda _: None)
    first.cancel()
    brokers.held[0].callback(b"")
    assert found == [2]
