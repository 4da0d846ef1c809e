"""Frames come as they were sent, whatever the pieces; one that was changed, left out or repeated ends the link."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kateway.cluster.frames import OVERHEAD_BYTES, BadFrame, FrameReader, FrameWriter, Kind

KEY = b"k" * 32
FRAMES = st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, (1 << 32) - 1), st.binary(max_size=300)), max_size=6)


def written(frames: list[tuple[Kind, int, bytes]]) -> list[bytes]:
    writer = FrameWriter(KEY)
    return [writer.write(*frame) for frame in frames]


@given(frames=FRAMES, size=st.integers(1, 400))
def test_frames_come_as_they_were_sent(frames: list[tuple[Kind, int, bytes]], size: int) -> None:
    stream = b"".join(written(frames))
    reader = FrameReader(KEY, 300)
    found = [frame for start in range(0, len(stream), size) for frame in reader.feed(stream[start : start + size])]
    assert [tuple(frame) for frame in found] == frames


@given(frames=FRAMES.filter(bool), data=st.data())
def test_changed_byte_ends_the_link(frames: list[tuple[Kind, int, bytes]], data: st.DataObject) -> None:
    stream = bytearray(b"".join(written(frames)))
    place = data.draw(st.integers(0, len(stream) - 1))
    stream[place] ^= data.draw(st.integers(1, 255))
    reader = FrameReader(KEY, 300)
    found = []
    try:
        found = reader.feed(bytes(stream))
        # a longer length waits for the rest: it is found out then
        reader.feed(b"\0" * (400 + OVERHEAD_BYTES))
    except BadFrame:
        pass
    else:
        pytest.fail("a changed frame was taken")
    assert len(found) < len(frames)


def test_frame_that_is_left_out_or_repeated_ends_the_link() -> None:
    first, second = written([(Kind.MESSAGE, 1, b"a"), (Kind.MESSAGE, 1, b"a")])
    with pytest.raises(BadFrame):
        FrameReader(KEY, 300).feed(second)
    with pytest.raises(BadFrame):
        FrameReader(KEY, 300).feed(first + first)
    assert len(FrameReader(KEY, 300).feed(first + second)) == 2


def test_frame_beyond_the_bound_is_refused_by_its_head() -> None:
    (frame,) = written([(Kind.MESSAGE, 1, b"x" * 301)])
    with pytest.raises(BadFrame, match="longer than 300"):
        FrameReader(KEY, 300).feed(frame[:9])
