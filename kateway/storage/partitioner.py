"""Chooses a message's partition: by key as the Java client does, else round robin that stays a while.

The hash is Apache Kafka's ``org.apache.kafka.common.utils.Utils.murmur2`` (MurmurHash2, 32 bit, seed 0x9747b28c), so
that a key lands in the same partition with every client. Keys of elastic topics are placed by jump consistent hash
(Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014) of that hash, as Guava's
``Hashing.consistentHash(Utils.murmur2(key) & 0xffffffffL, partitions)`` does.
"""

from __future__ import annotations

from struct import Struct

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
_SEED = 0x9747B28C
_WORD = Struct("<I")


def murmur2(data: bytes) -> int:
    """The 32-bit hash of a key, unsigned."""
    length = len(data)
    whole = length & ~3
    h = _SEED ^ length
    for (k,) in _WORD.iter_unpack(data[:whole]):
        k = k * _M & _MASK  # noqa: PLW2901
        k = (k ^ k >> 24) * _M & _MASK  # noqa: PLW2901
        h = h * _M & _MASK ^ k
    if length > whole:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def by_key(key: bytes, partitions: int) -> int:
    """The partition of a key; an empty key is a key like any other."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def jump(number: int, buckets: int) -> int:
    """The bucket of a number by jump consistent hash: where ``buckets`` become more, a number stays or goes to a new
    one.
    """
    bucket, following = -1, 0
    while following < buckets:
        bucket = following
        number = (number * 2862933555777941757 + 1) & 0xFFFFFFFFFFFFFFFF
        following = int((bucket + 1) * ((1 << 31) / ((number >> 33) + 1)))
    return bucket


def by_jump(key: bytes, partitions: int) -> int:
    """The partition of an elastic topic's key."""
    return jump(murmur2(key), partitions)


class Partitioner:
    """Chooses for one topic. Messages without a key stay on a partition for ``stay`` of them, then move to the next:
    neighbours share a batch, and all partitions get the same.
    """

    __slots__ = ("_left", "_partition", "_stay")

    def __init__(self, stay: int = 16, first: int = 0) -> None:
        self._stay = stay
        self._left = stay
        self._partition = first

    def choose(self, partitions: int, key: bytes | None) -> int:
        """A partition of ``partitions``, from 0."""
        if key is not None:
            return (murmur2(key) & 0x7FFFFFFF) % partitions
        if self._left == 0:
            self.turn()
        self._left -= 1
        return self._partition % partitions

    def turn(self) -> None:
        """Moves keyless messages to the next partition now."""
        self._partition += 1
        self._left = self._stay
