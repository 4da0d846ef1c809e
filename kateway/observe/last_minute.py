"""Keeps what counters had at the looks of the last minute: how fast they grow, and by how much they have grown."""

from __future__ import annotations

from collections.abc import Sequence

MINUTE_SECONDS = 60.0


class LastMinute:
    """The totals of a few counters at each look; ``at`` is a clock that never goes back."""

    __slots__ = ("_looks",)

    def __init__(self, at: float, counters: int) -> None:
        """Begins with nothing counted."""
        # a list: a deque of seven looks takes 760 bytes, and there are thousands
        self._looks: list[tuple[float, Sequence[float]]] = [(at, (0.0,) * counters)]

    def look(self, at: float, totals: Sequence[float]) -> None:
        """Notes the totals of now. Counters that were forgotten and began anew begin anew here."""
        looks = self._looks
        if any(now < before for now, before in zip(totals, looks[-1][1], strict=True)):
            looks.clear()
            looks.append((at, (0.0,) * len(totals)))
        # of what is silent the same totals are kept once
        looks.append((at, looks[-1][1] if totals == looks[-1][1] else totals))
        while len(looks) > 2 and at - looks[1][0] >= MINUTE_SECONDS:
            del looks[0]

    @property
    def seconds(self) -> float:
        """The time that the looks span."""
        return self._looks[-1][0] - self._looks[0][0]

    @property
    def at(self) -> float:
        """When the last look was."""
        return self._looks[-1][0]

    def growth(self) -> list[float]:
        """By how much each counter has grown within that time."""
        return [now - before for now, before in zip(self._looks[-1][1], self._looks[0][1], strict=True)]

    def step(self) -> list[float]:
        """By how much each counter has grown since the look before the last."""
        if len(self._looks) < 2:
            return [0.0] * len(self._looks[0][1])
        return [now - then for now, then in zip(self._looks[-1][1], self._looks[-2][1], strict=True)]

    def rates(self, least_seconds: float = 0.001) -> list[float]:
        """How much each grew in a second, since the look before the last; over ``least_seconds`` where that is less."""
        if len(self._looks) < 2:
            return [0.0] * len(self._looks[0][1])
        seconds = max(self._looks[-1][0] - self._looks[-2][0], least_seconds)
        return [grown / seconds for grown in self.step()]
