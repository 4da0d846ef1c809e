"""Server-sent events: the JSON objects of records as ``data``, and in ``id`` how far each partition was read.

A client that reconnects says with ``Last-Event-ID`` what it has had: that acknowledges up to and with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kateway.errors import InvalidParameter
from kateway.model import Record
from kateway.web.formats.jsonrecord import objects

MEDIA_TYPE = b"text/event-stream"
MAX_ID_BYTES = 65536
_VECTOR = re.compile(rb"[0-9]{1,10}:[0-9]{1,19}(,[0-9]{1,10}:[0-9]{1,19})*")


class SseForm:
    """One event a record, a batch in one chunk; a comment as heartbeat."""

    content_type = MEDIA_TYPE
    one_chunk = True
    heartbeat: bytes | None = b":\n\n"
    opening = b""
    closing = b""

    def __init__(self) -> None:
        self._delivered: dict[int, int] = {}

    def encode(
        self,
        partition: int,
        records: Sequence[Record],
        attempts: Sequence[int] | None,
        leases: Sequence[str] | None,
    ) -> list[bytes]:
        others = sorted(item for item in self._delivered.items() if item[0] != partition)
        before = "".join(f"{other}:{offset}," for other, offset in others if other < partition)
        after = "".join(f",{other}:{offset}" for other, offset in others if other > partition)
        start, end = f"id: {before}{partition}:".encode(), f"{after}\ndata: ".encode()
        self._delivered[partition] = records[-1].offset
        return [
            b"%b%d%b%b\n\n" % (start, record.offset, end, found)
            for record, found in zip(records, objects(partition, records, attempts, leases), strict=True)
        ]


def last_event_id(raw: bytes) -> dict[int, int]:
    """A position vector, ``0:7,1:3``: partition → the last offset that the client has had."""
    if len(raw) > MAX_ID_BYTES or not _VECTOR.fullmatch(raw):
        raise InvalidParameter("Last-Event-ID is not a position vector such as 0:7,1:3")
    return {int(partition): int(offset) for partition, _, offset in (part.partition(b":") for part in raw.split(b","))}
