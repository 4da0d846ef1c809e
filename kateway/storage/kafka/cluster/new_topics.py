"""Remembers topics that came lately. Brokers learn of one at different times, and any may be asked for a listing:
a topic that one lacks and that another had a moment ago is not gone. No I/O.
"""

from __future__ import annotations

from types import MappingProxyType

import attrs

from kateway.storage.kafka.protocol.metadata import ClusterView

NEW_SECONDS = 5.0
"""How far a broker may be behind the others."""


class NewTopics:
    """The topics that are known to be new."""

    def __init__(self) -> None:
        self._seen_at: dict[str, float] = {}

    def deleted(self, topic: str) -> None:
        """It is known to be gone: a listing without it is right."""
        self._seen_at.pop(topic, None)

    def added(self, listed: ClusterView, before: ClusterView | None, now: float) -> ClusterView:
        """A listing, and with it the new topics that the broker it came from has not heard of. ``before``: as this
        answered last time, ``None`` at first. A sole broker is not behind itself.
        """
        if before is None:
            return listed
        self._seen_at = {topic: at for topic, at in self._seen_at.items() if now - at < NEW_SECONDS}
        self._seen_at.update((topic, now) for topic in listed.topics.keys() - before.topics.keys())
        lacking = [topic for topic in self._seen_at if topic in before.topics and topic not in listed.topics]
        if not lacking or len(listed.brokers) == 1:
            return listed
        topics = {**listed.topics, **{topic: before.topics[topic] for topic in lacking}}
        return attrs.evolve(listed, topics=MappingProxyType(topics))
