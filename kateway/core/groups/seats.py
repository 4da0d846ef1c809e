"""Who of a group's ``ack=auto`` readers is fed, who waits, and which partitions each is fed from: rules without state
of anybody else's. A reader takes a seat; there are as many seats as partitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from kateway.errors import TooManyConsumers


class Seated(Protocol):
    @property
    def short(self) -> bool:
        """Whether it leaves by itself soon."""


R = TypeVar("R", bound=Seated)


class Seats(Generic[R]):
    """Readers in the order in which they came. While none of the partitions is ours, there are as many seats as the
    topic has partitions: more can never be fed.
    """

    def __init__(self) -> None:
        self.seated: list[R] = []
        self.waiting: list[R] = []
        self.count = 0
        """How many partitions are ours; 0: not known, or none just now."""
        self._most = 0
        # how many there are at all
        self._fed: set[R] = set()
        # those who once had a seat that counted: they wait for partitions to come back, whoever holds the others

    def arrive(self, reader: R, partitions: int) -> None:
        """Gives a seat, or a place in the queue; ``partitions``: of the topic. ``TooManyConsumers`` where nobody will
        get up soon.
        """
        self._most = partitions
        if len(self.seated) < self._seats:
            self.seated.append(reader)
            if self.count:
                self._fed.add(reader)
        elif self._hopeless():
            raise TooManyConsumers(f"all {self._seats} partitions that this gateway can have have a reader")
        else:
            self.waiting.append(reader)

    @property
    def _seats(self) -> int:
        return self.count or self._most

    def leave(self, reader: R) -> list[R]:
        """Frees a seat for who waits longest; answers those who wait in vain now."""
        self._fed.discard(reader)
        if reader in self.seated:
            self.seated.remove(reader)
        elif reader in self.waiting:
            self.waiting.remove(reader)
        return self._move_up()

    def resize(self, count: int) -> list[R]:
        """Partitions came or went; answers those who wait in vain now."""
        self.count = count
        if not count:
            return []
        for reader in reversed(self.seated[count:]):
            self.waiting.insert(0, reader)
        del self.seated[count:]
        return self._move_up()

    def _move_up(self) -> list[R]:
        while self.waiting and len(self.seated) < self._seats:
            self.seated.append(self.waiting.pop(0))
        if self.count:
            self._fed.update(self.seated)
        if not self.waiting or not self._hopeless():
            return []
        refused = [reader for reader in self.waiting if reader not in self._fed]
        for reader in refused:
            self.waiting.remove(reader)
        return refused

    def _hopeless(self) -> bool:
        return not any(reader.short for reader in self.seated)


def share_out(
    partitions: Iterable[int], readers: Sequence[R], now: Mapping[int, R], settled: Callable[[int], bool]
) -> dict[int, R]:
    """Shares partitions out evenly, moving as few as possible, and of those the ``settled`` ones first: they can be
    fed by the new reader at once.
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
    # those who hold most keep the odd ones
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
