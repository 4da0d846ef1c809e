"""A group's members, of brokers that answer by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from kateway.model import Health
from kateway.storage.interface import GroupMember
from kateway.storage.kafka.cluster.connection import NoAnswer
from kateway.storage.kafka.cluster.coordinators import Coordinators
from kateway.storage.kafka.cluster.group_members import Members
from kateway.storage.kafka.protocol.group_members import CONSUMER_GROUP_DESCRIBE, DEAD, DESCRIBE_GROUPS
from kateway.storage.kafka.protocol.metadata import API_VERSIONS
from kateway.storage.kafka.protocol.primitives import (
    NO_TAGS,
    array,
    compact_array,
    compact_string,
    i16,
    i32,
    string,
)
from kateway.storage.kafka.protocol.requests import FIND_COORDINATOR

NULL = b"\0"
NO_ASSIGNMENT = compact_array([]) + NO_TAGS


class Broker:
    """Client and pool in one: a broker that has a group whose coordinator assigns, once it knows of such groups."""

    def __init__(self) -> None:
        self.view = SimpleNamespace(brokers={1: None})
        self.source = 1
        self.config = SimpleNamespace(request_timeout_seconds=3.0)
        self.reactor = Clock()
        self.upgraded = False
        self.down = False
        self.members = Members(self, self, Coordinators(self, self))  # type: ignore[arg-type]

    def health(self) -> Health:
        return Health(True, "")

    def request(self, node: int, key: int, version: int, body: bytes, *, timeout_seconds: float) -> Deferred[bytes]:
        if self.down:
            return fail(NoAnswer("it is away"))
        if key == API_VERSIONS:
            known = [FIND_COORDINATOR, DESCRIBE_GROUPS, *([CONSUMER_GROUP_DESCRIBE] if self.upgraded else [])]
            return succeed(i16(0) + array(i16(each) + i16(0) + i16(0) for each in known))
        if key == FIND_COORDINATOR:
            return succeed(i16(0) + i32(1))
        if key == DESCRIBE_GROUPS:
            return succeed(array([i16(0) + string("g") + string(DEAD) + string("") + string("") + array([])]))
        assert key == CONSUMER_GROUP_DESCRIBE
        member = (
            *(compact_string("m"), NULL, NULL, i32(1), compact_string("client"), compact_string("host")),
            *(compact_array([compact_string("t")]), NULL, NO_ASSIGNMENT, NO_ASSIGNMENT, NO_TAGS),
        )
        group = (
            *(i16(0), NULL, compact_string("g"), compact_string("Stable"), i32(1), i32(1), compact_string("uniform")),
            *(compact_array([b"".join(member)]), i32(0), NO_TAGS),
        )
        return succeed(NO_TAGS + i32(0) + compact_array([b"".join(group)]) + NO_TAGS)

    def named(self) -> Any:
        found: list[Any] = []
        Deferred.fromCoroutine(self.members.of("g")).addCallbacks(found.append, lambda f: found.append(f.value))
        self.reactor.pump([0.1] * 50)
        return found[0]


def test_broker_that_comes_back_as_one_that_assigns_names_the_members_of_such_groups() -> None:
    broker = Broker()
    assert broker.named() == []
    broker.down = True
    broker.named()
    broker.down, broker.upgraded = False, True
    assert broker.named() == [GroupMember("client", frozenset({"t"}), {}, settled=True)]
