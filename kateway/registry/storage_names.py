"""Checks that a topic's name in its store is no way to another topic's records, or to dead letters."""

from __future__ import annotations

import re

from kateway.errors import Conflict
from kateway.registry.documents import name_of
from kateway.registry.interface import DEAD_SUFFIX, Snapshot, Topic

_GIVEN_BY_DEFAULT = re.compile(
    r"([A-Za-z0-9_-]{1,64})\.([A-Za-z0-9_-]{1,64})\.(v(?:0|[1-9][0-9]{0,8}))(\..*\.dead)?", re.DOTALL
)
"""The store's name of a topic that has no ``storage_name``, or of a queue of its dead letters."""


def check_storage(snapshot: Snapshot, topic: Topic) -> None:
    """``Conflict`` for a topic that would be another's records in the store. One that lies where it lay before is
    looked at for another that lies there alone: a change of its state must not fail for its name.
    """
    for other in snapshot.topics.values():
        if other.stored_as == topic.stored_as and other.cluster == topic.cluster and other.name != topic.name:
            raise Conflict(same_topic(other))
    old = snapshot.topics.get(topic.name)
    if old is not None and (old.cluster, old.stored_as) == (topic.cluster, topic.stored_as):
        return
    if topic.stored_as.endswith(DEAD_SUFFIX) and (source := source_of(snapshot, topic)) is not None:
        raise Conflict(holds_dead_letters(topic, source))
    for other in snapshot.topics.values():
        if other.stored_as.endswith(DEAD_SUFFIX) and _holds_letters_of(other, topic):
            raise Conflict(holds_dead_letters(other, topic))
    _check_owner(snapshot, topic)


def source_of(snapshot: Snapshot, topic: Topic) -> Topic | None:
    """Finds the topic whose groups' dead letters a name in the store is for."""
    return next((other for other in snapshot.topics.values() if _holds_letters_of(topic, other)), None)


def same_topic(other: Topic) -> str:
    """Says which topic has a name in the store already."""
    return f"{other.stored_as} of cluster {other.cluster} is registered already, as {name_of(other)}"


def holds_dead_letters(queue: Topic, source: Topic) -> str:
    """Says that a topic's name in the store is for another's dead letters."""
    return (
        f"{queue.stored_as} of cluster {queue.cluster} is for dead letters of {name_of(source)}: they are read with "
        "queue=dead, and are no topic of their own"
    )


def _holds_letters_of(queue: Topic, source: Topic) -> bool:
    return queue.cluster == source.cluster and queue.stored_as.startswith(f"{source.stored_as}.")


def _check_owner(snapshot: Snapshot, topic: Topic) -> None:
    """Checks that a name is not the one that another application's topic has by itself: records stay in the store when
    a topic is unregistered, and its application may register it again.
    """
    found = _GIVEN_BY_DEFAULT.fullmatch(topic.stored_as)
    if found is None or found[1] == topic.application or found[1] not in snapshot.applications:
        return
    registered = snapshot.topics.get((found[1], found[2], found[3]))
    # of dead letters in whatever cluster: two may be the same Kafka by other names
    if registered is None or found[4]:
        raise Conflict(
            f"{topic.stored_as} is the name of {found[1]}/{found[2]}/{found[3]} in the store; only its own application "
            "can register it"
        )
