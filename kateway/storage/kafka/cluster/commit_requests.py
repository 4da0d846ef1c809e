"""Divides a commit among requests, so that a coordinator can store each.

A coordinator writes the offsets of one request as one batch of ``__consumer_offsets``, which takes 1 MB where it is not
set otherwise. Kafka 3.9 refuses a longer one as ``INVALID_COMMIT_OFFSET_SIZE``, Kafka 4.3 as ``UNKNOWN_SERVER_ERROR``:
255 partitions with 4,000 characters of metadata each are too many for one.
"""

from __future__ import annotations

from collections.abc import Mapping

from kateway.model import Committed

MAX_REQUEST_BYTES = 512 * 1024
"""Of a request's offsets, as they are stored."""
MIN_DIVIDED_BYTES = 4096
"""What is not longer than this is not divided any more: what the coordinator says of it has another cause."""
_RECORD_BYTES = 64
"""Of an offset in the store beside group, topic and metadata."""

Offsets = Mapping[int, Committed]


def stored_bytes(group: str, topic: str, offsets: Offsets) -> int:
    """Returns about as many bytes as the offsets take in the store."""
    each = _RECORD_BYTES + len(group.encode()) + len(topic.encode())
    return sum(each + len(position.metadata.encode()) for position in offsets.values())


def divide(group: str, topic: str, offsets: Offsets, max_bytes: int = MAX_REQUEST_BYTES) -> list[Offsets]:
    """Divides offsets in halves until each part is as short as it should be."""
    parts: list[Offsets] = []
    waiting = [offsets]
    while waiting:
        part = waiting.pop()
        if stored_bytes(group, topic, part) > max_bytes and len(part) > 1:
            waiting += reversed(halves(part))
        else:
            parts.append(part)
    return parts


def halves(offsets: Offsets) -> tuple[Offsets, Offsets]:
    """Divides offsets in two, by their number."""
    places = list(offsets.items())
    middle = len(places) // 2
    return dict(places[:middle]), dict(places[middle:])


def may_be_divided(group: str, topic: str, offsets: Offsets) -> bool:
    """Whether a refusal may be for the sake of the length."""
    return len(offsets) > 1 and stored_bytes(group, topic, offsets) > MIN_DIVIDED_BYTES
