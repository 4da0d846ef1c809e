"""Which ``ack=auto`` reader is fed from which of our partitions, as readers and partitions come and go."""

from __future__ import annotations

from collections.abc import Iterable

from kateway.core.groups.dispatch import Feeding
from kateway.core.groups.reader import Reader
from kateway.core.groups.seats import Seats, share_out
from kateway.core.groups.wakeups import Waking
from kateway.errors import TooManyConsumers


class Sharing:
    """Gives readers seats, and those who sit their shares; refuses those who wait in vain."""

    def __init__(self, feeding: Feeding, waking: Waking) -> None:
        self._feeding = feeding
        self._waking = waking
        self._seats: Seats[Reader] = Seats()

    def arrive(self, reader: Reader, partitions: int) -> None:
        """A reader of a topic of so many ``partitions`` comes. ``TooManyConsumers``."""
        self._seats.arrive(reader, partitions)
        self._share_out()

    def leave(self, reader: Reader) -> None:
        self._refuse(self._seats.leave(reader))
        self._share_out()

    def partitions_changed(self) -> None:
        """Some are ours now that were not, or the other way round."""
        self._refuse(self._seats.resize(len(self._feeding.all)))
        self._share_out()

    def _share_out(self) -> None:
        seated = self._seats.seated
        for reader in self._seats.waiting:
            reader.owned_partitions = []
        goals = share_out(
            self._feeding.owned_partitions,
            seated,
            {owned.partition: owned.assigned_to for owned in self._feeding.all if owned.assigned_to is not None},
            lambda partition: not self._feeding.owned_partitions[partition].delivery.flights,
        )
        for reader in seated:
            reader.owned_partitions = []
        for owned in self._feeding.all:
            owned.assigned_to = goals.get(owned.partition)
            if owned.assigned_to is not None:
                owned.assigned_to.owned_partitions.append(owned)
        for reader in seated:
            if reader.hungry:
                self._waking.wake(reader)

    def _refuse(self, readers: Iterable[Reader]) -> None:
        for reader in readers:
            self._waking.fail(reader, TooManyConsumers("every partition that this gateway holds has a reader"))
