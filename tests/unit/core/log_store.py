"""A store of lists, for reads without a group."""

from __future__ import annotations

from collections.abc import Mapping

from twisted.internet.defer import succeed

from kateway.errors import OffsetOutOfRange
from kateway.model import Record, TopicInfo
from kateway.storage.interface import At, Fetched


class Store:
    """Partitions as lists; an answer has at most ``at_once`` records."""

    def __init__(self, logs: list[list[Record]], at_once: int = 2) -> None:
        self.logs = logs
        self.at_once = at_once
        self.earliest = dict.fromkeys(range(len(logs)), 0)
        self.hidden = dict.fromkeys(range(len(logs)), 0)
        """Offsets that the end counts and no read gives."""
        self.invisible: set[tuple[int, int]] = set()
        """Offsets of control records, as transactions leave them: no read gives them."""
        self.on_read = lambda partition: None
        self.reads = 0

    async def topic(self, topic: str) -> TopicInfo:
        return TopicInfo(topic, len(self.logs))

    async def offsets(self, topic: str, at: At) -> Mapping[int, int]:
        if at == "earliest":
            return dict(self.earliest)
        if at == "latest":
            return {number: len(log) + self.hidden[number] for number, log in enumerate(self.logs)}
        return {
            number: next((record.offset for record in log if record.timestamp >= at), len(log))
            for number, log in enumerate(self.logs)
        }

    async def read(self, topic: str, partition: int, offset: int, *, max_bytes: int, wait_seconds: float) -> Fetched:
        self.reads += 1
        self.on_read(partition)
        if offset < self.earliest[partition]:
            raise OffsetOutOfRange
        await succeed(None)
        taken = self.logs[partition][offset : offset + self.at_once]
        records = [record for record in taken if (partition, record.offset) not in self.invisible]
        return Fetched(records, offset + len(taken), len(self.logs[partition]))


def log(timestamps: list[int], size: int = 1) -> list[Record]:
    return [Record(offset, at, None, b"x" * size) for offset, at in enumerate(timestamps)]
