"""Record batches: decoding inverts encoding, broken bytes have one error, hidden records are not seen."""

from __future__ import annotations

import struct
import zlib

import cramjam
import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kateway.errors import CorruptRecords
from kateway.model import Message, Record
from kateway.storage.kafka.protocol import message_sets as messagesets
from kateway.storage.kafka.protocol import record_batches as records
from kateway.storage.kafka.protocol.compression import compress, decompress

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
content = st.none() | st.binary(max_size=300)
message = st.builds(
    Message,
    value=content,
    key=content,
    headers=st.lists(st.tuples(st.text(max_size=20), content), max_size=4).map(tuple),
    timestamp=st.none() | st.integers(min_value=0, max_value=1 << 45),
)


def decoded(blob: bytes, from_offset: int = 0, aborted: tuple[tuple[int, int], ...] = ()) -> list[Record]:
    return [record for batch in records.batches(blob, aborted) for record in records.decode(batch, from_offset)]


def restamped(batch: bytes, producer: int, epoch: int, sequence: int) -> bytes:
    """The batch under another producer id, epoch and base sequence, with the crc that is right for it."""
    covered = batch[21:43] + struct.pack(">qhi", producer, epoch, sequence) + batch[57:]
    return batch[:17] + struct.pack(">I", google_crc32c.value(covered)) + covered


def with_crc(covered: bytes, base: int = 0) -> bytes:
    batch = struct.pack(">qiibI", base, len(covered) + 9, -1, 2, 0) + covered
    return restamped(batch, -1, -1, -1)


def batch_of(  # every header field by hand
    base: int, body: bytes, count: int, *, attributes: int = 0, producer: int = -1, delta: int | None = None
) -> bytes:
    delta = count - 1 if delta is None else delta
    batch = with_crc(struct.pack(">hiqqqhii", attributes, delta, 5, 9, producer, 0, 0, count) + body, base)
    return restamped(batch, producer, 0, 0)


def control(base: int, producer: int, kind: int) -> bytes:
    body = b"\0\0\0" + b"\x08" + struct.pack(">hh", 0, kind) + b"\x0c" + b"\0" * 6 + b"\0"
    return batch_of(base, bytes((len(body) * 2,)) + body, 1, attributes=0x30, producer=producer)


@given(messages=st.lists(message, min_size=1, max_size=40), codec=st.sampled_from(CODECS), now=st.integers(0, 1 << 44))
def test_encoded_records_are_decoded(messages: list[Message], codec: str, now: int) -> None:
    blob = records.encode_batch(messages, now_ms=now, compression=codec, base_offset=70)
    expected = [
        Record(70 + n, now if m.timestamp is None else m.timestamp, m.key, m.value, m.headers)
        for n, m in enumerate(messages)
    ]
    assert decoded(blob) == expected
    assert decoded(blob, 72) == expected[2:]
    (batch,) = records.batches(blob)
    assert (batch.base_offset, batch.last_offset, batch.record_count) == (70, 69 + len(messages), len(messages))
    assert sum(map(records.encoded_size, messages)) + records.HEADER_BYTES >= len(blob) or codec != "none"


@pytest.mark.parametrize("size", [0, 63, 64, 127, 8191, 8192, 20000, 2097152])
def test_lengths_at_the_edges_of_their_varints_survive(size: int) -> None:
    sent = Message(b"v" * size, b"k" * size, (("n" * min(size, 30000), b"h" * size),))
    (record,) = decoded(records.encode_batch([sent], now_ms=1))
    assert (record.value, record.key, record.headers) == (sent.value, sent.key, sent.headers)


def test_null_and_empty_differ() -> None:
    blob = records.encode_batch([Message(None, b"", (("a", None), ("a", b"")))], now_ms=1)
    assert decoded(blob) == [Record(0, 1, b"", None, (("a", None), ("a", b"")))]


def test_a_batch_of_ten_thousand_numbers_its_records() -> None:
    blob = records.encode_batch([Message(b"%d" % n) for n in range(10000)], now_ms=1)
    assert [(r.offset, r.value) for r in decoded(blob)] == [(n, b"%d" % n) for n in range(10000)]


def test_producer_id_epoch_and_sequence_lie_where_the_format_has_them() -> None:
    messages = [Message(b"a", b"k"), Message(None)]
    plain = records.encode_batch(messages, now_ms=3)
    assert restamped(plain, 8, 2, 77) == records.encode_batch(messages, now_ms=3, producer_id=8, epoch=2, sequence=77)


def test_a_cut_off_last_batch_is_left_out() -> None:
    first = records.encode_batch([Message(b"a")], now_ms=1)
    second = records.encode_batch([Message(b"b")], now_ms=1, base_offset=1)
    for cut in range(len(second)):
        assert [batch.base_offset for batch in records.batches(first + second[:cut])] == [0]


def test_every_flipped_byte_behind_the_length_is_found() -> None:
    blob = records.encode_batch([Message(b"abc", b"k", (("h", b"v"),))], now_ms=1)
    for position in range(17, len(blob)):
        broken = blob[:position] + bytes((blob[position] ^ 0x40,)) + blob[position + 1 :]
        with pytest.raises(CorruptRecords):
            decoded(broken)


def test_the_error_names_the_offset_of_the_batch() -> None:
    blob = records.encode_batch([Message(b"abc")], now_ms=1, base_offset=912)
    with pytest.raises(CorruptRecords, match="912"):
        decoded(blob[:-1] + b"\x07")


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_corrupt(blob: bytes) -> None:
    try:
        decoded(blob)
    except CorruptRecords:
        pass


@settings(max_examples=300)
@given(body=st.binary(max_size=120), count=st.integers(-3, 50), attributes=st.integers(0, 0x3F))
def test_any_body_under_a_right_crc_decodes_or_is_corrupt(body: bytes, count: int, attributes: int) -> None:
    try:
        decoded(batch_of(0, body, count, attributes=attributes, delta=max(count, 0)))
    except CorruptRecords:
        pass


@given(messages=st.lists(message, min_size=1, max_size=5), data=st.data())
def test_damage_under_a_right_crc_decodes_or_is_corrupt(messages: list[Message], data: st.DataObject) -> None:
    blob = bytearray(records.encode_batch(messages, now_ms=1))
    for _ in range(data.draw(st.integers(1, 3))):
        blob[data.draw(st.integers(records.HEADER_BYTES, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded(restamped(bytes(blob), -1, -1, -1))
    except CorruptRecords:
        pass


def test_control_batches_are_passed_over() -> None:
    blob = records.encode_batch([Message(b"a")], now_ms=1) + control(1, 7, 1)
    assert [record.value for record in decoded(blob)] == [b"a"]
    assert records.batches(blob)[-1].last_offset == 1


def test_records_of_an_aborted_transaction_are_hidden_and_those_behind_its_marker_are_not() -> None:
    def data(base: int, producer: int, value: bytes, transactional: bool = True) -> bytes:
        body = b"\0\0\0\x01" + bytes((len(value) * 2,)) + value + b"\0"
        body = bytes((len(body) * 2,)) + body
        return batch_of(base, body, 1, attributes=0x10 if transactional else 0, producer=producer)

    blob = (
        data(0, 7, b"kept before")
        + data(1, 8, b"aborted")
        + data(2, 7, b"committed")
        + data(3, 8, b"aborted too")
        + control(4, 8, 0)
        + control(5, 7, 1)
        + data(6, 8, b"kept behind")
        + data(7, 8, b"no transaction", False)
    )
    seen = [record.value for record in decoded(blob, aborted=((8, 1),))]
    assert seen == [b"kept before", b"committed", b"kept behind", b"no transaction"]
    assert records.batches(blob, ((8, 1),))[-1].last_offset == 7


def test_the_broker_s_own_time_wins_where_the_topic_says_so() -> None:
    body = b"\x0e\0\x04\0\x01\x02a\0"
    assert [record.timestamp for record in decoded(batch_of(0, body, 1, attributes=0x08))] == [9]
    assert [record.timestamp for record in decoded(batch_of(0, body, 1))] == [7]


# --- compression -------------------------------------------------------------------------------------------------


@given(codec=st.sampled_from([1, 2, 3, 4]), data=st.binary(max_size=3000), times=st.integers(1, 200))
@settings(max_examples=100)
def test_compressed_bytes_are_decompressed(codec: int, data: bytes, times: int) -> None:
    assert decompress(codec, compress(codec, data * times)) == data * times


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_bomb_is_refused(codec: int) -> None:
    bomb = compress(codec, bytes(4 << 20))
    with pytest.raises(CorruptRecords, match="more than 1048576 bytes"):
        decompress(codec, bomb, max_bytes=1 << 20)


@given(codec=st.sampled_from([1, 2, 3, 4, 5, 7]), data=st.binary(max_size=100))
def test_any_bytes_decompress_or_are_corrupt(codec: int, data: bytes) -> None:
    for broken in (data, compress(codec, b"abcdef" * 30)[: len(data)], b"\x82SNAPPY\0\0\0\0\1\0\0\0\1" + data):
        try:
            decompress(codec, broken, max_bytes=1 << 20)
        except CorruptRecords:
            pass


def test_a_bare_snappy_block_is_read() -> None:
    assert decompress(2, bytes(cramjam.snappy.compress_raw(b"abc" * 50))) == b"abc" * 50


def test_a_batch_that_compression_would_enlarge_is_left_plain() -> None:
    blob = records.encode_batch([Message(b"a")], now_ms=1, compression="gzip")
    assert blob == records.encode_batch([Message(b"a")], now_ms=1)


# --- message sets --------------------------------------------------------------------------------------------------


def entry(offset: int, magic: int, value: bytes | None, *, key: bytes | None = None, attributes: int = 0) -> bytes:
    rest = struct.pack(">bb", magic, attributes) + (struct.pack(">q", 1000 + offset) if magic else b"")
    for part in (key, value):
        rest += struct.pack(">i", -1 if part is None else len(part)) + (part or b"")
    rest = struct.pack(">I", zlib.crc32(rest)) + rest
    return struct.pack(">qi", offset, len(rest)) + rest


@pytest.mark.parametrize("magic", [0, 1])
def test_plain_message_sets_are_read(magic: int) -> None:
    blob = entry(4, magic, b"a", key=b"k") + entry(5, magic, None, key=b"")
    times = [1004, 1005] if magic else [-1, -1]
    assert decoded(blob) == [Record(4, times[0], b"k", b"a"), Record(5, times[1], b"", None)]
    assert [record.offset for record in decoded(blob, 5)] == [5]


@pytest.mark.parametrize("codec", [1, 2, 3])
def test_compressed_message_sets_give_their_own_offsets(codec: int) -> None:
    old = b"".join(entry(n, 0, b"v%d" % n) for n in (7, 8, 9))
    new = b"".join(entry(n, 1, b"v%d" % (7 + n)) for n in (0, 1, 2))
    for magic, inner in ((0, old), (1, new)):
        blob = entry(9, magic, compress(codec, inner), attributes=codec)
        assert [(r.offset, r.value) for r in decoded(blob, 8)] == [(8, b"v8"), (9, b"v9")]


def test_the_first_lz4_frames_have_a_wrong_header_checksum_and_are_read() -> None:
    frame = bytearray(compress(3, b"".join(entry(n, 0, b"v") for n in range(3))))
    frame[6] = 0x1A
    blob = entry(2, 0, bytes(frame), attributes=3)
    assert len(decoded(blob)) == 3


@given(magic=st.sampled_from([0, 1]), data=st.data())
def test_a_broken_message_set_is_corrupt(magic: int, data: st.DataObject) -> None:
    inner = bytearray(entry(0, magic, b"value", key=b"key"))
    inner[data.draw(st.integers(0, len(inner) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    del inner[data.draw(st.integers(0, len(inner))) :]
    try:
        messagesets.decode(entry(0, magic, compress(1, bytes(inner)), attributes=1), 0, 1 << 20)
    except CorruptRecords:
        pass
