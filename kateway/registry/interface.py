"""The contract of a registry: applications, keys, topics, bindings as one immutable snapshot, a watch, durable writes.

The hot path reads ``registry.snapshot`` without a lock and looks things up in O(1); a change replaces the snapshot
as a whole. Entries say nothing about how they are stored. Times are milliseconds since the epoch.

A write names the etag that it expects (``None``: any), is refused with ``PreconditionFailed`` if the
entry is another by then, and is in force in ``snapshot`` when its coroutine answers. A put of an equal entry
changes nothing and keeps its etag. An entry that another one refers to must exist (``NotFound``) and cannot
go (``StillReferred``, which names them).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Generic, Literal, Protocol, TypeVar

import attrs

from kateway.model import Health
from kateway.registry import validators as grammar

KeyKind = Literal["pub", "sub"]
TopicState = Literal["active", "deprecated", "retired"]
TopicName = tuple[str, str, str]
"""(application, topic, version): a plain tuple, because it is made and looked up for every request."""
BindingName = tuple[str, str, str, str]
"""(subscriber, application, topic, version)."""

ABSENT: Final = ""
"""As an expected etag: there must be no such entry; ``Conflict`` where there is."""
ANY: Final = "*"
"""As an expected etag: there must be such an entry, whichever."""


@attrs.frozen(kw_only=True)
class Quota:
    """How much an application (or one key of it) may do, per gateway; ``None`` is no limit."""

    publish_records_per_second: float | None = attrs.field(default=None, validator=grammar.rate)
    publish_bytes_per_second: float | None = attrs.field(default=None, validator=grammar.rate)
    subscribe_bytes_per_second: float | None = attrs.field(default=None, validator=grammar.rate)
    requests_per_second: float | None = attrs.field(default=None, validator=grammar.rate)
    readers: int | None = attrs.field(default=None, validator=grammar.count)


UNLIMITED: Final = Quota()


@attrs.frozen(kw_only=True)
class Application:
    """Publishes and subscribes: the owner of keys and topics."""

    name: str = attrs.field(validator=grammar.name)
    description: str = attrs.field(default="", validator=grammar.text)
    quota: Quota = UNLIMITED
    etag: str = attrs.field(default="", eq=False)


@attrs.frozen(kw_only=True)
class Key:
    """Identifies a caller, together with its secret. Its last use is kept apart: see ``Registry.note_used``."""

    key: str = attrs.field(validator=grammar.name)
    application: str = attrs.field(validator=grammar.name)
    kind: KeyKind = attrs.field(validator=grammar.kind)
    secret_hash: str = attrs.field(repr=False, validator=grammar.secret_hash)
    """Salted; ``secrets.matches`` checks a secret against it."""
    rotated_hash: str | None = attrs.field(default=None, repr=False, validator=grammar.optional_secret_hash)
    """Of the secret before the last rotation, good until ``rotated_until``."""
    rotated_until: int = 0
    made: int = 0
    quota: Quota | None = None
    """Instead of its application's, member by member: a ``None`` here leaves the application's in force."""
    etag: str = attrs.field(default="", eq=False)

    def hashes(self, now: int) -> tuple[str, ...]:
        """The hashes that a secret may match at ``now`` (ms since the epoch)."""
        if self.rotated_hash is not None and now < self.rotated_until:
            return (self.secret_hash, self.rotated_hash)
        return (self.secret_hash,)


@attrs.frozen(kw_only=True)
class Topic:
    """One version of an application's topic, and which topic of which cluster it is."""

    application: str = attrs.field(validator=grammar.name)
    topic: str = attrs.field(validator=grammar.name)
    version: str = attrs.field(validator=grammar.version)
    cluster: str = attrs.field(default="default", validator=grammar.name)
    partitions: int | None = attrs.field(default=None, validator=grammar.partitions)
    """``None``: as many as the store has."""
    replicas: int = attrs.field(default=1, validator=grammar.replicas)
    retention_hours: int | None = attrs.field(default=168, validator=grammar.retention)
    """``None``: for ever."""
    storage_name: str | None = attrs.field(default=None, validator=grammar.storage_name)
    """The topic in the store, where it is not ``application.topic.version``."""
    state: TopicState = attrs.field(default="active", validator=grammar.state)
    deprecated: int | None = None
    """Since when it is deprecated; kept from the entry that a put replaces where the new one does not say."""
    sunset: int | None = None
    """When it will be retired, for the ``Sunset`` header."""
    etag: str = attrs.field(default="", eq=False)
    stored_as: str = attrs.field(init=False, eq=False, repr=False)
    """The topic in the store, resolved."""

    @stored_as.default
    def _stored_as(self) -> str:
        return self.storage_name or f"{self.application}.{self.topic}.{self.version}"

    @property
    def name(self) -> TopicName:
        return (self.application, self.topic, self.version)


@attrs.frozen(kw_only=True)
class Binding:
    """The right of ``subscriber`` to read another application's topic with certain groups."""

    subscriber: str = attrs.field(validator=grammar.name)
    application: str = attrs.field(validator=grammar.name)
    topic: str = attrs.field(validator=grammar.name)
    version: str = attrs.field(validator=grammar.version)
    groups: frozenset[str] = attrs.field(converter=frozenset, validator=grammar.groups)
    """``*`` stands for every group."""
    dead_letter: bool = True
    max_deliveries: int = attrs.field(default=5, validator=grammar.deliveries)
    """Then a record moves to the dead-letter queue; 0: never."""
    etag: str = attrs.field(default="", eq=False)

    def allows(self, group: str) -> bool:
        return group in self.groups or "*" in self.groups

    @property
    def name(self) -> BindingName:
        return (self.subscriber, self.application, self.topic, self.version)


@attrs.frozen(kw_only=True)
class GatewayEntry:
    """A live gateway's entry, written by itself."""

    name: str = attrs.field(validator=grammar.name)
    """Unique among gateways for as long as the process lives."""
    public: tuple[str, ...] = ()
    admin: tuple[str, ...] = ()
    """Addresses, ``host:port``."""
    version: str = ""
    started: int = 0
    load: Mapping[str, float] = attrs.field(factory=dict)
    """``readers``, ``groups``, ``bytes_in_flight`` … as it was when the entry was last written."""


Entry = Application | Key | Topic | Binding
E_co = TypeVar("E_co", bound=Entry, covariant=True)


@attrs.frozen(kw_only=True, eq=False)
class Snapshot:
    """Everything registered at one moment. Never changes, so a holder may go on using it."""

    revision: int = 0
    """Grows with every change; of the driver's own counting."""
    known: bool = True
    """False: the registry has not been reached since the start, so no key is known
    (``RegistryUnavailable``, not ``Unauthorized``).
    """
    open: bool = False
    """Open mode: nothing is registered and everything is allowed (see ``open_topic``)."""
    applications: Mapping[str, Application] = attrs.field(factory=lambda: MappingProxyType({}))
    keys: Mapping[str, Key] = attrs.field(factory=lambda: MappingProxyType({}), repr=False)
    topics: Mapping[TopicName, Topic] = attrs.field(factory=lambda: MappingProxyType({}), repr=False)
    bindings: Mapping[BindingName, Binding] = attrs.field(factory=lambda: MappingProxyType({}), repr=False)
    """To be looked up directly: ``snapshot.keys.get(key)``, ``snapshot.topics.get((app, topic, version))``,
    ``snapshot.bindings.get((subscriber, app, topic, version))``.
    """

    def keys_of(self, application: str) -> list[Key]:
        """An application's keys by name; looks at all keys, so not for the hot path."""
        return sorted((key for key in self.keys.values() if key.application == application), key=lambda key: key.key)

    def quota(self, application: str, key: str = "") -> Quota:
        """Returns the quota of a key of an application: its own where it has one, else its application's."""
        owner = self.applications.get(application)
        quota = UNLIMITED if owner is None else owner.quota
        own = self.keys.get(key)
        if own is None or own.quota is None:
            return quota
        given = attrs.asdict(own.quota, filter=lambda _field, value: value is not None)
        return attrs.evolve(quota, **given)


def stored_group(application: str, group: str) -> str:
    """Returns the group's name in the store, so that two applications' groups never meet (not in open mode)."""
    return f"{application}.{group}"


def open_topic(topic: str, version: str) -> str:
    """Returns the topic's name in the store in open mode."""
    return topic if version == "v1" else f"{topic}.{version}"


@attrs.frozen
class Written(Generic[E_co]):
    """The result of a put: the entry as it is now, with its etag, and whether it is new."""

    entry: E_co
    made: bool


Callback = Callable[[Snapshot], None]


class Registry(Protocol):
    """Keeps applications, keys, topics and bindings."""

    @property
    def driver(self) -> str:
        """As the configuration calls it: ``open``, ``embedded``, ``file``, ``zookeeper``."""

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot in force. Take it once per request and use that one throughout."""

    @property
    def read_only(self) -> bool:
        """True: every write raises (``RegistryReadOnly``, in open mode ``RegistryOpen``)."""

    def check_writable(self) -> None:
        """Raises the error of every write where it is ``read_only``."""

    async def start(self) -> None:
        """Loads the snapshot. Bad content of a file or data directory raises ``ConfigError``; a server that cannot
        be reached is not an error: the snapshot is not ``known`` until it is, ``health`` says so and the driver keeps
        trying.
        """

    async def stop(self) -> None:
        """Leaves the list of gateways and frees everything; the snapshot stays."""

    async def reload(self) -> None:
        """Reads everything again, all or nothing: ``ConfigError`` names each fault and the old stays in force."""

    def watch(self, callback: Callback) -> Callable[[], None]:
        """Calls back on the reactor's thread each time that ``snapshot`` was replaced, with the new one, before the
        write that did it answers; the callable returned ends that. A callback that raises is logged, no more.
        """

    def health(self) -> Health:
        """Returns the present health. Unhealthy: the last snapshot stays in force. ``details`` has ``driver``,
        ``revision`` and counts.
        """

    async def put_application(self, application: Application, expected: str | None = None) -> Written[Application]: ...

    async def delete_application(self, name: str, expected: str | None = None) -> None:
        """Its keys go with it. ``StillReferred`` while it has topics or bindings, its own or on its topics."""

    async def put_key(self, key: Key, expected: str | None = None) -> Written[Key]:
        """``Conflict`` where another application has a key of that name: a key is looked up by its name alone."""

    async def delete_key(self, application: str, key: str, expected: str | None = None) -> None: ...

    async def put_topic(self, topic: Topic, expected: str | None = None) -> Written[Topic]:
        """``Conflict`` where another entry is the same topic of the same cluster already."""

    async def delete_topic(self, name: TopicName, expected: str | None = None) -> None:
        """Unregisters it, no more. ``StillReferred`` while there are bindings on it."""

    async def put_binding(self, binding: Binding, expected: str | None = None) -> Written[Binding]: ...

    async def delete_binding(self, name: BindingName, expected: str | None = None) -> None: ...

    async def register_gateway(self, entry: GatewayEntry) -> None:
        """Enters this gateway in the list, or brings its entry up to date; it stays until ``stop`` or the process's
        end. Works while the server is away: then it is entered when it is back.
        """

    async def gateways(self) -> Sequence[GatewayEntry]:
        """The live gateways that share this registry, by name. ``RegistryUnavailable`` where that cannot be known."""

    async def note_used(self, used: Mapping[str, int]) -> None:
        """Keeps when keys were last used: gathered by the caller and told now and then, never on the hot path.
        Changes no entry and no snapshot; keys that are gone are passed over. A read-only driver keeps it in memory.
        """

    async def last_used(self, keys: Collection[str]) -> Mapping[str, int]:
        """When keys were last used, as far as noted; a key never used is not in it."""
