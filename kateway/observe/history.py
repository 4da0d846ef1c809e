"""The history of the gateway and of its applications, topics and groups, within a bound of memory.

An object has its rings from its first sample that is not nothing, until it has been silent for two days, or until one
that is not silent needs the room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from kateway.observe.rings import Rings, Shape, Tier

Kind = Literal["gateway", "application", "topic", "group"]
Labels = tuple[str, ...]

GATEWAY_STEP_SECONDS = 5
OBJECT_STEP_SECONDS = 10
GATEWAY_TIERS = (Tier(GATEWAY_STEP_SECONDS, 720), Tier(60, 1440), Tier(900, 672))
"""5 s for an hour, a minute for a day, a quarter of an hour for a week."""
OBJECT_TIERS = (Tier(OBJECT_STEP_SECONDS, 90), Tier(60, 180), Tier(900, 192))
"""10 s for a quarter of an hour, a minute for three hours, a quarter of an hour for two days."""
MINUTES = 1
"""The tier of minutes."""
SILENT_SECONDS = 2 * 86400.0
OBJECT_BYTES = 600
"""What an object takes beside its slots: its key, its names, its place in the dictionary."""

PEAKS = ("lag", "oldest_seconds")
"""All others are per second."""
SHAPES: dict[Kind, Shape] = {
    "application": Shape(OBJECT_TIERS, ("in_records", "in_bytes", "out_records", "out_bytes", "errors", "throttled")),
    "topic": Shape(OBJECT_TIERS, ("in_records", "in_bytes", "out_records", "errors")),
    "group": Shape(OBJECT_TIERS, ("out_records", "out_bytes", "acknowledged", *PEAKS), PEAKS),
}
"""Of objects; the gateway's own series are known where it is joined."""


class History:
    """All rings; at most ``max_bytes`` of them beside the gateway's own."""

    def __init__(self, gateway_series: Sequence[str], max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.gateway = Rings(Shape(GATEWAY_TIERS, tuple(gateway_series)))
        self.objects: dict[tuple[Kind, Labels], Rings] = {}
        """By kind and by application; by application, topic and version; or by these, the group and its reader."""
        self.bytes = 0
        """What the objects take."""

    def record(self, kind: Kind, labels: Labels, at: float, figures: Sequence[float | None]) -> None:
        """Keeps an object's sample, its figures in the order of its kind's series."""
        rings = self.objects.get((kind, labels))
        if rings is None:
            if not any(figures) or not self._room(size_of(SHAPES[kind]), at):
                return
            rings = Rings(SHAPES[kind])
            self._add((kind, labels), rings)
        rings.record(at, figures)

    def restore(self, kind: Kind, labels: Labels, rings: Rings) -> None:
        """Takes an object over that was kept in a file, where there is room; one that was sampled since stays."""
        if (kind, labels) not in self.objects and self.bytes + size_of(rings.shape) <= self.max_bytes:
            self._add((kind, labels), rings)

    def find(self, kind: Kind, labels: Labels) -> Rings | None:
        """Returns an object's rings; ``None`` where nothing is known of it."""
        return self.gateway if kind == "gateway" else self.objects.get((kind, labels))

    def sweep(self, now: float) -> None:
        """Forgets what has been silent for two days."""
        for key, rings in list(self.objects.items()):
            if now - rings.active_at >= SILENT_SECONDS:
                self._drop(key)

    def _room(self, size: int, at: float) -> bool:
        """Makes room by forgetting the longest silent; one that was active in its last sample is not."""
        while self.bytes + size > self.max_bytes:
            key = min(self.objects, key=lambda each: self.objects[each].active_at, default=None)
            if key is None or self.objects[key].active_at > at - 2 * OBJECT_STEP_SECONDS:
                return False
            self._drop(key)
        return True

    def _add(self, key: tuple[Kind, Labels], rings: Rings) -> None:
        self.objects[key] = rings
        self.bytes += size_of(rings.shape)

    def _drop(self, key: tuple[Kind, Labels]) -> None:
        self.bytes -= size_of(self.objects.pop(key).shape)


def size_of(shape: Shape) -> int:
    """How many bytes rings of a shape take."""
    return 2 * shape.slots + OBJECT_BYTES
