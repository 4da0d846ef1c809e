"""Shares of the room for messages under way: nothing is lost from the count, and a newcomer finds room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kateway.core.inflight_shares import TIMES_FREE, InflightShares, weight
from kateway.model import Message
from kateway.storage.interface import RECORD_OVERHEAD_BYTES

ROOM = 100_000


def fill(shares: InflightShares, application: str, size: int = 100) -> int:
    """Takes until no more is given; returns how much."""
    while shares.take(application, size):
        pass
    return shares.held(application)


def test_one_application_leaves_a_part_of_the_room_free() -> None:
    shares = InflightShares(ROOM)
    assert ROOM * 0.79 < fill(shares, "flooding") <= ROOM * TIMES_FREE / (TIMES_FREE + 1)


def test_newcomer_finds_room_beside_a_flood() -> None:
    shares = InflightShares(ROOM)
    fill(shares, "flooding")
    assert fill(shares, "calm") > ROOM * 0.1


def test_two_floods_have_equal_parts_once_what_one_had_before_is_answered() -> None:
    shares = InflightShares(ROOM)
    fill(shares, "first")
    for _ in range(5000):
        for name in ("first", "second"):
            if shares.held(name):
                shares.release(name, 100)
        for name in ("second", "first"):
            shares.take(name, 100)
            shares.take(name, 100)
    assert abs(shares.held("first") - shares.held("second")) < ROOM * 0.05


def test_message_larger_than_the_room_goes_where_its_application_has_none_under_way() -> None:
    shares = InflightShares(ROOM)
    assert shares.take("one", ROOM * 2)
    assert not shares.take("one", 1)
    shares.release("one", ROOM * 2)
    assert shares.take("one", 1)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 30_000), st.booleans()), max_size=200))
def test_what_is_released_is_what_was_taken(steps: list[tuple[str, int, bool]]) -> None:
    shares = InflightShares(ROOM)
    under_way: list[tuple[str, int]] = []
    for name, size, ends in steps:
        if ends and under_way:
            shares.release(*under_way.pop(0))
        elif shares.take(name, size):
            under_way.append((name, size))
        for each in "abc":
            assert shares.held(each) == sum(size for name, size in under_way if name == each)
    for name, size in under_way:
        shares.release(name, size)
    assert [shares.held(each) for each in "abc"] == [0, 0, 0]
    assert fill(shares, "a", 1000) == ROOM * TIMES_FREE // (TIMES_FREE + 1)


def test_weight_of_messages_is_the_same_one_by_one_and_together() -> None:
    messages = [Message(b"value", b"key"), Message(None, b"key"), Message(b"", None)]
    assert weight(messages) == sum(weight([each]) for each in messages)
    assert weight(messages[1:2]) == 3 + RECORD_OVERHEAD_BYTES


def test_end_of_all_that_is_under_way_is_told_once() -> None:
    shares = InflightShares(1000)
    told: list[bool] = []
    shares.on_empty = lambda: told.append(shares.under_way)
    assert shares.take("a", 10)
    assert shares.take("b", 20)
    shares.release("a", 10)
    assert shares.under_way
    assert told == []
    shares.release("b", 20)
    assert told == [False]
