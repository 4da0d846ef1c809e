"""What a member says to a coordinator that assigns, byte for byte, and answers that end too early."""

from __future__ import annotations

import pytest

from kateway.model import Committed
from kateway.storage.kafka.protocol import consumer_group_requests as wire
from kateway.storage.kafka.protocol.primitives import ByteReader, MalformedResponse, uvarint

TOPIC = bytes(range(16))
HEARTBEAT = b"\0" + b"\0\0\0\0" + b"\0\0" + b"\0" + b"\2m" + b"\0\0\0\5" + b"\0\0\x13\x88"
ASSIGNMENT = b"\1" + b"\2" + TOPIC + b"\3" + b"\0\0\0\1" + b"\0\0\0\3" + b"\0" + b"\0" + b"\0"
COMMITTED = b"\0" + b"\0\0\0\0" + b"\2" + b"\2t" + b"\2" + b"\0\0\0\1" + b"\0\x71" + b"\0" + b"\0" + b"\0"
BROKER = b"\0\0\0\1" + b"\2h" + b"\0\0\x23\x84" + b"\0" + b"\0"
TOPIC_ID = b"\0" + b"\0\0\0\0" + b"\2" + BROKER + b"\2c" + b"\0\0\0\1" + b"\2" + b"\0\0" + b"\2t" + TOPIC
CONFIG = b"\0\x1bconsumer.session.timeout.ms" + b"\0\5" + b"45000" + b"\0\5\0" + b"\0\0\0\0"
CONFIGS = b"\0\0\0\0" + b"\0\0\0\1" + b"\0\0" + b"\xff\xff" + b"\x20" + b"\0\1g" + b"\0\0\0\1" + CONFIG


def test_heartbeat_says_all_in_the_flexible_encoding():
    said = wire.encode_heartbeat("g", "m", 5, "one", 10000, ["t"], [(TOPIC, 3), (TOPIC, 1)])
    names = b"\2g" + b"\2m" + b"\0\0\0\5" + b"\4one" + b"\0"
    owned = b"\2" + TOPIC + b"\3" + b"\0\0\0\1" + b"\0\0\0\3" + b"\0"
    assert said == b"\0" + names + b"\0\0\x27\x10" + b"\2\2t" + b"\0" + b"\0" + owned + b"\0"


def test_commit_names_the_member_and_its_epoch():
    said = wire.encode_offset_commit("g", 5, "m", "t", {1: Committed(7, "x")})
    place = b"\0\0\0\1" + b"\0\0\0\0\0\0\0\7" + b"\xff\xff\xff\xff" + b"\2x" + b"\0"
    assert said == b"\0" + b"\2g" + b"\0\0\0\5" + b"\2m" + b"\0" + b"\2" + b"\2t" + b"\2" + place + b"\0" + b"\0"


@pytest.mark.parametrize(
    ("decode", "body", "value"),
    [
        (wire.decode_heartbeat, HEARTBEAT + b"\xff\0", wire.Heard(0, "", 5, 5000, None)),
        (
            wire.decode_heartbeat,
            HEARTBEAT + ASSIGNMENT,
            wire.Heard(0, "", 5, 5000, frozenset({(TOPIC, 1), (TOPIC, 3)})),
        ),
        (wire.decode_offset_commit, COMMITTED, {1: 113}),
        (wire.decode_topic_id, TOPIC_ID, TOPIC),
        (wire.decode_group_session, CONFIGS, 45.0),
    ],
    ids=["unchanged", "assignment", "commit", "topic-id", "session"],
)
def test_answer_is_understood_whole_and_refused_where_it_ends_too_early(decode, body, value):
    assert decode(body) == value
    read_to = len(body) - (2 if decode is wire.decode_heartbeat or decode is wire.decode_offset_commit else 0)
    for end in range(read_to):
        with pytest.raises(MalformedResponse):
            decode(body[:end])


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 16383, 16384, 2**28 - 1])
def test_variable_size_length_is_read_as_it_was_written(value):
    assert ByteReader(uvarint(value)).uvarint() == value


def test_length_without_an_end_is_refused():
    with pytest.raises(MalformedResponse):
        ByteReader(b"\xff" * 20).uvarint()


def test_tagged_fields_that_are_not_known_are_passed_over():
    read = ByteReader(b"\2" + b"\0\1x" + b"\7\3abc" + b"!")
    read.skip_tags()
    assert read.at == 9
