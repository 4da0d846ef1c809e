"""Encodes the requests of the write side: Produce v7 and InitProducerId v0. Bytes in, values out.

Source: https://kafka.apache.org/protocol
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct, error
from typing import NamedTuple

from kateway.storage.kafka.protocol.primitives import ByteReader, MalformedResponse, i16, i32, string

PRODUCE = 0
PRODUCE_VERSION = 7
INIT_PRODUCER_ID = 22
INIT_PRODUCER_ID_VERSION = 0

_NO_TRANSACTION = string(None)
_PARTITION_AND_SIZE = Struct(">ii")
_PARTITION_ANSWER = Struct(">ihqqq")


class ProduceResult(NamedTuple):
    """The broker's answer for one partition's batch."""

    error: int
    base_offset: int


class Identity(NamedTuple):
    """A producer's id and epoch: a broker numbers its batches under them."""

    producer_id: int
    epoch: int


def encode_produce(acks: int, timeout_ms: int, batches: Mapping[str, Iterable[tuple[int, bytes]]]) -> bytes:
    """A request for one broker: topic → (partition, batch). A partition must not come twice (Kafka answers 87)."""
    parts = [_NO_TRANSACTION + i16(acks) + i32(timeout_ms) + i32(len(batches))]
    for topic, found in batches.items():
        entries: list[bytes] = []
        for partition, batch in found:
            entries += (_PARTITION_AND_SIZE.pack(partition, len(batch)), batch)
        parts.append(string(topic) + i32(len(entries) // 2))
        parts += entries
    return b"".join(parts)


def decode_produced(body: bytes) -> dict[tuple[str, int], ProduceResult]:
    """Decodes the answer: (topic, partition) → the fate of its batch. ``MalformedResponse`` where it is broken."""
    read = ByteReader(body)
    found: dict[tuple[str, int], ProduceResult] = {}
    try:
        for _ in range(read.i32()):
            topic = read.string()
            for _ in range(read.i32()):
                partition, code, base_offset, _, _ = _PARTITION_ANSWER.unpack_from(body, read.at)
                read.at += _PARTITION_ANSWER.size
                found[topic, partition] = ProduceResult(code, base_offset)
    except error as short:
        raise MalformedResponse("the answer to Produce ends too early") from short
    return found


def encode_init_producer_id() -> bytes:
    """Asks for an identity without transactions."""
    return _NO_TRANSACTION + i32(0)


def decode_init_producer_id(body: bytes) -> tuple[int, Identity]:
    """Error code and, where that is 0, the identity."""
    read = ByteReader(body)
    read.i32()  # throttle time
    code = read.i16()
    return code, Identity(read.i64(), read.i16())
