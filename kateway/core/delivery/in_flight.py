"""The batches of one partition that are on their way to ``ack=auto`` readers, in the order of their offsets."""

from __future__ import annotations

from kateway.core.delivery.batch import Batch


class InFlight(list[Batch]):
    """Hot at both ends: a batch is appended, and the first one lands. A list, not a deque: an empty deque keeps half a
    kilobyte, and there is one of these for each partition of each group.
    """

    __slots__ = ()

    def depart(self, batch: Batch) -> None:
        """Puts in a batch that lies below batches that left before."""
        later = sum(1 for flight in self if flight.start > batch.start)
        self.insert(len(self) - later, batch)

    def land(self, batch: Batch) -> bool:
        """Takes a batch out; false where it is not there any more."""
        if self and self[0] is batch:
            del self[0]
        elif batch in self:
            self.remove(batch)
        else:
            return False
        return True

    def turn_back(self, batch: Batch) -> list[tuple[int, int]]:
        """Takes a batch out with all behind it; returns how often their records were delivered, as runs.
        A sent record counts as an attempt.
        """
        runs: list[tuple[int, int]] = []
        while True:
            last = self.pop()
            attempts = last.attempts or [1] * last.count
            runs[:0] = [
                (last.behind(index + 1), attempt if last.sent else attempt - 1)
                for index, attempt in enumerate(attempts)
                if index + 1 == last.count or attempts[index + 1] != attempt
            ]
            if last is batch:
                return runs
