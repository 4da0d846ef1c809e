"""The coordinator's word on who holds a group: read from the members' client ids, asked once, kept for seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from kateway.cluster.directory import CoordinatorDirectory, label, labelled
from kateway.cluster.interface import Holders, Home
from kateway.errors import Unavailable
from kateway.storage.interface import GroupMember

FIRST, SECOND = Home("gateway-1", "10.0.0.5:9094"), Home("gateway-2", "[fe80::1]:9094")


def member(client_id: str, *partitions: int, topics: Sequence[str] = ("t",)) -> GroupMember:
    return GroupMember(client_id, frozenset(topics), {"t": partitions} if partitions else {})


class Coordinator:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Deferred[Sequence[GroupMember] | None]] = []

    async def members(self, group: str) -> Sequence[GroupMember] | None:
        self.asked.append(Deferred())
        return await self.asked[-1]


def ask(directory: CoordinatorDirectory, *, fresh: bool = False) -> list[Any]:
    found: list[Any] = []
    asking = Deferred.fromCoroutine(directory.find("default", "g", "t", fresh=fresh))
    asking.addCallbacks(found.append, lambda failure: found.append(failure.value))
    return found


@given(name=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True), port=st.integers(1, 65535))
def test_label_is_read_from_any_client_id_that_ends_with_it(name: str, port: int) -> None:
    home = Home(name, f"host.example:{port}")
    assert labelled(f"kateway-default{label(home)}") == home


@pytest.mark.parametrize(
    "client_id",
    ["", "rdkafka", "kateway-default", "a@b", "@@", "kateway@name@", "app@node@rack", "app@node@..:1", "a@b@c:0"],
)
def test_client_id_without_a_label_is_no_gateways(client_id: str) -> None:
    assert labelled(client_id) is None


def test_members_of_all_kinds_count_and_gateways_are_homes() -> None:
    coordinator = Coordinator()
    directory = CoordinatorDirectory({"default": coordinator}, Clock().seconds, 3)
    found = ask(directory)
    coordinator.asked[0].callback(
        [
            member(f"kateway-default{label(FIRST)}", 0, 2),
            member("rdkafka", 1),
            member(f"kateway-default{label(SECOND)}"),
            member("other", topics=("u",)),
        ]
    )
    assert found == [Holders(3, {0: FIRST, 2: FIRST}, foreign=frozenset({1}))]


def test_coordinator_is_asked_once_by_all_and_again_after_seconds_or_where_it_was_wrong() -> None:
    coordinator, clock = Coordinator(), Clock()
    directory = CoordinatorDirectory({"default": coordinator}, clock.seconds, 3)
    together = [ask(directory) for _ in range(3)]
    assert len(coordinator.asked) == 1
    coordinator.asked[0].callback([member(label(FIRST), 0)])
    assert together == [[Holders(1, {0: FIRST})]] * 3
    clock.advance(2.9)
    assert ask(directory) == [Holders(1, {0: FIRST})]
    assert len(coordinator.asked) == 1
    fresh = ask(directory, fresh=True)
    coordinator.asked[1].callback([member(label(SECOND), 0)])
    assert fresh == ask(directory) == [Holders(1, {0: SECOND})]
    clock.advance(3)
    ask(directory)
    assert len(coordinator.asked) == 3


def test_failure_reaches_all_that_ask_and_is_not_kept() -> None:
    coordinator = Coordinator()
    directory = CoordinatorDirectory({"default": coordinator}, Clock().seconds, 3)
    together = [ask(directory) for _ in range(2)]
    coordinator.asked[0].errback(Unavailable("it moves"))
    assert [type(found[0]) for found in together] == [Unavailable, Unavailable]
    ask(directory)
    assert len(coordinator.asked) == 2


@pytest.mark.parametrize("members", [[], None], ids=["no members", "a rebalance"])
def test_group_without_members_or_in_a_rebalance_is_not_remembered(members: Sequence[GroupMember] | None) -> None:
    coordinator = Coordinator()
    directory = CoordinatorDirectory({"default": coordinator}, Clock().seconds, 3)
    found = ask(directory)
    coordinator.asked[0].callback(members)
    assert found == [Holders(0, {}, rebalancing=members is None)]
    ask(directory)
    assert len(coordinator.asked) == 2


def test_members_that_give_up_partitions_or_are_yet_to_get_them_name_homes_and_a_rebalance() -> None:
    coordinator = Coordinator()
    found = ask(CoordinatorDirectory({"default": coordinator}, Clock().seconds, 3))
    first, second = member(label(FIRST), 0), member(label(SECOND))
    coordinator.asked[0].callback([first._replace(settled=False), second._replace(settled=False)])
    assert found == [Holders(2, {0: FIRST}, rebalancing=True)]


def test_store_whose_groups_have_no_members_elsewhere_is_not_asked() -> None:
    assert ask(CoordinatorDirectory({}, Clock().seconds, 3)) == [Holders(0, {})]
