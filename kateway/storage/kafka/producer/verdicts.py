"""Judges what became of a batch by the broker's error for it."""

from __future__ import annotations

from kateway.storage.kafka.producer.partition_queue import QueuedBatch, Verdict
from kateway.storage.kafka.producer.pending import Pending
from kateway.storage.kafka.protocol.errors import NOT_LEADER

VERDICTS = {
    **dict.fromkeys((3, 5, 6, 8, 9, 13, 19, 72, 74, 75, 89, 100, 103), Verdict.NOT_WRITTEN),
    **dict.fromkeys((-1, 7, 20, 56), Verdict.UNKNOWN),
    **dict.fromkeys((17, 29, 30, 31, 35, 43, 44, 58, 76), Verdict.REFUSED),
    # INVALID_TIMESTAMP, INVALID_RECORD (no key in a compacted topic, say; before Kafka 2.4 that was CORRUPT_MESSAGE):
    # Produce 7 does not name the record
    **dict.fromkeys((2, 32, 87), Verdict.BAD_RECORD),
    10: Verdict.TOO_LARGE,
    18: Verdict.TOO_LARGE,
    45: Verdict.OUT_OF_ORDER,
    47: Verdict.FORGOTTEN,
    59: Verdict.FORGOTTEN,
}
"""Kafka's error codes; any other says nothing of what became of the batch."""

UNKNOWN_SERVER_ERROR = -1
UNCLEAR_ANSWERS = 5
"""After so many answers that say nothing of what became of a batch it is given up."""


def unclear(batch: QueuedBatch[Pending]) -> Verdict:
    """Counts an answer that says nothing of a batch: one that gets no other must not hold up those behind it."""
    batch.unclear += 1
    return Verdict.LOST if batch.unclear >= UNCLEAR_ANSWERS else Verdict.UNKNOWN


def verdict_of(error: int, batch: QueuedBatch[Pending], acks: int) -> Verdict:
    """The verdict on a batch that was sent with ``acks``."""
    if error == UNKNOWN_SERVER_ERROR:
        return unclear(batch)
    if error == NOT_LEADER and acks == -1:
        # a leader that is replaced while it waits for its replicas says so of what it has written, too
        # (Kafka's DelayedProduce): under the same number it is not written twice
        return Verdict.UNKNOWN
    return VERDICTS.get(error, Verdict.LOST)
