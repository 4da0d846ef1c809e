"""Keys go where Kafka's Java client puts them; the rest goes round."""

from __future__ import annotations

from collections import Counter

import pytest

from kateway.storage.partitioner import Partitioner, by_jump, by_key, jump, murmur2


# from Apache Kafka's own UtilsTest.testMurmur2
@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_that_of_the_java_client(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF


def test_an_empty_key_is_hashed_and_none_is_not() -> None:
    partitioner = Partitioner(stay=1)
    assert {partitioner.choose(7, b"") for _ in range(20)} == {by_key(b"", 7)}
    assert {partitioner.choose(7, None) for _ in range(7)} == set(range(7))


def test_keyless_messages_stay_together_and_are_shared_out_evenly() -> None:
    partitioner = Partitioner(stay=4)
    chosen = [partitioner.choose(3, None) for _ in range(24)]
    assert chosen == [0] * 4 + [1] * 4 + [2] * 4 + [0] * 4 + [1] * 4 + [2] * 4
    assert Counter(chosen) == {0: 8, 1: 8, 2: 8}


def test_a_turn_moves_on_at_once() -> None:
    partitioner = Partitioner(stay=4)
    assert partitioner.choose(3, None) == 0
    partitioner.turn()
    assert [partitioner.choose(3, None) for _ in range(5)] == [1, 1, 1, 1, 2]


def test_a_topic_that_grows_gets_the_new_partition_too() -> None:
    partitioner = Partitioner(stay=1)
    assert {partitioner.choose(2, None) for _ in range(8)} == {0, 1}
    assert {partitioner.choose(3, None) for _ in range(9)} == {0, 1, 2}


# from the tests of other implementations
@pytest.mark.parametrize(
    ("number", "buckets", "expected"),
    [(0, 1, 0), (0, 60, 0), (1, 60, 55), (256, 1024, 520), (10863919174838991, 11, 6)],
)
def test_jump_hash_agrees_with_other_implementations(number: int, buckets: int, expected: int) -> None:
    assert jump(number, buckets) == expected


def test_key_of_a_growing_topic_stays_or_goes_to_a_new_partition_and_only_its_share_moves() -> None:
    keys = [b"key-%d" % number for number in range(10_000)]
    for partitions, more in ((2, 4), (4, 8), (5, 6)):
        moved = [key for key in keys if by_jump(key, partitions) != by_jump(key, more)]
        assert all(partitions <= by_jump(key, more) < more for key in moved)
        assert abs(len(moved) / len(keys) - (more - partitions) / more) < 0.02
        assert min(Counter(by_jump(key, more) for key in keys).values()) > 0.9 * len(keys) / more
