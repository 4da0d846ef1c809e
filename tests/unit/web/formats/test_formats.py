"""Every form of records has all their members, and reads back its own output."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.errors import MalformedBatch, NotAcceptable, TooLarge
from kateway.model import Message, Record
from kateway.web.formats import frames, jsonarray, ndjson
from kateway.web.formats.limits import MAX_BATCH_RECORDS
from kateway.web.formats.raw import OCTETS, RawForm, single
from kateway.web.messages.negotiate import form

RECORD = Record(7, 1732269600000, b"k", b"text", (("n", b"v"),))

FRAME = b"\xff" * 4 + bytes(8) + b"\xff" * 8 + b"\xff" * 4 + bytes(4) + bytes(4)
"""Without key and headers, with an empty value."""

octets = st.none() | st.binary(max_size=20)
texts = st.text(max_size=10)
records = st.builds(
    Record,
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    octets,
    octets,
    st.lists(st.tuples(texts, octets), max_size=3).map(tuple),
)


def test_an_ndjson_line_is_the_documented_object() -> None:
    (line,) = ndjson.NdjsonForm().encode(0, [RECORD], None, None)
    assert line == (
        b'{"partition":0,"offset":7,"timestamp":1732269600000,"key":"k","value":"text",'
        b'"headers":[{"name":"n","value":"v"}]}\n'
    )


def unpacked(found: dict[str, object], name: str) -> bytes | None:
    if name + "_base64" in found:
        return base64.b64decode(str(found[name + "_base64"]))
    text = found[name]
    return None if text is None else str(text).encode()


@given(st.lists(records, min_size=1, max_size=5), st.integers(0, 100))
def test_json_objects_tell_every_byte_of_a_record(given_records: list[Record], partition: int) -> None:
    for line, record in zip(
        ndjson.NdjsonForm().encode(partition, given_records, None, None), given_records, strict=True
    ):
        found = json.loads(line)
        assert (found["partition"], found["offset"], found["timestamp"]) == (partition, record.offset, record.timestamp)
        assert unpacked(found, "key") == record.key
        assert unpacked(found, "value") == record.value
        assert [(h["name"], unpacked(h, "value")) for h in found["headers"]] == list(record.headers)


@given(st.lists(records, min_size=1, max_size=5), st.integers(0, 100))
def test_first_deliveries_look_alike_with_and_without_their_attempts(
    given_records: list[Record], partition: int
) -> None:
    again = [record for record in given_records for _ in range(2)]
    wanted = ndjson.NdjsonForm()
    assert wanted.encode(partition, again, None, None) == wanted.encode(partition, again, [1] * len(again), None)


def test_a_batch_under_one_lease_tells_it_of_each_record_whatever_its_value_and_lease() -> None:
    records = [Record(3, 5, None, b"text", ()), Record(4, 6, b"k", b"\xff", (("n", b"v"),))]
    lines = ndjson.NdjsonForm().encode(0, records, [1, 1], ['50%"d', '50%"d'])
    assert [orjson.loads(line) for line in lines] == [
        {"partition": 0, "offset": 3, "timestamp": 5, "key": None, "value": "text", "headers": [], "lease": '50%"d'},
        {"partition": 0, "offset": 4, "timestamp": 6, "key": "k", "value_base64": "/w==",
         "headers": [{"name": "n", "value": "v"}], "lease": '50%"d'},
    ]  # fmt: skip


def test_attempts_are_told_from_the_second_on_and_leases_always() -> None:
    first, second = (json.loads(line) for line in ndjson.NdjsonForm().encode(0, [RECORD, RECORD], [1, 2], ["a", "b"]))
    assert "attempt" not in first
    assert second["attempt"] == 2
    assert (first["lease"], second["lease"]) == ("a", "b")


def test_a_json_array_is_one_array_over_many_batches() -> None:
    wanted = jsonarray.JsonForm()
    body = wanted.opening + b"".join(
        piece for _ in range(3) for piece in wanted.encode(0, [RECORD, RECORD], None, None)
    )
    assert len(json.loads(body + wanted.closing)) == 6


def test_raw_values_have_a_newline_behind_each() -> None:
    tombstone = Record(8, 0, None, None)
    assert RawForm().encode(0, [RECORD, tombstone], None, None) == [b"text\n", b"\n"]


def test_one_raw_record_has_its_facts_in_headers() -> None:
    record = Record(7, 5, b"\x00", None, (("content-type", b"image/png"), ("Trace-Id", b"x"), ("bad name", b"y")))
    headers, body = single(3, record, 2, "L1", OCTETS)
    assert body == b""
    assert dict(headers) == {
        b"Content-Type": b"image/png",
        b"X-Partition": b"3",
        b"X-Offset": b"7",
        b"X-Timestamp": b"5",
        b"X-Key-Base64": b"AA==",
        b"X-Attempt": b"2",
        b"X-Lease": b"L1",
        b"X-Tombstone": b"true",
        b"Kateway-Header-Trace-Id": b"x",
    }


@given(st.binary(max_size=30))
def test_a_record_header_never_breaks_out_of_its_http_header(value: bytes) -> None:
    headers, _body = single(0, Record(0, 0, value, b"", (("x", value), ("content-type", value))), None, None, OCTETS)
    for name, text in headers:
        assert b"\r" not in name + text
        assert b"\n" not in name + text


@given(st.lists(records, min_size=1, max_size=5), st.integers(0, 100))
def test_frames_read_back_what_they_wrote(given_records: list[Record], partition: int) -> None:
    body = b"".join(frames.FramesForm().encode(partition, given_records, None, None))
    assert frames.parse(body, None, None, ()) == [
        Message(record.value, record.key, record.headers, partition, record.timestamp) for record in given_records
    ]


def test_a_frame_with_partition_minus_one_is_placed_by_the_request() -> None:
    body = frames.frame(-1, Record(99, -1, None, b"v"))
    assert frames.parse(body, b"k", 3, ()) == [Message(b"v", b"k", (), 3, None)]


@given(st.binary(min_size=1, max_size=80))
def test_any_bytes_are_frames_or_malformed(body: bytes) -> None:
    try:
        assert frames.parse(body, None, None, ())
    except MalformedBatch:
        pass


def test_a_frame_cut_short_is_malformed_and_named() -> None:
    body = frames.frame(0, RECORD) + frames.frame(0, RECORD)[:-1]
    with pytest.raises(MalformedBatch, match="frame 1"):
        frames.parse(body, None, None, ())


def test_ndjson_lines_are_values_as_they_stand() -> None:
    assert ndjson.parse(b'{"a":1}\r\n\nnot json\n  \r\nlast', b"k", 2, ()) == [
        Message(b'{"a":1}', b"k", (), 2),
        Message(b"not json", b"k", (), 2),
        Message(b"last", b"k", (), 2),
    ]


def test_json_elements_are_texts_or_objects() -> None:
    body = orjson.dumps(
        [
            "text",
            {"value": None, "key": "k", "partition": 1},
            {"value_base64": "AP8=", "key_base64": "AA==", "headers": [{"name": "n", "value_base64": "/w=="}]},
            {"value_json": {"b": 1}, "headers": {"x": "y"}},
            {"value": "v", "key": None},
        ]
    )
    assert jsonarray.parse(body, b"dk", 9, ()) == [
        Message(b"text", b"dk", (), 9),
        Message(None, b"k", (), 1),
        Message(b"\x00\xff", b"\x00", (("n", b"\xff"),), 9),
        Message(b'{"b":1}', b"dk", (("x", b"y"),), 9),
        Message(b"v", None, (), 9),
    ]


@pytest.mark.parametrize("number", ["18446744073709551615", "123456789012345678901234567890", "-99999999999999999999"])
def test_whole_numbers_of_a_json_value_keep_all_their_digits(number: str) -> None:
    body = f'[{{"value_json":{{"id":{number},"é":1.5}}}},{{"value":"x","partition":3}}]'.encode()
    first, second = jsonarray.parse(body, None, None, ())
    assert first.value == f'{{"id":{number},"é":1.5}}'.encode()
    assert second == Message(b"x", None, (), 3)


def test_a_number_longer_than_can_be_read_is_malformed() -> None:
    with pytest.raises(MalformedBatch):
        jsonarray.parse(b'[{"value_json":' + b"1" * 5000 + b"}]", None, None, ())


@pytest.mark.parametrize(
    "element",
    [
        b"1", b"null", b"[]", b"{}", b'{"valeu":"x"}', b'{"value":1}', b'{"value":"x","value_base64":"eA=="}',
        b'{"value_base64":"*"}', b'{"value":"x","key":1}', b'{"value":"x","key":"a","key_base64":"YQ=="}',
        b'{"value":"x","partition":-1}', b'{"value":"x","partition":"0"}', b'{"value":"x","partition":true}',
        b'{"value":"x","headers":3}', b'{"value":"x","headers":[3]}', b'{"value":"x","headers":[{"value":"x"}]}',
        b'{"value":"x","headers":{"a":1}}', b'{"value":"x","headers":[{"name":"a","extra":1}]}',
    ],
)  # fmt: skip
def test_a_malformed_element_is_named(element: bytes) -> None:
    with pytest.raises(MalformedBatch, match="element 1"):
        jsonarray.parse(b'["fine",' + element + b"]", None, None, ())


@pytest.mark.parametrize("body", [b"", b"[", b"{}", b"[]", b"\xff", b'["\\ud800"]'])
def test_body_that_is_no_array_of_records_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBatch):
        jsonarray.parse(body, None, None, ())


@pytest.mark.parametrize("body", [b"", b"\n\n", b"\r\n"])
def test_an_empty_ndjson_batch_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBatch):
        ndjson.parse(body, None, None, ())


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, OCTETS),
        (b"*/*", OCTETS),
        (b"text/plain", b"text/plain"),
        (b"text/*", b"text/plain"),
        (b"application/x-ndjson", b"application/x-ndjson"),
        (b"text/html, application/json;q=0.9, */*;q=0.1", b"application/json"),
        (b"application/json;q=0, */*", OCTETS),
        (b"application/vnd.kateway.frames; q=1.0", b"application/vnd.kateway.frames"),
        (b"*/*, application/json", b"application/json"),
    ],
)
def test_accept_chooses_the_form(accept: bytes | None, content_type: bytes) -> None:
    assert form(accept).content_type == content_type


@pytest.mark.parametrize("accept", [b"text/html", b"image/*", b"application/json;q=0", b"*/*;q=x", b";"])
def test_an_accept_that_names_none_is_refused(accept: bytes) -> None:
    with pytest.raises(NotAcceptable):
        form(accept)


@pytest.mark.parametrize(
    ("parse", "many"),
    [
        (ndjson.parse, lambda count: b"a\n" * count),
        (ndjson.parse, lambda count: b"a\r\n" * count),
        (jsonarray.parse, lambda count: b"[" + b",".join([b'""'] * count) + b"]"),
        (frames.parse, lambda count: FRAME * count),
    ],
)
def test_batch_of_more_records_than_one_may_have_is_refused(
    parse: Callable[..., list[Message]], many: Callable[[int], bytes]
) -> None:
    assert len(parse(many(MAX_BATCH_RECORDS), None, None, ())) == MAX_BATCH_RECORDS
    for count in (MAX_BATCH_RECORDS + 1, 5 * MAX_BATCH_RECORDS):
        with pytest.raises(TooLarge):
            parse(many(count), None, None, ())


def test_blank_lines_do_not_count_as_records() -> None:
    assert len(ndjson.parse(b"a\n\n" * MAX_BATCH_RECORDS, None, None, ())) == MAX_BATCH_RECORDS


@pytest.mark.parametrize("depth", [300, 1000, 1024, 100_000])
def test_value_json_nested_too_deeply_is_the_callers_fault(depth: int) -> None:
    body = b'[{"value_json":' + b"[" * depth + b"]" * depth + b"}]"
    try:
        (message,) = jsonarray.parse(body, None, None, ())
    except MalformedBatch:
        assert depth > 300
    else:
        assert message.value == b"[" * depth + b"]" * depth
