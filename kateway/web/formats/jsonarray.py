"""JSON: one array. As a response of record objects, as a batch of texts and record objects."""

from __future__ import annotations

from collections.abc import Sequence

from kateway.errors import MalformedBatch
from kateway.model import Headers, Message, Record
from kateway.web.formats.jsonrecord import loads, message, objects
from kateway.web.formats.limits import MAX_BATCH_RECORDS, too_many_records

MEDIA_TYPE = b"application/json"


class JsonForm:
    """An array that is written as its records come; no heartbeat, as white space before the end says little."""

    content_type = MEDIA_TYPE
    one_chunk = True
    heartbeat: bytes | None = None
    opening = b"["
    closing = b"]"

    def __init__(self) -> None:
        self._begun = False

    def encode(
        self,
        partition: int,
        records: Sequence[Record],
        attempts: Sequence[int] | None,
        leases: Sequence[str] | None,
    ) -> list[bytes]:
        pieces = objects(partition, records, attempts, leases)
        first = pieces[0]
        pieces = [b"," + piece for piece in pieces]
        if not self._begun:
            self._begun = True
            pieces[0] = first
        return pieces


def parse(body: bytes, key: bytes | None, partition: int | None, headers: Headers) -> list[Message]:
    """A batch: an array whose elements are texts or record objects. ``MalformedBatch`` names the element."""
    elements = loads(body, "the body")
    if not isinstance(elements, list):
        raise MalformedBatch("the body is not a JSON array")
    if not elements:
        raise MalformedBatch("the batch is empty")
    if len(elements) > MAX_BATCH_RECORDS:
        raise too_many_records()
    return [message(element, f"element {index}", key, partition, headers) for index, element in enumerate(elements)]
