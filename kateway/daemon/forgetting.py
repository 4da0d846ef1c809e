"""Forgets the metrics of topics and groups that are unregistered, or have counted nothing for a day."""

from __future__ import annotations

from kateway.core.groups.memberships import Memberships
from kateway.observe.series import Series
from kateway.registry.interface import Snapshot

SWEEP_SECONDS = 600.0
"""Between two looks for what is idle."""


def forget_unregistered(series: Series, snapshot: Snapshot) -> None:
    """Forgets at once what a registry has no more."""
    series.keep_registered(
        lambda labels: _topic_is_there(snapshot, labels),
        lambda labels: group_is_there(snapshot, labels),
        lambda name: name in snapshot.applications,
    )


def group_is_there(snapshot: Snapshot, labels: tuple[str, ...]) -> bool:
    """Whether a registry has a group's topic, and the right to read it."""
    application, topic, version, group, reader = labels
    if not _topic_is_there(snapshot, labels):
        return False
    binding = snapshot.bindings.get((reader, application, topic.partition(".")[0], version))
    return reader == application or (binding is not None and binding.allows(group))


def _topic_is_there(snapshot: Snapshot, labels: tuple[str, ...]) -> bool:
    application, topic, version = labels[:3]
    # a topic's own name has no dot: what comes behind one names a group's dead letters
    return (application, topic.partition(".")[0], version) in snapshot.topics


def forget_idle(series: Series, groups: Memberships) -> None:
    """Forgets what is idle; a group that has readers here is not, though nothing comes."""
    series.sweep([member.cells.group for member in groups.members() if member.cells is not None])
