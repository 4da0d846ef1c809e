"""A record as a JSON object: what ndjson, json, sse and websocket send, and the objects that a JSON batch holds."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

import orjson

from kateway.errors import InvalidParameter, MalformedBatch
from kateway.model import Headers, Message, Record
from kateway.web.params import INT32_MAX, INT64_MAX, from_base64

_KNOWN = {"key", "key_base64", "value", "value_base64", "value_json", "headers", "partition", "timestamp"}
_KNOWN_HEADER = {"name", "value", "value_base64"}
_LONG_NUMBER = re.compile(rb"[0-9]{19}")


def objects(
    partition: int,
    records: Sequence[Record],
    attempts: Sequence[int] | None,
    leases: Sequence[str] | None,
    end: bytes = b"",
) -> list[bytes]:
    """One JSON object a record, each with ``end`` behind it. ``attempt`` is told from the second delivery on."""
    if attempts is None and leases is None:
        return _first_deliveries(partition, records, end)
    if leases is not None and len(set(leases)) == 1 and (attempts is None or set(attempts) == {1}):
        # a batch that is leased together for the first time: the lease stands behind each record, the same text
        return _first_deliveries(partition, records, end, b',"lease":%b' % orjson.dumps(leases[0]))
    pieces: list[bytes] = []
    for index, record in enumerate(records):
        found = record_object(partition, record)
        if attempts is not None and attempts[index] > 1:
            found["attempt"] = attempts[index]
        if leases is not None:
            found["lease"] = leases[index]
        pieces.append(orjson.dumps(found) + end)
    return pieces


def _first_deliveries(partition: int, records: Sequence[Record], end: bytes, lease: bytes = b"") -> list[bytes]:
    """Hot, once for each record read: formatting around dumped texts takes half the time of dumping an object, and
    headers mostly are those of the record before.
    """
    form = b'{"partition":%d,"offset":%%d,"timestamp":%%d,"key":%%b,"value":%%b,"headers":%%b%b}%b' % (
        partition,
        lease.replace(b"%", b"%%"),
        end,
    )
    dumps = orjson.dumps
    pieces: list[bytes] = []
    append = pieces.append
    before: Headers = ()
    shown = b"[]"
    for record in records:
        offset, timestamp, key, value, headers = record
        if headers != before:
            before, shown = headers, dumps([_header(name, text) for name, text in headers])
        try:
            append(
                form
                % (
                    offset,
                    timestamp,
                    b"null" if key is None else dumps(key.decode()),
                    b"null" if value is None else dumps(value.decode()),
                    shown,
                )
            )
        except UnicodeDecodeError:
            append(dumps(record_object(partition, record))[:-1] + lease + b"}" + end)
    return pieces


def record_object(partition: int, record: Record) -> dict[str, Any]:
    """Returns a record's JSON object, before it is dumped."""
    found: dict[str, Any] = {"partition": partition, "offset": record.offset, "timestamp": record.timestamp}
    _put(found, "key", record.key)
    _put(found, "value", record.value)
    found["headers"] = [_header(name, text) for name, text in record.headers]
    return found


def _header(name: str, value: bytes | None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name}
    _put(found, "value", value)
    return found


def _put(found: dict[str, Any], name: str, raw: bytes | None) -> None:
    try:
        found[name] = None if raw is None else raw.decode("utf-8")
    except UnicodeDecodeError:
        found[name + "_base64"] = base64.b64encode(raw or b"").decode("ascii")


# --- the other way: what a client publishes -------------------------------------------------------------------------


def loads(body: bytes | str, what: str) -> Any:
    """JSON as it was sent: orjson makes floats of whole numbers beyond 64 bits. ``MalformedBatch``."""
    try:
        found = orjson.loads(body)
        raw = body.encode() if isinstance(body, str) else body
        return json.loads(body) if b'"value_json"' in raw and _LONG_NUMBER.search(raw) else found
    except (ValueError, RecursionError) as error:
        raise MalformedBatch(f"{what} is not JSON: {error}") from error


def _dumps(found: Any, where: str) -> bytes:
    try:
        return orjson.dumps(found)
    except orjson.JSONEncodeError:  # a whole number beyond 64 bits, or nested more deeply than orjson goes
        try:
            return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
        except RecursionError as error:
            raise MalformedBatch(f"{where} is nested too deeply") from error


def message(element: Any, where: str, key: bytes | None, partition: int | None, headers: Headers) -> Message:
    """A message from a parsed JSON element; ``key``, ``partition`` and ``headers`` are the request's defaults.

    ``MalformedBatch`` names the fault and ``where``.
    """
    if isinstance(element, str):
        return Message(_encoded(element, where), key, headers, partition)
    if not isinstance(element, dict):
        raise MalformedBatch(f"{where} is neither a text nor an object")
    unknown = element.keys() - _KNOWN
    if unknown:
        raise MalformedBatch(f"{where} has an unknown member {min(unknown)!r}; known are {', '.join(sorted(_KNOWN))}")
    given = element.keys() & {"value", "value_base64", "value_json"}
    if len(given) != 1:
        raise MalformedBatch(f"{where} needs exactly one of value, value_base64 and value_json")
    if "value_json" in element:
        value: bytes | None = _dumps(element["value_json"], where)
    else:
        value = _bytes(element, "value", where)
    if "key" in element and "key_base64" in element:
        raise MalformedBatch(f"{where} has both key and key_base64")
    if "key" in element or "key_base64" in element:
        key = _bytes(element, "key", where)
    if "partition" in element:
        partition = element["partition"]
        if type(partition) is not int or not 0 <= partition <= INT32_MAX:
            raise MalformedBatch(f"{where} has a partition that is not a whole number from 0 on")
    timestamp = element.get("timestamp")
    if "timestamp" in element and (type(timestamp) is not int or not 0 <= timestamp <= INT64_MAX):
        raise MalformedBatch(f"{where} has a timestamp that is not whole milliseconds since the epoch")
    own = _headers(element["headers"], where) if "headers" in element else ()
    return Message(value, key, headers + own if headers else own, partition, timestamp)


def _bytes(element: dict[str, Any], name: str, where: str) -> bytes | None:
    """The member ``name`` (a text or null) or ``name_base64``."""
    encoded = element.get(name + "_base64")
    if encoded is not None:
        if not isinstance(encoded, str):
            raise MalformedBatch(f"{where}: {name}_base64 is not a text")
        try:
            return from_base64(encoded, name + "_base64")
        except InvalidParameter as error:
            raise MalformedBatch(f"{where}: {error.detail}") from error
    text = element.get(name)
    if text is None:
        return None
    if not isinstance(text, str):
        raise MalformedBatch(f"{where}: {name} is not a text (value_json takes any JSON)")
    return _encoded(text, where)


def _encoded(text: str, where: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MalformedBatch(f"{where} holds half a surrogate pair, which is no text") from error


def _headers(given: Any, where: str) -> Headers:
    if isinstance(given, dict):
        pairs = []
        for name, value in given.items():
            if not isinstance(value, str):
                raise MalformedBatch(f"{where}: the header {name!r} is not a text")
            pairs.append((name, _encoded(value, where)))
        return tuple(pairs)
    if not isinstance(given, list):
        raise MalformedBatch(f"{where}: headers are a list of objects or an object of texts")
    found: list[tuple[str, bytes | None]] = []
    for item in given:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str) or item.keys() - _KNOWN_HEADER:
            raise MalformedBatch(f"{where}: a header is an object of name and value or value_base64")
        if "value" in item and "value_base64" in item:
            raise MalformedBatch(f"{where}: a header has both value and value_base64")
        found.append((item["name"], _bytes(item, "value", where)))
    return tuple(found)
