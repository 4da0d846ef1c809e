"""Routes a topic's messages: one lane a partition, for one kind of acknowledgement."""

from __future__ import annotations

from collections.abc import Sequence

from kateway.model import Message
from kateway.storage.kafka.producer.broker_sender import PartitionLane
from kateway.storage.partitioner import Partitioner


class TopicRoute:
    """A topic's lanes for one kind of acknowledgement."""

    __slots__ = ("choose", "lanes", "records")

    def __init__(self, partitioner: Partitioner) -> None:
        self.choose = partitioner.choose
        self.lanes: list[PartitionLane] = []
        self.records = 0
        """How many records wait, to be sent or for an answer: as the last sweep counted them while a broker was behind.
        Counting at each publish took 454 µs for 2,000 partitions.
        """

    def holds(self, messages: Sequence[Message]) -> bool:
        """Whether every partition that is named is there."""
        count = len(self.lanes)
        return all(message.partition is None or 0 <= message.partition < count for message in messages)

    def partition_for(self, key: bytes | None) -> int:
        """By key; without one any that has a leader, if there is one."""
        partition = self.choose(len(self.lanes), key)
        if key is None and self.lanes[partition].sender is None:
            return next((lane.partition for lane in self.lanes if lane.sender is not None), partition)
        return partition
