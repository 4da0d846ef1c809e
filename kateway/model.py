"""Frozen values that every layer shares: messages, records, receipts, principals.

Offsets are always *next to read* where they name a position, and the record's own where they belong to a
record: Kafka's conventions. Timestamps are milliseconds since the epoch. ``None`` and ``b""`` differ everywhere:
a null key is no key, a null value is a tombstone.

The types on the hot path are NamedTuples: a tuple is the cheapest object Python makes, and there is one for each
record that passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import attrs

Headers = tuple[tuple[str, bytes | None], ...]
"""Record headers in order, names repeated where they were repeated."""

NO_HEADERS: Headers = ()


class Message(NamedTuple):
    """A record on its way in: a client's publish."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = NO_HEADERS
    partition: int | None = None
    """Write to this partition; ``None``: by key, else sticky round robin."""
    timestamp: int | None = None
    """Milliseconds since the epoch; ``None``: when the store takes it."""


class Record(NamedTuple):
    """A record on its way out, as a store gives it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = NO_HEADERS


class Receipt(NamedTuple):
    """Where a message was written. ``offset`` is ``None`` where no acknowledgement was asked for (acks=0)."""

    partition: int
    offset: int | None


class HandedOff(NamedTuple):
    """A message that is kept on the gateway's disk, to be written when its store takes it."""

    number: int
    """In the order of taking."""


class Committed(NamedTuple):
    """A group's committed position in one partition: the next offset to read, and the commit's metadata string."""

    offset: int
    metadata: str = ""


@attrs.frozen
class TopicInfo:
    """A topic as the store has it: partitions are numbered from 0."""

    name: str
    partitions: int
    replicas: int = 1
    """Of the partition that has the fewest."""


@attrs.frozen
class Principal:
    """The caller: the application that the credentials stand for, and the key that was shown (for audit)."""

    application: str
    key: str = ""
    expires: float | None = None
    """Seconds since the epoch after which the credentials mean nothing any more; ``None``: for as long as they are
    registered.
    """


@attrs.frozen
class Health:
    """The present health of a store or the registry, without a question to any server."""

    healthy: bool
    reason: str = ""
    """The fault and its remedy, in one line; empty when healthy."""
    details: Mapping[str, object] = attrs.field(factory=dict)
