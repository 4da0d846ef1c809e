"""Authorises requests: an application publishes to its own topics, and reads its own and those that it is bound to.

``{topic}`` is a topic of the caller's own application or one that it is bound to, or ``application.topic``. Another
application's topic that the caller has no binding for is ``Denied`` whether it exists or not: the answer does not
disclose the topics of others.

Found by the entry point group ``kateway.authorizers``: a factory that takes ``max_deliveries`` of ``[delivery]``, and
its ``Options`` where it has them. One of another package that fails lets nothing through: 503 ``plugin-failed``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any, Final, NamedTuple, Protocol

from kateway.bounded_cache import BoundedCache
from kateway.core import entry_points
from kateway.core.access.authentication import Purpose
from kateway.core.plugin_watch import Watch, Watches
from kateway.errors import AmbiguousTopic, Denied, KatewayError, TopicNotFound, TopicRetired
from kateway.model import Principal
from kateway.registry.interface import Binding, Snapshot, Topic, stored_group

ENTRY_POINTS: Final = entry_points.AUTHORIZERS
TOPIC_NAME: Final = re.compile(r"(?:[A-Za-z0-9_-]{1,64}\.)?[A-Za-z0-9_-]{1,64}")
"""``{topic}`` with a registry: ``topic`` or ``application.topic``."""
GROUP_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_REMEMBERED = 20_000
"""Grants kept for the snapshot in force; beyond it all are worked out anew."""


class AccessRequest(NamedTuple):
    """A request's purpose and names. Names are within their grammar; ``topic`` has at most one dot."""

    purpose: Purpose
    version: str
    topic: str
    group: str | None = None


class Grant(NamedTuple):
    """A right, with the topic, group and limits that go with it."""

    cluster: str
    topic: str
    """As the store calls it."""
    group: str
    """As the store calls it; empty where none was asked for."""
    dead_letter: bool
    max_deliveries: int
    """Then a record goes to the dead-letter queue; 0: never."""
    headers: tuple[tuple[bytes, bytes], ...]
    """To be added to the response: ``Deprecation`` and ``Sunset`` of a deprecated topic."""
    owner: str = ""
    """The application that owns the topic: for the audit."""


class Authorizer(Protocol):
    """Decides about a principal's requests."""

    def authorize(self, principal: Principal, asked: AccessRequest, snapshot: Snapshot) -> Grant:
        """The grant; ``Denied``, ``TopicNotFound``, ``TopicRetired``, ``AmbiguousTopic``. Synchronous: it runs for
        every request of the hot path.
        """


class BindingAuthorizer:
    """Decides by ownership and bindings. Decisions are kept until the snapshot changes."""

    def __init__(self, max_deliveries: int = 0) -> None:
        self._max_deliveries = max_deliveries
        self._snapshot: Snapshot | None = None
        self._grants: BoundedCache[tuple[str, AccessRequest], Grant] = BoundedCache(MAX_REMEMBERED)
        self._bound: dict[tuple[str, str, str], list[Binding]] | None = None

    def authorize(self, principal: Principal, asked: AccessRequest, snapshot: Snapshot) -> Grant:
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._grants.clear()
            self._bound = None
        question = (principal.application, asked)
        grant = self._grants.get(question)
        if grant is None:
            grant = self._grants.keep(question, self._decide(principal.application, asked, snapshot))
        return grant

    def _decide(self, caller: str, asked: AccessRequest, snapshot: Snapshot) -> Grant:
        purpose, version, topic, group = asked
        owner, dot, name = topic.rpartition(".")
        if not dot:
            owner = self._owner(caller, version, topic, snapshot)
        binding = snapshot.bindings.get((caller, owner, name, version))
        if owner != caller:
            if purpose == "publish":
                raise Denied("an application publishes to its own topics only")
            if binding is None:
                raise Denied(f"{caller} is not bound to {owner}.{name} {version}")
            if group is not None and not binding.allows(group):
                raise Denied(f"the binding to {owner}.{name} {version} does not allow the group {group}")
        entry = snapshot.topics.get((owner, name, version))
        if entry is None:
            raise TopicNotFound(f"{owner} has no topic {name} {version}")
        if entry.state == "retired":
            raise TopicRetired(f"{owner}.{name} {version} is retired")
        if owner == caller:
            deliveries = self._max_deliveries
            dead_letter = True
        if binding is not None:
            dead_letter = binding.dead_letter
            deliveries = binding.max_deliveries if dead_letter else 0
        return Grant(
            entry.cluster,
            entry.stored_as,
            "" if group is None else stored_group(caller, group),
            dead_letter,
            deliveries,
            _notices(entry),
            owner,
        )

    def _owner(self, caller: str, version: str, name: str, snapshot: Snapshot) -> str:
        """Finds the owner of a topic named without an application: the caller first, then the one it is bound to."""
        if (caller, name, version) in snapshot.topics:
            return caller
        if self._bound is None:
            self._bound = {}
            for binding in snapshot.bindings.values():
                self._bound.setdefault((binding.subscriber, binding.topic, binding.version), []).append(binding)
        found = sorted(binding.application for binding in self._bound.get((caller, name, version), ()))
        if len(found) > 1:
            raise AmbiguousTopic("say which: " + ", ".join(f"{owner}.{name}" for owner in found[:10]))
        return found[0] if found else caller


def _notices(topic: Topic) -> tuple[tuple[bytes, bytes], ...]:
    """``Deprecation`` (RFC 9745: a date as structured field) and ``Sunset`` (RFC 8594: an HTTP date)."""
    if topic.state != "deprecated":
        return ()
    since = 0 if topic.deprecated is None else topic.deprecated // 1000
    headers = [(b"Deprecation", b"@%d" % since)]
    if topic.sunset is not None:
        headers.append((b"Sunset", formatdate(topic.sunset / 1000, usegmt=True).encode()))
    return tuple(headers)


class WatchedAuthorizer:
    """An authorizer of another package, whose failures are counted."""

    def __init__(self, authorizer: Authorizer, watch: Watch) -> None:
        self._authorizer = authorizer
        self._watch = watch

    def authorize(self, principal: Principal, asked: AccessRequest, snapshot: Snapshot) -> Grant:
        return self._watch.decide(lambda: self._authorize(principal, asked, snapshot), KatewayError)

    def _authorize(self, principal: Principal, asked: AccessRequest, snapshot: Snapshot) -> Grant:
        grant = self._authorizer.authorize(principal, asked, snapshot)
        if not isinstance(grant, Grant):
            raise TypeError(f"it gives {type(grant).__name__}, not a grant")
        return grant


def binding_authorizer(max_deliveries: int) -> BindingAuthorizer:
    """The entry point ``bindings``."""
    return BindingAuthorizer(max_deliveries)


def build_authorizer(
    name: str, max_deliveries: int, watches: Watches, options: Mapping[str, Any] | None = None
) -> Authorizer:
    """The authorizer that ``[auth] authorizer`` names. ``ConfigError`` where there is none of that name, or where it
    refuses its options.
    """
    factory = entry_points.load(ENTRY_POINTS, name, "auth.authorizer")
    authorizer: Authorizer = entry_points.make(factory, max_deliveries, options or {}, f"auth.options.{name}")
    watch = watches.loaded(ENTRY_POINTS, name)
    return authorizer if watch.own else WatchedAuthorizer(authorizer, watch)
