"""The dead-letter queue of a group: ``<topic>.<group>.dead``, made when its first record comes.

A record is written there with acks from all replicas before the original counts as acknowledged: a gateway that dies
between the two leaves it in both places, never in none. The queue has as many partitions and replicas as its topic,
and a record keeps its partition, so that the order of those from one partition is kept and losing a broker loses none.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from kateway.core.delivery.batch import Lease
from kateway.errors import Conflict, KatewayError, NotFound
from kateway.model import Message, Receipt
from kateway.storage.interface import Store

PUBLISH_SECONDS = 10.0


def dead_letter_topic(topic: str, group: str) -> str:
    """The queue's name, of names as they are in the store."""
    return f"{topic}.{group}.dead"


class DeadLetters:
    """Writes one group's dead letters of one topic."""

    def __init__(self, store: Store, topic: str, group: str, clock: IReactorTime) -> None:
        self.name = dead_letter_topic(topic, group)
        self._store = store
        self._topic = topic
        self._group = group
        self._clock = clock

    async def write(self, letters: list[tuple[int, Lease]]) -> list[KatewayError | None]:
        """Writes records (with the partition each came from); answers ``None`` for each that is safe, else why not."""
        try:
            partitions = await self.make()
            messages = [self._letter(partition, lease, partition % partitions) for partition, lease in letters]
            outcomes = await self._store.publish(self.name, messages, -1, self._clock.seconds() + PUBLISH_SECONDS)
        except KatewayError as error:
            return [error] * len(letters)
        return [None if isinstance(outcome, Receipt) else outcome for outcome in outcomes]

    async def make(self) -> int:
        """Makes the queue where it is missing; answers how many partitions it has. ``TopicNotFound``: its topic is."""
        known = self._store.partitions(self.name)
        if known:
            return known
        try:
            queue = await self._store.topic(self.name)
        except NotFound:
            original = await self._store.topic(self._topic)
            try:
                queue = await self._store.create_topic(
                    self.name, partitions=original.partitions, replicas=original.replicas
                )
            except Conflict:  # somebody was faster
                queue = await self._store.topic(self.name)
        return queue.partitions

    def _letter(self, partition: int, lease: Lease, into: int) -> Message:
        record = lease.record
        about = {
            "topic": self._topic,
            "partition": partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "group": self._group,
            "reason": lease.reason,
            "attempts": lease.attempts,
        }
        headers = tuple((f"kateway-dead-{name}", str(value).encode()) for name, value in about.items())
        return Message(value=record.value, key=record.key, partition=into, headers=(*record.headers, *headers))
