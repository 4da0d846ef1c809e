"""Assigns partitions to local ``ack=auto`` readers, as readers and partitions come and go.

A reader is fed from its own partitions, each from at most one reader; with more readers than partitions the rest queue,
and a reader that would queue in vain is refused. A spare reader (``Wanted.spare``) never queues: it is refused where no
partition is left for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from kateway.core.groups.dispatch import Dispatch
from kateway.core.groups.reader import Reader
from kateway.core.groups.wakeups import Wakeups
from kateway.errors import TooManyConsumers


class Assignment:
    """Queues readers for partitions, and gives those that are fed their portions."""

    def __init__(self, dispatch: Dispatch, wakeups: Wakeups) -> None:
        self._dispatch = dispatch
        self._wakeups = wakeups
        self._queue: ReaderQueue[Reader] = ReaderQueue()

    def arrive(self, reader: Reader, partitions: int) -> None:
        """Adds a reader of a topic of so many ``partitions``. ``TooManyConsumers``."""
        self._refuse(self._queue.arrive(reader, partitions))
        self._assign()

    def leave(self, reader: Reader) -> None:
        self._refuse(self._queue.leave(reader))
        self._assign()

    def partitions_changed(self) -> None:
        """Some are ours now that were not, or the other way round."""
        self._refuse(self._queue.resize(len(self._dispatch.all)))
        self._assign()

    def _assign(self) -> None:
        fed = self._queue.fed
        portions = self._dispatch.portions
        assigned = assign(
            self._dispatch.owned_partitions,
            fed,
            {owned.partition: owned.assigned_to for owned in self._dispatch.all if owned.assigned_to is not None},
            lambda partition: not self._dispatch.owned_partitions[partition].delivery.in_flight,
        )
        for reader in (*self._queue.waiting, *fed):
            portions[reader].owned_partitions = []
        for owned in self._dispatch.all:
            owned.assigned_to = assigned.get(owned.partition)
            if owned.assigned_to is not None:
                portions[owned.assigned_to].owned_partitions.append(owned)
        for reader in fed:
            if reader.hungry:
                self._wakeups.wake(reader)

    def _refuse(self, readers: Iterable[Reader]) -> None:
        for reader in readers:
            self._dispatch.portions[reader].owned_partitions = []
            self._wakeups.fail(reader, TooManyConsumers("every partition that this gateway holds has a reader"))


class Queued(Protocol):
    @property
    def short(self) -> bool:
        """Whether it leaves by itself soon."""

    @property
    def spare(self) -> bool:
        """Whether it gives way to those that are not."""


R = TypeVar("R", bound=Queued)


class ReaderQueue(Generic[R]):
    """Readers in the order in which they came: as many are fed as there are partitions of ours. While none of the
    partitions is ours, as many count as the topic has partitions: more can never be fed.
    """

    def __init__(self) -> None:
        self.fed: list[R] = []
        self.waiting: list[R] = []
        self.count = 0
        """How many partitions are ours; 0: not known, or none just now."""
        self._most = 0
        # how many there are at all
        self._once_fed: set[R] = set()
        # those that were fed from partitions of ours once: they wait for partitions to come back in any case

    def arrive(self, reader: R, partitions: int) -> list[R]:
        """Adds a reader; ``partitions``: of the topic. Returns those that give way to it. ``TooManyConsumers`` where
        no other will leave soon.
        """
        self._most = partitions
        gives_way: list[R] = []
        # more than one where others were told of more partitions
        too_many = len(self.fed) + 1 - self._places
        if too_many > 0 and not reader.spare:
            gives_way = [each for each in self.fed if each.spare][-too_many:]
        if len(gives_way) < too_many:
            gives_way = []  # it would find no place all the same
        for each in gives_way:
            self.fed.remove(each)
            self._once_fed.discard(each)
        if len(self.fed) < self._places:
            self.fed.append(reader)
            if self.count:
                self._once_fed.add(reader)
        elif reader.spare or self._hopeless():
            raise TooManyConsumers(f"all {self._places} partitions that this gateway can have have a reader")
        else:
            self.waiting.append(reader)
        return gives_way

    @property
    def _places(self) -> int:
        return self.count or self._most

    def leave(self, reader: R) -> list[R]:
        """Removes a reader; returns those that wait in vain now."""
        self._once_fed.discard(reader)
        if reader in self.fed:
            self.fed.remove(reader)
        elif reader in self.waiting:
            self.waiting.remove(reader)
        return self._move_up()

    def resize(self, count: int) -> list[R]:
        """Partitions came or went; returns the readers that wait in vain now."""
        self.count = count
        if not count:
            return []
        self.fed.sort(key=lambda reader: reader.spare)  # they give way first
        too_many = self.fed[count:]
        del self.fed[count:]
        give_way = [reader for reader in too_many if reader.spare]
        self._once_fed.difference_update(give_way)
        self.waiting[:0] = [reader for reader in too_many if not reader.spare]
        return give_way + self._move_up()

    def _move_up(self) -> list[R]:
        while self.waiting and len(self.fed) < self._places:
            self.fed.append(self.waiting.pop(0))
        if self.count:
            self._once_fed.update(self.fed)
        if not self.waiting or not self._hopeless():
            return []
        refused = [reader for reader in self.waiting if reader not in self._once_fed]
        for reader in refused:
            self.waiting.remove(reader)
        return refused

    def _hopeless(self) -> bool:
        return not any(reader.short for reader in self.fed)


def assign(
    partitions: Iterable[int], readers: Sequence[R], now: Mapping[int, R], settled: Callable[[int], bool]
) -> dict[int, R]:
    """Assigns partitions evenly, moving as few as possible, and of those the ``settled`` ones first: the new reader can
    take from them at once.
    """
    numbers = sorted(partitions)
    if not readers:
        return {}
    least, extra = divmod(len(numbers), len(readers))
    held: dict[R, list[int]] = {reader: [] for reader in readers}
    free = []
    for number in numbers:
        reader = now.get(number)
        if reader in held:
            held[reader].append(number)
        else:
            free.append(number)
    # the readers that hold most keep the odd ones
    for place, reader in enumerate(sorted(readers, key=lambda reader: -len(held[reader]))):
        quota = least + (place < extra)
        surplus = len(held[reader]) - quota
        if surplus > 0:
            leaving = sorted(held[reader], key=lambda number: (not settled(number), -number))[:surplus]
            held[reader] = [number for number in held[reader] if number not in leaving]
            free += leaving
    for number in sorted(free):
        held[min(readers, key=lambda reader: len(held[reader]))].append(number)
    return {number: reader for reader, mine in held.items() for number in mine}
