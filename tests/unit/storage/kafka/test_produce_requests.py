"""Produce and InitProducerId on the wire, and Kafka's error codes by our names."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway import errors
from kateway.storage.kafka.protocol.errors import REROUTE, error_for
from kateway.storage.kafka.protocol.primitives import ByteReader, MalformedResponse, array, i32, string
from kateway.storage.kafka.protocol.produce_requests import (
    Identity,
    ProduceResult,
    decode_init_producer_id,
    decode_produced,
    encode_produce,
)


def test_a_request_holds_its_topics_and_one_batch_a_partition() -> None:
    read = ByteReader(encode_produce(-1, 9000, {"a": [(0, b"x"), (3, b"yy")], "ü": [(1, b"")]}))
    assert (read.nullable_string(), read.i16(), read.i32()) == (None, -1, 9000)
    found = read.array(lambda: (read.string(), read.array(lambda: (read.i32(), read.data()))))
    assert found == [("a", [(0, b"x"), (3, b"yy")]), ("ü", [(1, b"")])]


def test_an_answer_is_read_partition_by_partition() -> None:
    body = array(
        string(topic) + array(pack(">ihqqq", n, code, offset, -1, 0) for n, code, offset in partitions)
        for topic, partitions in [("a", [(0, 0, 70), (1, 6, -1)]), ("b", [(0, 10, -1)])]
    )
    assert decode_produced(body + i32(0)) == {
        ("a", 0): ProduceResult(0, 70),
        ("a", 1): ProduceResult(6, -1),
        ("b", 0): ProduceResult(10, -1),
    }


@given(st.binary(max_size=80))
def test_any_bytes_are_an_answer_or_malformed(body: bytes) -> None:
    for decode in (decode_produced, decode_init_producer_id):
        try:
            decode(body)
        except MalformedResponse:
            pass


def test_an_identity_is_read() -> None:
    assert decode_init_producer_id(pack(">ihqh", 0, 0, 4711, 3)) == (0, Identity(4711, 3))


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        ((3,), errors.TopicNotFound),
        ((17,), errors.InvalidTopic),
        ((10, 18), errors.TooLarge),
        ((2, 32, 87), errors.InvalidRecord),
        ((29, 30, 31, 58), errors.Denied),
        ((19,), errors.NotEnoughReplicas),
        ((20,), errors.WrittenTooNarrowly),
        ((5, 6, 8, 9, 13, 56), errors.Unavailable),
        ((7, -1, 12345), errors.OutcomeUnknown),
        ((89,), errors.Throttled),
        ((81,), errors.TooManyConsumers),
        ((1,), errors.OffsetOutOfRange),
        ((23, 24), errors.Conflict),
        ((35, 43, 76), errors.Unsupported),
    ],
)
def test_a_code_has_our_name_and_says_what_kafka_calls_it(
    codes: tuple[int, ...], kind: type[errors.KatewayError]
) -> None:
    for code in codes:
        error = error_for(code, "topic t")
        assert type(error) is kind
        assert error.detail.startswith("topic t: ")
        assert "(Kafka: " in error.detail


def test_error_of_a_publish_that_may_have_been_written_says_so() -> None:
    assert {code for code in range(-1, 110) if error_for(code).maybe_written} >= {-1, 7, 20}
    assert not any(error_for(code).maybe_written for code in REROUTE)
