"""Turns a request's names and credentials into an authorised request: a place in a store, and a permission.

``OpenAccess`` is the rule without a registry: every caller may do everything, ``v1`` is the plain topic, ``vN`` is
``topic.vN``, a group is as given, so that an existing Kafka works with no set-up. ``RegistryAccess`` asks the
registry's rules (``access``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from kateway.bounded_cache import BoundedCache
from kateway.core.access.authentication import Credentials, Purpose, SnapshotNow
from kateway.core.access.authorization import GROUP_NAME, TOPIC_NAME, AccessRequest
from kateway.core.access.policy import Access, Permission
from kateway.core.access.rate_limits import Allowance
from kateway.core.audit.events import actor
from kateway.errors import Denied, KatewayError, RegistryUnavailable, TooManyFailures, Unauthorized
from kateway.model import Principal
from kateway.observe.bundles import Counted
from kateway.registry.interface import DEAD_SUFFIX, Snapshot, TopicName, open_topic
from kateway.storage.interface import Store

OPEN_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
"""Kafka's own grammar: with no registry a dot means nothing."""
OPEN_PRINCIPAL = Principal("default")
MAX_REMEMBERED = 20_000
_VERSIONED = re.compile(r"(.+)\.(v(?!1$)[0-9]{1,9})")

Refused = Callable[[KatewayError], None]
Show = Callable[[Purpose], Credentials]
"""Reads a request's credentials; called only where they are needed."""


class Place(NamedTuple):
    """A topic found: its cluster by name and as a store, its name there."""

    cluster: str
    store: Store
    topic: str


class AuthorizedRequest(NamedTuple):
    """A request that may go on."""

    place: Place
    group: str
    """As the store calls it; empty where none was asked for."""
    principal: Principal
    max_deliveries: int | None
    """Then a record goes to the dead-letter queue; 0: never; ``None``: as configured."""
    headers: tuple[tuple[bytes, bytes], ...]
    """For the response: that the topic is deprecated."""
    asked: AccessRequest
    permission: Permission | None
    """``None`` in open mode."""
    counted: Counted
    """Where its traffic is counted."""

    def group_names(self, dead: bool) -> tuple[str, str, str, str, str]:
        """Those of the topic, or of the group's dead letters, the group's and its reader's application."""
        owner, topic, version = self.registered
        group = self.asked.group or ""
        if dead:
            topic = f"{topic}.{group}{DEAD_SUFFIX}"
        return owner, topic, version, group, self.principal.application

    @property
    def registered(self) -> TopicName:
        """The topic's name in the registry; in open mode its application is ``default``."""
        permission, asked = self.permission, self.asked
        if permission is None:
            return (OPEN_PRINCIPAL.application, asked.topic, asked.version)
        owner = permission.grant.owner or permission.principal.application
        return (owner, asked.topic.rpartition(".")[2], asked.version)

    @property
    def allowance(self) -> Allowance | None:
        """The rest of the quotas, where there are any. Good for this request."""
        permission = self.permission
        return permission.allowance if permission is not None and permission.allowance.counts else None


class UsableTopic(NamedTuple):
    """A topic that a caller may use."""

    topic: str
    """As the caller names it: with its application where that is another's."""
    partitions: int
    publish: bool
    groups: tuple[str, ...]
    """Of which it may subscribe; ``*`` stands for every one."""


class AccessControl(Protocol):
    """Lets requests in."""

    @property
    def topic_grammar(self) -> re.Pattern[str]: ...

    @property
    def group_grammar(self) -> re.Pattern[str]: ...

    @property
    def open(self) -> bool:
        """Whether no credentials are needed."""

    def rules(self) -> object:
        """Returns what stands for the registry's snapshot and the rules in force, as ``same_rules`` compares it."""

    def same_rules(self, rules: object) -> bool:
        """Whether nothing has changed since ``rules`` were taken."""

    def enter(self, asked: AccessRequest, show: Show) -> AuthorizedRequest:
        """Authorises a request; 401, 403, 404, 409, 410, 429, 503 as errors. Synchronous: it runs for every request."""

    async def usable(self, version: str, show: Show) -> tuple[str, list[UsableTopic]]:
        """Names the caller, and lists the topics of a version that it may use, by name; 401, 429 and 503 as errors."""

    def review(self, authorized: AuthorizedRequest) -> float | None:
        """Until when a stream may go on as things are now, in seconds since the epoch; ``None``: until something
        changes. Where it may not go on, the error says why.
        """

    def allowance(self, authorized: AuthorizedRequest) -> Allowance | None:
        """The present rest of the quotas, for a stream that outlives changes of them."""

    def read_pause(self, authorized: AuthorizedRequest, size: int) -> float:
        """Counts bytes read and answers the seconds to wait before reading more."""


class OpenAccess:
    """Authorises every request, on the default cluster."""

    topic_grammar = OPEN_NAME
    group_grammar = OPEN_NAME
    open = True

    def __init__(self, stores: Mapping[str, Store]) -> None:
        self._cluster = "default" if "default" in stores else next(iter(stores))
        self._store = stores[self._cluster]
        self._authorized: BoundedCache[AccessRequest, AuthorizedRequest] = BoundedCache(MAX_REMEMBERED)

    def rules(self) -> object:
        return None

    def same_rules(self, rules: object) -> bool:
        return True

    def enter(self, asked: AccessRequest, show: Show) -> AuthorizedRequest:
        authorized = self._authorized.get(asked)
        if authorized is None:
            place = Place(self._cluster, self._store, open_topic(asked.topic, asked.version))
            authorized = self._authorized.keep(
                asked, AuthorizedRequest(place, asked.group or "", OPEN_PRINCIPAL, None, (), asked, None, Counted())
            )
        return authorized

    async def usable(self, version: str, show: Show) -> tuple[str, list[UsableTopic]]:
        found = []
        for name, info in (await self._store.topics()).items():
            plain, suffix = split_version(name)
            if suffix == version and not name.endswith(DEAD_SUFFIX):
                found.append(UsableTopic(plain, info.partitions, True, ("*",)))
        return "", sorted(found)

    def review(self, authorized: AuthorizedRequest) -> float | None:
        return None

    def allowance(self, authorized: AuthorizedRequest) -> Allowance | None:
        return None

    def read_pause(self, authorized: AuthorizedRequest, size: int) -> float:
        return 0.0


class RegistryAccess:
    """Authorises by the registry. ``access`` is replaced by a reload; ``seconds`` is the reactor's clock."""

    topic_grammar = TOPIC_NAME
    group_grammar = GROUP_NAME
    open = False

    def __init__(
        self,
        access: Access,
        stores: Mapping[str, Store],
        snapshot: SnapshotNow,
        seconds: Callable[[], float],
        refused: Refused = lambda _error: None,
    ) -> None:
        """``refused`` is called with each error that says that a caller may not do what it asks for."""
        self._refused = refused
        self.access = access
        self._stores = stores
        self._snapshot = snapshot
        self._seconds = seconds
        self._seen: tuple[Snapshot | None, Access | None] = (None, None)
        self._rules: object = None

    def rules(self) -> object:
        # by identity: a snapshot never changes, and Access is replaced by a reload. Each connection keeps what this
        # returns: were it the snapshot, a thousand idle ones would keep a thousand old snapshots (47 MB at 1,000
        # applications)
        snapshot, access = self._snapshot(), self.access
        if snapshot is not self._seen[0] or access is not self._seen[1]:
            self._seen, self._rules = (snapshot, access), object()
        return self._rules

    def same_rules(self, rules: object) -> bool:
        return rules is self.rules()

    def enter(self, asked: AccessRequest, show: Show) -> AuthorizedRequest:
        if not self._snapshot().known:
            raise RegistryUnavailable("the registry was not reached since the start; its keys are not known yet")
        try:
            shown = show(asked.purpose)
        except Unauthorized as error:
            self._refused(error)
            raise self.access.authentication.challenged(error) from error
        try:
            permission = self.access.admit(shown, asked)
        except (Unauthorized, Denied, TooManyFailures) as error:
            self._refused(error)
            raise
        grant = permission.grant
        store = self._stores.get(grant.cluster)
        if store is None:
            raise RegistryUnavailable(f"this gateway has no cluster {grant.cluster}; [storage.{grant.cluster}] adds it")
        return AuthorizedRequest(
            Place(grant.cluster, store, grant.topic),
            grant.group,
            permission.principal,
            grant.max_deliveries,
            grant.headers,
            asked,
            permission,
            Counted(),
        )

    async def usable(self, version: str, show: Show) -> tuple[str, list[UsableTopic]]:
        snapshot = self._snapshot()
        if not snapshot.known:
            raise RegistryUnavailable("the registry was not reached since the start; its keys are not known yet")
        try:
            shown = show("describe")
        except Unauthorized as error:
            self._refused(error)
            raise self.access.authentication.challenged(error) from error
        try:
            principal = self.access.authentication.authenticate(shown, "describe")
        except (Unauthorized, Denied, TooManyFailures) as error:
            self._refused(error)
            raise
        self.access.quotas.of(principal, snapshot).request(self._seconds())
        key = snapshot.keys.get(principal.key)
        publishes, reads = key is None or key.kind == "pub", key is None or key.kind == "sub"
        caller = principal.application
        found = []
        for (owner, name, registered), topic in snapshot.topics.items():
            if registered != version or topic.state == "retired":
                continue
            binding = snapshot.bindings.get((caller, owner, name, version))
            if owner == caller:
                groups: tuple[str, ...] = ("*",)
            elif binding is not None:
                groups = tuple(sorted(binding.groups))
            else:
                continue
            publish = publishes and owner == caller
            if publish or reads:
                store = self._stores.get(topic.cluster)
                known = store.partitions(topic.stored_as) if store is not None else None
                full = name if owner == caller else f"{owner}.{name}"
                partitions = known or topic.partitions or 0
                found.append(UsableTopic(full, partitions, publish, groups if reads else ()))
        return actor(principal), sorted(found)

    def review(self, authorized: AuthorizedRequest) -> float | None:
        return None if authorized.permission is None else self.access.review(authorized.permission, authorized.asked)

    def allowance(self, authorized: AuthorizedRequest) -> Allowance | None:
        return self.access.quotas.of(authorized.principal, self._snapshot())

    def read_pause(self, authorized: AuthorizedRequest, size: int) -> float:
        # asked for afresh: an allowance is good for one request, a stream outlives many changes
        return self.access.quotas.of(authorized.principal, self._snapshot()).read(size, self._seconds())


def split_version(name: str) -> tuple[str, str]:
    """Splits a topic's name in the store, as ``open_topic`` makes it, into the plain name and the version."""
    found = _VERSIONED.fullmatch(name)
    return (name, "v1") if found is None else (found[1], found[2])
