"""Translates the names of topics and groups, as the registry has them, to places in stores and back.

In open mode the application is ``default``, of topics as of the groups that read them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from kateway.core.access.authorization import GROUP_NAME
from kateway.core.access.control import OPEN_NAME, OPEN_PRINCIPAL, Place, split_version
from kateway.core.groups.dead_letters import dead_letter_topic
from kateway.errors import InvalidName, NotFound, RegistryUnavailable, TopicNotFound, TopicRetired
from kateway.registry.interface import DEAD_SUFFIX, Snapshot, TopicName, open_topic, stored_group
from kateway.registry.validators import VERSION
from kateway.storage.interface import Store


class GroupName(NamedTuple):
    """A group of one topic, as people call it."""

    reader: str
    """The application that reads."""
    application: str
    """The topic's owner."""
    topic: str
    version: str
    group: str


class GroupPlace(NamedTuple):
    """A group found: the topic's place, and the group's name there."""

    place: Place
    group: str


class Found(NamedTuple):
    """A group that was known by its names in a store."""

    name: GroupName
    dead: bool
    """Whether it reads the dead letters of that name's group."""


class Names:
    """Finds places by names and names by places. ``snapshot`` is ``None`` in open mode."""

    def __init__(self, stores: Mapping[str, Store], snapshot: Callable[[], Snapshot] | None) -> None:
        self._stores = stores
        self._snapshot = snapshot
        self._default = "default" if "default" in stores else next(iter(stores))
        self._topics_of: Snapshot | None = None
        self._topics: dict[tuple[str, str], TopicName] = {}
        """Registered topics by cluster and name in the store."""

    @property
    def open(self) -> bool:
        """Whether there is no registry."""
        return self._snapshot is None

    @property
    def known(self) -> bool:
        """Whether the registry was reached since the start, where there is one."""
        return self._snapshot is None or self._snapshot().known

    def publishable(self, application: str, topic: str, version: str) -> Place:
        """As ``topic``; ``TopicRetired`` where it takes no records any more."""
        if self._snapshot is not None:
            entry = self._known().topics.get((application, topic, version))
            if entry is not None and entry.state == "retired":
                raise TopicRetired(f"{application}/{topic}/{version} is retired")
        return self.topic(application, topic, version)

    def application(self, name: str) -> None:
        """Checks that there is an application. ``NotFound``, ``RegistryUnavailable``."""
        if self._snapshot is None:
            self._check_default(name)
        elif name not in self._known().applications:
            raise NotFound(f"there is no application {name[:64]}")

    def topic(self, application: str, topic: str, version: str) -> Place:
        """Finds a topic. ``TopicNotFound`` where it is not registered; ``RegistryUnavailable``. A topic of open mode
        need not exist.
        """
        if self._snapshot is None:
            self._check_default(application)
            _check(OPEN_NAME, topic, "topic")
            _check(VERSION, version, "version")
            return Place(self._default, self._stores[self._default], open_topic(topic, version))
        entry = self._known().topics.get((application, topic, version))
        if entry is None:
            raise TopicNotFound(f"there is no topic {application}/{topic}/{version} in the registry")
        store = self._stores.get(entry.cluster)
        if store is None:
            raise RegistryUnavailable(f"this gateway has no cluster {entry.cluster}; [storage.{entry.cluster}] adds it")
        return Place(entry.cluster, store, entry.stored_as)

    def group(self, name: GroupName, *, dead: bool = False) -> GroupPlace:
        """Finds a group, at the topic or at its dead letters; neither it nor they need exist. ``NotFound`` for an
        application that is not registered.
        """
        place = self.topic(name.application, name.topic, name.version)
        if self._snapshot is None:
            self._check_default(name.reader)
            _check(OPEN_NAME, name.group, "group")
            group = name.group
        elif name.reader not in self._known().applications:
            raise NotFound(f"there is no application {name.reader}")
        else:
            _check(GROUP_NAME, name.group, "group")
            group = stored_group(name.reader, name.group)
        return GroupPlace(place._replace(topic=dead_letter_topic(place.topic, group)) if dead else place, group)

    def shown(self, name: GroupName) -> str:
        """A group's name as one text; in open mode the reader is the topic's application, and is not said twice."""
        return "/".join(name[1:] if self.open else name)

    def store(self, cluster: str) -> Store:
        """Returns a cluster of this gateway's."""
        return self._stores[cluster]

    def may_be_group(self, group: str) -> bool:
        """Whether a name in a store is one that a group of a registered application has; in open mode any is."""
        return self._snapshot is None or group.partition(".")[0] in self._snapshot().applications

    def found(self, cluster: str, group: str, topic: str) -> Found | None:
        """Returns the names of a group as a store has it; ``None`` where the registry does not know its topic."""
        # the dead letters of a group have a topic whose name ends with the group's
        suffix = f".{group}{DEAD_SUFFIX}"
        dead = topic.endswith(suffix)
        source = topic.removesuffix(suffix) if dead else topic
        if self._snapshot is None:
            application = OPEN_PRINCIPAL.application
            return Found(GroupName(application, application, *split_version(source), group), dead)
        name = self._by_store().get((cluster, source))
        reader, dot, own = group.partition(".")
        if name is None or not dot:
            return None
        return Found(GroupName(reader, *name, own), dead)

    def _known(self) -> Snapshot:
        assert self._snapshot is not None
        snapshot = self._snapshot()
        if not snapshot.known:
            raise RegistryUnavailable("the registry was not reached since the start; its topics are not known yet")
        return snapshot

    def _by_store(self) -> Mapping[tuple[str, str], TopicName]:
        assert self._snapshot is not None
        snapshot = self._snapshot()
        if snapshot is not self._topics_of:
            self._topics = {(topic.cluster, topic.stored_as): topic.name for topic in snapshot.topics.values()}
            self._topics_of = snapshot
        return self._topics

    @staticmethod
    def _check_default(application: str) -> None:
        default = OPEN_PRINCIPAL.application
        if application != default:
            raise NotFound(f"the gateway is open (it has no registry): the application is {default}")


def _check(grammar: re.Pattern[str], text: str, kind: str) -> None:
    if not grammar.fullmatch(text) or text in {".", ".."}:
        raise InvalidName(f"the {kind} {text[:64]!r} does not match {grammar.pattern}")
