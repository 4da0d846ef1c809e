"""Paths, queries and headers become typed values, or the fault is named."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.core.access.authorization import GROUP_NAME, TOPIC_NAME
from kateway.core.access.control import OPEN_NAME
from kateway.core.reads import Start
from kateway.errors import BadRequest, Contradiction, InvalidName, InvalidParameter, KatewayError, UnknownParameter
from kateway.web import params
from kateway.web.messages import paths, queries
from kateway.web.messages.paths import TopicPath


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"/v1/topics/foobar", TopicPath("v1", "foobar", None, None)),
        (b"/v12/topics/a.b_c-d/g.1", TopicPath("v12", "a.b_c-d", "g.1", None)),
        (b"/v1/topics/foobar/group1/lag", TopicPath("v1", "foobar", "group1", "lag")),
        (b"/v1/topics/foo%62ar", TopicPath("v1", "foobar", None, None)),
    ],
)
def test_a_topics_path_is_taken_apart(raw: bytes, expected: TopicPath) -> None:
    assert paths.topic_path(raw, OPEN_NAME, OPEN_NAME) == expected


@pytest.mark.parametrize(
    "raw", [b"/", b"/live", b"/v1/topics", b"/v1/other/x", b"/v1/topics/a/b/c/d", b"x/v1/topics/a"]
)
def test_other_paths_are_not_a_topics(raw: bytes) -> None:
    assert paths.topic_path(raw, OPEN_NAME, OPEN_NAME) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"/1/topics/foobar",
        b"/V1/topics/foobar",
        b"/v/topics/foobar",
        b"/v1/topics/",
        b"/v1/topics/foo%2Fbar",
        b"/v1/topics/..",
        b"/v1/topics/%2e%2e",
        b"/v1/topics/foo%00",
        b"/v1/topics/f\xc3\xb6",
        b"/v1/topics/%ff",
        b"/v1/topics/" + b"x" * 250,
        b"/v1/topics/foobar/",
        b"/v1/topics/foobar/gr oup",
        b"/v1/topics/foobar/%20",
        b"/v1/topics/foobar%0A",
    ],
)
def test_names_outside_the_grammar_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidName):
        paths.topic_path(raw, OPEN_NAME, OPEN_NAME)


def test_with_a_registry_a_dot_is_between_an_application_and_its_topic() -> None:
    assert paths.topic_path(b"/v1/topics/app.a/b", TOPIC_NAME, GROUP_NAME) == TopicPath("v1", "app.a", "b", None)
    for raw in (b"/v1/topics/a/b.c", b"/v1/topics/a.b.c", b"/v1/topics/.a", b"/v1/topics/a."):
        with pytest.raises(InvalidName):
            paths.topic_path(raw, TOPIC_NAME, GROUP_NAME)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_path_or_a_named_fault(raw: bytes) -> None:
    try:
        found = paths.topic_path(b"/v1/topics/" + raw, OPEN_NAME, OPEN_NAME)
    except InvalidName:
        return
    assert found is None or OPEN_NAME.fullmatch(found.topic)


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(UnknownParameter, match="'akc'"):
        queries.publish_query(b"akc=1")


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="twice"):
        queries.publish_query(b"key=a&key=a")


def test_a_publish_query_has_its_defaults() -> None:
    assert queries.publish_query(b"") == queries.PublishQuery(None, None, None, 5.0, 3, False)


def test_handoff_is_allowed_unless_the_query_says_0() -> None:
    assert queries.publish_query(b"handoff=1") == queries.publish_query(b"")
    assert queries.publish_query(b"").handoff
    assert not queries.publish_query(b"handoff=0").handoff
    with pytest.raises(InvalidParameter):
        queries.publish_query(b"handoff=2")


def test_a_publish_query_is_read() -> None:
    query = queries.publish_query(b"key=a%2Bb+c&partition=3&ack=2&timeout=0.5&retry=0&batch=1")
    assert query == queries.PublishQuery(b"a+b+c", 3, -1, 0.5, 0, True)


def test_numbers_may_be_as_programs_write_them() -> None:
    query = queries.publish_query(b"timeout=%b&retry=1000&ack=2147483647" % str(0.1 + 0.2).encode())
    assert (query.timeout, query.retries, query.acks) == (0.1 + 0.2, 1000, -1)


@pytest.mark.parametrize(("raw", "acks"), [(b"0", 0), (b"1", 1), (b"2", -1), (b"17", -1), (b"-1", -1), (b"all", -1)])
def test_acks_are_none_leader_or_all(raw: bytes, acks: int) -> None:
    assert queries.acks(raw, "ack") == acks


@pytest.mark.parametrize(
    "raw",
    [
        b"ack=-2", b"ack=x", b"ack=", b"partition=-1", b"partition=2147483648", b"partition=x", b"timeout=0",
        b"timeout=-1", b"timeout=61", b"timeout=nan", b"timeout=inf", b"timeout=1e1", b"timeout=", b"retry=-1",
        b"retry=1.5", b"batch=yes", b"key_base64=%%%", b"key_base64=a",
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidParameter):
        queries.publish_query(raw)


def test_an_empty_key_is_not_no_key() -> None:
    assert queries.publish_query(b"key=").key == b""
    assert queries.publish_query(b"key_base64=").key == b""
    assert queries.publish_query(b"").key is None


def test_two_ways_to_give_a_key_contradict() -> None:
    with pytest.raises(Contradiction):
        queries.publish_query(b"key=a&key_base64=YQ==")


def test_record_headers_are_taken_as_they_are() -> None:
    found = queries.publish_headers(
        [(b"content-type", b"text/x"), (b"kateway-header-trace", b"a%20b"), (b"key", b"k%20"), (b"acks", b"1")]
    )
    assert found == queries.PublishHeaders(b"k%20", 1, (("content-type", b"text/x"), ("trace", b"a%20b")))


def test_a_record_header_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidParameter):
        queries.publish_headers([(b"kateway-header-", b"x")])


def test_query_and_header_may_agree_but_not_differ() -> None:
    assert queries.agreed("key", b"a", b"a") == b"a"
    assert queries.agreed("key", None, b"a") == b"a"
    assert queries.agreed("key", b"a", None) == b"a"
    with pytest.raises(Contradiction, match="key"):
        queries.agreed("key", b"a", b"b")


def test_a_subscription_has_its_defaults() -> None:
    query = queries.subscribe_query(b"")
    assert (query.limit, query.timeout, query.idle, query.max_bytes) == (1, 30.0, 1.0, 1 << 20)
    assert (query.reset, query.explicit, query.ack_timeout, query.follow) == ("earliest", False, 60.0, False)


def test_a_large_subscription_idles_as_long_as_it_waits() -> None:
    query = queries.subscribe_query(b"limit=10000000&timeout=7")
    assert (query.idle, query.max_bytes) == (7.0, None)


def test_a_follower_has_no_limit_and_no_idle_end() -> None:
    query = queries.subscribe_query(b"follow=1")
    assert query.idle == math.inf
    assert query.limit == params.INT64_MAX
    assert query.max_bytes is None


@pytest.mark.parametrize(
    "raw", [b"limit=0", b"timeout=301", b"offset=middle", b"ack=maybe", b"ack_timeout=0.5", b"queue=x", b"max_bytes=0"]
)
def test_a_subscription_that_cannot_be_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidParameter):
        queries.subscribe_query(raw)


@pytest.mark.parametrize(
    ("raw", "start"),
    [
        (b"offset=earliest", Start("earliest")),
        (b"offset=latest", Start("latest")),
        (b"offset=-5", Start("last", 5)),
        (b"timestamp=1000", Start("timestamp", 1000)),
        (b"last=5", Start("last", 5)),
    ],
)
def test_read_begins_where_its_query_says(raw: bytes, start: Start) -> None:
    assert queries.read_query(b"partition=0&" + raw).start == start


@pytest.mark.parametrize(
    "raw",
    [
        b"offset=middle",
        b"offset=-0",
        b"offset=-",
        b"offset=--1",
        b"timestamp=-1",
        b"offset=1&timestamp=1",
        b"offset=1&last=1",
        b"last=0",
    ],
)
def test_start_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(KatewayError):
        queries.read_query(b"partition=0&" + raw)


@pytest.mark.parametrize("raw", [b"offset=3", b"partition=3", b"limit=3"])
def test_a_read_needs_partition_and_offset(raw: bytes) -> None:
    with pytest.raises(BadRequest):
        queries.read_query(raw)


def test_read_of_all_partitions_begins_at_a_time_or_with_the_last() -> None:
    assert queries.read_query(b"last=5") == (None, Start("last", 5), 5, 30.0, 1 << 20, None)
    assert queries.read_query(b"last=5&limit=2").limit == 2
    assert queries.read_query(b"timestamp=9&limit=7") == (None, Start("timestamp", 9), 7, 30.0, 1 << 20, None)


def test_a_read_has_the_bounds_of_a_subscription() -> None:
    read = queries.read_query
    assert read(b"partition=0&offset=7") == (0, Start("offset", 7), 1, 30.0, 1 << 20, None)
    assert read(b"partition=0&offset=7&limit=1000&timeout=300").max_bytes == 1 << 20
    assert read(b"partition=0&offset=7&limit=1001&timeout=0").max_bytes == params.INT64_MAX
    assert read(b"partition=0&offset=7&limit=1001&max_bytes=5").max_bytes == 5


@pytest.mark.parametrize("raw", [b"limit=0", b"timeout=301", b"timeout=-1", b"max_bytes=0"])
def test_a_read_that_cannot_be_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidParameter):
        queries.read_query(b"partition=0&offset=7&" + raw)


def test_a_full_cache_is_emptied_and_goes_on() -> None:
    parsed: list[bytes] = []

    def parse(raw: bytes) -> bytes:
        parsed.append(raw)
        return raw

    cache = params.Cache(parse)
    for number in range(params.CACHED_TARGETS + 1):
        cache(b"%d" % number)
    cache(b"0")
    cache(b"0")
    assert parsed.count(b"0") == 2
