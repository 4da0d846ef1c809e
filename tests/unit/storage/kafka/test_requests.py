"""Kafka's requests and answers, byte by byte: the layouts are those of https://kafka.apache.org/protocol."""

from __future__ import annotations

from functools import partial
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.config.addresses import Address
from kateway.model import Committed
from kateway.storage.kafka.protocol import group_members
from kateway.storage.kafka.protocol import group_requests as groupwire
from kateway.storage.kafka.protocol import requests as wire
from kateway.storage.kafka.protocol.metadata import decode_api_versions, decode_metadata, too_old
from kateway.storage.kafka.protocol.primitives import (
    ByteReader,
    MalformedResponse,
    array,
    data,
    i32,
    i64,
    request_header,
    string,
)

names = st.text(min_size=1, max_size=20)


def text(value: str) -> bytes:
    return pack(">h", len(value.encode())) + value.encode()


@given(st.text(max_size=50), st.binary(max_size=50), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_written_bytes_are_read_back(words, octets, numbers):
    read = ByteReader(string(words) + data(octets) + string(None) + data(None) + array(map(i64, numbers)))
    assert read.string() == words
    assert read.data() == octets
    assert read.nullable_string() is None
    assert read.nullable_data() is None
    assert read.array(read.i64) == numbers


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_as_malformed(body):
    decoders = (
        wire.decode_fetch,
        wire.decode_list_offsets,
        wire.decode_offset_commit,
        wire.decode_offset_fetch,
        wire.decode_find_coordinator,
        wire.decode_find_coordinators,
        group_members.decode_describe,
        group_members.decode_consumer_describe,
        wire.decode_create_topic,
        wire.decode_delete_topic,
        partial(groupwire.decode_join, 4),
        partial(groupwire.decode_join, 5),
        groupwire.decode_sync,
        groupwire.decode_error,
        groupwire.decode_metadata,
        groupwire.decode_assignment,
        decode_metadata,
        decode_api_versions,
    )
    for decode in decoders:
        try:
            decode(body)
        except MalformedResponse:
            pass


def test_an_array_that_cannot_fit_is_refused_before_it_is_read():
    with pytest.raises(MalformedResponse):
        ByteReader(i32(2**31 - 1)).array(lambda: None)


def test_a_request_begins_with_key_version_correlation_and_client():
    assert request_header(1, 10, 7, string("me")) == pack(">hhi", 1, 10, 7) + text("me")


def test_a_fetch_asks_for_committed_records_of_many_partitions_at_once():
    body = wire.encode_fetch(
        "t", [wire.Wanted(0, 5, 100), wire.Wanted(3, 9, 200)], max_wait_ms=500, min_bytes=1, max_bytes=1000
    )
    assert body == (
        pack(">iiiibii", -1, 500, 1, 1000, 1, 0, -1)
        + pack(">i", 1)
        + text("t")
        + pack(">i", 2)
        + pack(">iiqqi", 0, -1, 5, -1, 100)
        + pack(">iiqqi", 3, -1, 9, -1, 200)
        + pack(">i", 0)
    )


def test_in_a_fetch_session_only_what_changed_is_said():
    bounds = {"max_wait_ms": 500, "min_bytes": 1, "max_bytes": 1000, "session": 77}
    assert wire.encode_fetch("t", [wire.Wanted(3, 9, 200)], **bounds, epoch=4, forgotten=[1, 2]) == (
        pack(">iiiibii", -1, 500, 1, 1000, 1, 77, 4)
        + (pack(">i", 1) + text("t") + pack(">i", 1) + pack(">iiqqi", 3, -1, 9, -1, 200))
        + (pack(">i", 1) + text("t") + pack(">iii", 2, 1, 2))
    )
    nothing_new = pack(">iiiibii", -1, 500, 1, 1000, 1, 77, 5) + pack(">ii", 0, 0)
    assert wire.encode_fetch("t", [], **bounds, epoch=5) == nothing_new


def test_a_fetch_answer_gives_each_partition_with_its_aborted_transactions():
    body = (
        pack(">ihi", 0, 0, 9)
        + pack(">i", 1)
        + text("t")
        + pack(">i", 2)
        + pack(">ihqqq", 0, 0, 30, 20, 2)
        + pack(">iqqqq", 2, 77, 3, 78, 9)
        + pack(">i", 4)
        + b"blob"
        + pack(">ihqqq", 1, 6, -1, -1, -1)
        + pack(">ii", -1, -1)
    )
    assert wire.decode_fetch(body) == (
        0,
        9,
        [
            wire.FetchedPartition(0, 0, 30, 20, 2, [(77, 3), (78, 9)], b"blob"),
            wire.FetchedPartition(1, 6, -1, -1, -1, [], b""),
        ],
    )


def test_the_end_of_a_partition_is_its_last_stable_offset():
    assert wire.FetchedPartition(0, 0, 30, 20, 2, [], b"").end == 20
    assert wire.FetchedPartition(0, 0, 30, -1, 2, [], b"").end == 30


def test_offsets_are_listed_by_time_and_by_end():
    body = wire.encode_list_offsets("t", {0: wire.LATEST, 2: 1700})
    assert body == pack(">ib", -1, 1) + pack(">i", 1) + text("t") + pack(">i", 2) + pack(">iqiq", 0, -1, 2, 1700)
    answer = pack(">ii", 0, 1) + text("t") + pack(">i", 2) + pack(">ihqq", 0, 0, -1, 12) + pack(">ihqq", 2, 6, -1, -1)
    assert wire.decode_list_offsets(answer) == {0: (0, 12), 2: (6, -1)}


def test_commits_carry_the_next_offset_and_a_metadata_string():
    body = wire.encode_offset_commit("g", 4, "m", "t", {1: Committed(8, "x")})
    assert body == (
        text("g")
        + pack(">i", 4)
        + text("m")
        + pack(">q", -1)
        + pack(">i", 1)
        + text("t")
        + pack(">i", 1)
        + pack(">iq", 1, 8)
        + text("x")
    )
    assert wire.decode_offset_commit(pack(">i", 1) + text("t") + pack(">iih", 1, 1, 22)) == {1: 22}


def test_nothing_committed_is_told_from_an_offset():
    assert wire.encode_offset_fetch("g", "t", [0, 1]) == text("g") + pack(">i", 1) + text("t") + pack(">iii", 2, 0, 1)
    answer = pack(">i", 1) + text("t") + pack(">i", 2)
    answer += pack(">iq", 0, 7) + text("meta") + pack(">h", 0) + pack(">iq", 1, -1) + pack(">hh", -1, 0)
    assert wire.decode_offset_fetch(answer) == {0: (0, Committed(7, "meta")), 1: (0, None)}


def test_a_group_that_does_not_exist_is_dead():
    answer = pack(">ih", 1, 0) + text("g") + text("Dead") + text("") + text("") + pack(">i", 0)
    assert group_members.decode_describe(answer) == [("g", 0, "Dead", [])]


def test_a_topic_is_made_with_its_settings():
    body = wire.encode_create_topic("t", 3, 2, {"retention.ms": "5"}, 1000)
    assert body == (
        pack(">i", 1)
        + text("t")
        + pack(">ihi", 3, 2, 0)
        + pack(">i", 1)
        + text("retention.ms")
        + text("5")
        + pack(">ib", 1000, 0)
    )
    assert wire.decode_create_topic(pack(">ii", 0, 1) + text("t") + pack(">h", 36) + text("why")) == (36, "why")
    assert wire.encode_create_partitions("t", 5, 9) == pack(">i", 1) + text("t") + pack(">iiib", 5, -1, 9, 0)
    body = wire.encode_topic_setting("t", "retention.ms", "-1")
    one_setting = pack(">i", 1) + text("retention.ms") + b"\0" + text("-1")
    assert body == pack(">ib", 1, 2) + text("t") + one_setting + b"\0"
    answer = pack(">iih", 0, 1, 40) + text("why") + pack(">b", 2) + text("t")
    assert wire.decode_topic_setting(answer) == (40, "why")
    assert wire.decode_topic_setting(pack(">iihh", 0, 1, 0, -1) + pack(">b", 2) + text("t")) == (0, "")
    assert wire.encode_delete_topic("t", 9) == pack(">i", 1) + text("t") + pack(">i", 9)
    assert wire.decode_delete_topic(pack(">ii", 0, 1) + text("t") + pack(">h", 3)) == 3


@pytest.mark.parametrize(("version", "named"), [(2, b""), (4, b""), (5, text("mine"))])
def test_a_join_offers_its_strategies_in_order_and_its_own_name_where_the_broker_knows_such(version, named):
    body = groupwire.encode_join(version, "g", 10000, 20000, "", "mine", {"range": b"r", "roundrobin": b"q"})
    assert body == (
        text("g")
        + pack(">ii", 10000, 20000)
        + text("")
        + named
        + text("consumer")
        + pack(">i", 2)
        + text("range")
        + pack(">i", 1)
        + b"r"
        + text("roundrobin")
        + pack(">i", 1)
        + b"q"
    )


@pytest.mark.parametrize(("version", "named"), [(4, b""), (5, pack(">h", -1)), (5, text("mine"))])
def test_the_leader_hears_of_the_members(version, named):
    answer = pack(">ihi", 0, 0, 5) + text("range") + text("me") + text("me") + pack(">i", 1) + text("me") + named
    answer += pack(">i", 2) + b"md"
    assert groupwire.decode_join(version, answer) == groupwire.Joined(0, 5, "range", "me", "me", [("me", b"md")])


@given(st.lists(names, max_size=5))
def test_a_members_topics_are_read_whatever_later_versions_add_behind_them(topics):
    said = groupwire.decode_metadata(groupwire.encode_metadata(topics, {"t": [1, 2]}, 7) + b"more")
    assert said == groupwire.Metadata(sorted(topics), {"t": [1, 2]}, 7)


def test_a_member_of_before_cooperation_holds_nothing():
    old = pack(">h", 0) + pack(">i", 1) + text("t") + pack(">i", -1)
    assert groupwire.decode_metadata(old) == groupwire.Metadata(["t"], {}, -1)


def test_generation_is_read_from_the_user_data_of_a_java_client_before_version_2():
    owned = pack(">i", 1) + text("t") + pack(">ii", 1, 3)
    old = pack(">h", 1) + pack(">i", 1) + text("t") + pack(">ii", 4, 9) + owned
    assert groupwire.decode_metadata(old) == groupwire.Metadata(["t"], {"t": [3]}, 9)


@given(st.dictionaries(names, st.lists(st.integers(0, 99), max_size=5), max_size=5))
def test_an_assignment_is_read_back(assigned):
    assert groupwire.decode_assignment(groupwire.encode_assignment(assigned)) == assigned


def test_an_empty_assignment_assigns_nothing():
    assert groupwire.decode_assignment(b"") == {}


def test_metadata_names_leaders_that_exist_and_no_others():
    broker = pack(">i", 1) + text("h") + pack(">ih", 9092, -1)
    partitions = pack(">i", 3)
    for index, leader in ((1, 1), (0, -1), (2, 9)):
        partitions += pack(">hii", 0, index, leader) + pack(">ii", 1, 1) + pack(">ii", 1, 1)
    answer = pack(">ii", 0, 1) + broker + pack(">hi", -1, 1) + pack(">ih", 1, 0) + text("t") + b"\0" + partitions
    view = decode_metadata(answer)
    assert view.brokers == {1: Address("h", 9092)}
    assert view.controller == 1
    assert view.topics["t"].leaders == (None, 1, None)
    assert not view.topics["t"].complete
    assert set(view.infos()) == {"t"}


def test_a_broker_from_before_2_1_is_too_old():
    answer = pack(">hi", 0, 3) + pack(">hhh", 0, 0, 7) + pack(">hhh", 1, 0, 10) + pack(">hhh", 3, 0, 7)
    versions = decode_api_versions(answer)
    assert versions == {0: (0, 7), 1: (0, 10), 3: (0, 7)}
    assert not too_old(versions)
    assert too_old(versions | {1: (0, 9)})
    assert too_old(versions | {1: (11, 20)})
    assert too_old({})
