"""Tells of each elastic topic what the gateway that leads sees of it, what was done, and what it would do now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from kateway.core.elastic import Controller, Decision, Sample
from kateway.core.topic_load import TopicLoad
from kateway.registry.interface import Placement, Topic

MOST_NAMED = 3
WAITING = "waiting"
"""The state of a topic that has no placement yet."""


@attrs.define(eq=False)
class Watched:
    """A topic as it is watched here."""

    load: TopicLoad | None
    """``None``: of a cluster that this gateway does not have."""
    controller: Controller
    sampled_at: float | None = None
    sample: Sample | None = None
    decision: Decision | None = None
    waits_for: str = ""
    rests_until: float = 0.0
    groups: frozenset[str] = frozenset()
    groups_at: float | None = None
    unread: Sequence[str] = ()
    caught_up: set[str] = attrs.field(factory=set)
    """Groups that have read up to the fence."""
    looking: Deferred[None] | None = None
    looked_at: float = 0.0
    unfinished: bool = False
    """Whether the last step did not come to its end."""

    def end(self) -> None:
        """Ends a look under way."""
        if self.looking is not None:
            self.looking.cancel()


def named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def seen(watched: Watched | None, waits_for: str = "") -> dict[str, Any]:
    """What the gateway that leads sees of a topic, and what it would do; ``waits_for`` where it does not watch it."""
    sample = None if watched is None else watched.sample
    decision = None if watched is None else watched.decision
    waits_for = waits_for if watched is None else watched.waits_for
    reason = decision.reason if decision is not None else "the load is not known just now"
    return {
        "sees": {
            "bytes_per_second": None
            if sample is None or sample.bytes_per_second is None
            else round(sample.bytes_per_second),
            "readers": None if sample is None else sample.readers,
            "over_seconds": 0 if decision is None else round(decision.over_seconds),
        },
        "would": {
            "action": "stay" if decision is None else decision.action,
            "partitions": None if decision is None else decision.partitions,
            "reason": reason,
            "waits_for": waits_for,
        },
    }


def shown(topic: Topic, placement: Placement | None, in_store: int | None) -> dict[str, Any]:
    """What the registry says of a topic's partitions, and what was done."""
    return {
        "elastic": None if topic.elastic is None else attrs.asdict(topic.elastic),
        "partitions": {"in_force": _in_force(placement), "store": in_store},
        "state": WAITING if placement is None else placement.state,
        "hash": None if placement is None else placement.hash,
        "goes_over_to": placement.next_partitions if placement is not None and placement.state != "settled" else None,
        "did": [] if placement is None else [attrs.asdict(growth) for growth in placement.growths],
    }


def _in_force(placement: Placement | None) -> int | None:
    if placement is None:
        return None
    return placement.next_partitions if placement.state == "reading" else placement.partitions
