"""NDJSON: a line a record. As a response each line is a JSON object; as a batch each line is a value as it stands."""

from __future__ import annotations

from collections.abc import Sequence

from kateway.errors import MalformedBatch
from kateway.model import Headers, Message, Record
from kateway.web.formats.jsonrecord import objects
from kateway.web.formats.limits import MAX_BATCH_RECORDS, too_many_records

MEDIA_TYPE = b"application/x-ndjson"


class NdjsonForm:
    """One object a line, a batch in one chunk; a blank line as heartbeat."""

    content_type = MEDIA_TYPE
    one_chunk = True
    heartbeat: bytes | None = b"\n"
    opening = b""
    closing = b""

    def encode(
        self,
        partition: int,
        records: Sequence[Record],
        attempts: Sequence[int] | None,
        leases: Sequence[str] | None,
    ) -> list[bytes]:
        return objects(partition, records, attempts, leases, b"\n")


def parse(body: bytes, key: bytes | None, partition: int | None, headers: Headers) -> list[Message]:
    """One message a line: the line is the value, JSON or not. A CR before the LF and blank lines do not count."""
    if body.count(b"\n") > 2 * MAX_BATCH_RECORDS:
        raise too_many_records()  # before they are taken apart
    messages = [
        Message(line, key, headers, partition)
        for line in (body.replace(b"\r\n", b"\n") if b"\r" in body else body).split(b"\n")
        if line and not line.isspace()
    ]
    if not messages:
        raise MalformedBatch("the batch is empty")
    if len(messages) > MAX_BATCH_RECORDS:
        raise too_many_records()
    return messages
