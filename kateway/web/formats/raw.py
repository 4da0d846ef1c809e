"""Raw: the value itself. One record has its facts in headers; several are values, each with a newline behind it."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

from kateway.model import Record
from kateway.web.exchange import Header

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PRINTABLE = re.compile(rb"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_FIELD_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]*")
_TRACE = {"traceparent", "tracestate"}
OCTETS = b"application/octet-stream"


class RawForm:
    """Values, each followed by a newline, each its own HTTP chunk. No heartbeat: any byte would be a value."""

    one_chunk = False
    heartbeat: bytes | None = None
    opening = b""
    closing = b""

    def __init__(self, content_type: bytes = OCTETS) -> None:
        self.content_type = content_type

    def encode(
        self,
        partition: int,
        records: Sequence[Record],
        attempts: Sequence[int] | None,
        leases: Sequence[str] | None,
    ) -> list[bytes]:
        # by index: attribute access on a NamedTuple costs twice as much, and this line runs for every record read
        return [(record[3] or b"") + b"\n" for record in records]


def single(
    partition: int, record: Record, attempt: int | None, lease: str | None, default_type: bytes
) -> tuple[list[Header], bytes]:
    """Headers and body of one record alone: the body is the value, byte for byte."""
    content_type = default_type
    extra: list[Header] = []
    for name, value in record.headers:
        if value is None or not _FIELD_VALUE.fullmatch(value):
            continue  # a name that cannot be an HTTP header is left out; every other form carries it
        if name == "content-type":
            content_type = value or default_type
        elif _TOKEN.fullmatch(name):
            extra.append((b"Kateway-Header-" + name.encode("ascii"), value))
            if name in _TRACE:
                # as a reader's tracing looks for it
                extra.append((name.encode("ascii"), value))
    headers: list[Header] = [
        (b"Content-Type", content_type),
        (b"X-Partition", b"%d" % partition),
        (b"X-Offset", b"%d" % record.offset),
        (b"X-Timestamp", b"%d" % record.timestamp),
    ]
    if record.key is not None:
        if _PRINTABLE.fullmatch(record.key) or not record.key:
            headers.append((b"X-Key", record.key))
        else:
            headers.append((b"X-Key-Base64", base64.b64encode(record.key)))
    if attempt is not None:
        headers.append((b"X-Attempt", b"%d" % attempt))
    if lease is not None:
        headers.append((b"X-Lease", lease.encode("ascii")))
    if record.value is None:
        headers.append((b"X-Tombstone", b"true"))
    return headers + extra, record.value or b""
