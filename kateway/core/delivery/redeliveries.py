"""How often records that are read from the store again were delivered before."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from kateway.model import Record


class Redeliveries:
    """Runs of offsets that came back, from where the store is read again: each up to an offset, with one count."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: list[tuple[int, int]] = []
        # (offset behind the run, how often delivered); a run starts where the one before it ends

    def __bool__(self) -> bool:
        return bool(self._runs)

    def attempts(self, records: Sequence[Record]) -> list[int]:
        """Which delivery of each record the next one is; the runs below the last record are forgotten."""
        attempts = []
        runs = self._runs
        place = 0
        for record in records:
            while place < len(runs) and runs[place][0] <= record.offset:
                place += 1
            attempts.append(runs[place][1] + 1 if place < len(runs) else 1)
        del runs[:place]
        return attempts

    def rewind(self, runs: list[tuple[int, int]]) -> None:
        """Reading starts again further down: these runs come first."""
        self._runs = runs + [run for run in self._runs if run[0] > runs[-1][0]]

    def note(self, offset: int, delivered: int) -> None:
        """One record more comes again."""
        runs = self._runs
        place = bisect_right(runs, offset, key=_end)
        around = runs[place][1] if place < len(runs) else 0
        runs[place:place] = [(offset, around), (offset + 1, delivered)]

    def delivered_end(self) -> int:
        """The offset behind the last record that was delivered before; 0 where none was."""
        return max((end for end, delivered in self._runs if delivered), default=0)

    def delivered(self, start: int) -> list[tuple[int, int]]:
        """The runs that were delivered before, each from its first offset to the one behind it; the store is read on
        from ``start``.
        """
        found = []
        for end, delivered in self._runs:
            if delivered and start < end:
                found.append((start, end))
            start = max(start, end)
        return found

    def clear(self) -> None:
        self._runs.clear()


def _end(run: tuple[int, int]) -> int:
    return run[0]
