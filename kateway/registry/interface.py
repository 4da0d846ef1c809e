"""The contract of a registry: applications, keys, topics, bindings as one immutable snapshot, a watch, durable writes.

The hot path reads ``registry.snapshot`` without a lock and looks things up in O(1); a change replaces the snapshot
as a whole. Entries say nothing about how they are stored. Times are milliseconds since the epoch.

A write names the etag that it expects (``None``: any), is refused with ``PreconditionFailed`` if the
entry is another by then, and is in force in ``snapshot`` when its coroutine answers. A put of an equal entry
changes nothing and keeps its etag. An entry that another one refers to must exist (``NotFound``) and cannot
go (``StillReferred``, which names them).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

import attrs

from kateway.model import Health
from kateway.registry import validators as grammar

KeyKind = Literal["pub", "sub"]
OnError = Literal["dead", "pass", "stop"]
"""Of a record on its way out: to the dead letters, as it is, or an end of the stream."""
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
class Elastic:
    """How a topic grows by itself: more partitions where its load was above a target for long enough."""

    max_partitions: int = attrs.field(default=64, validator=grammar.most_partitions)
    target_bytes_per_second: float | None = attrs.field(default=1_048_576, validator=grammar.rate)
    """Of each partition; ``None``: its bytes do not matter."""
    target_readers_per_partition: float | None = attrs.field(default=1, validator=grammar.rate)
    """Of the group that has the most readers; ``None``: readers do not matter."""
    cooldown_seconds: int = attrs.field(default=600, validator=grammar.cooldown)
    """From one growth to the next at least."""
    handover_seconds: int = attrs.field(default=30, validator=grammar.handover)
    """A key that moves is held back for so long at most."""
    dry_run: bool = attrs.field(default=False, validator=grammar.yes_or_no)
    """Only says what it would do."""


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
    elastic: Elastic | None = None
    """Where it grows by itself; see ``Placement``."""
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


KeyHash = Literal["jump", "murmur2"]
PlacementState = Literal["settled", "announced", "reading"]


@attrs.frozen(kw_only=True)
class Growth:
    """One change of a topic's partitions in force, as it was done."""

    at: int
    was: int
    now: int
    why: str = ""
    held_seconds: float = 0.0
    """For how long the keys that moved were held back."""
    bound_hit: bool = False
    """Whether ``handover_seconds`` were over before every group had read so far."""


def _as_tuple(growths: Iterable[Growth]) -> tuple[Growth, ...]:
    return tuple(growths)


@attrs.frozen(kw_only=True)
class Placement:
    """The partitions in force of an elastic topic: where its keyed records go, which the registry says, not the store.

    It changes in steps, each a ``generation``: ``announced`` (keys that will move are held back, and each gateway says
    when none of them is on its way any more), ``reading`` (the new partitions are in force; the keys that moved wait
    until the groups have read the old ones up to the ``fence``), ``settled``.
    """

    application: str = attrs.field(validator=grammar.name)
    topic: str = attrs.field(validator=grammar.name)
    version: str = attrs.field(validator=grammar.version)
    hash: KeyHash = attrs.field(default="jump", validator=grammar.key_hash)
    partitions: int = attrs.field(default=1, validator=grammar.in_force)
    """In force; while ``reading`` those from before."""
    generation: int = attrs.field(default=1, validator=grammar.generation)
    """Begins at the time when the placement was made, so that none comes again where a topic is made anew."""
    state: PlacementState = attrs.field(default="settled", validator=grammar.placement_state)
    next_hash: KeyHash = attrs.field(default="jump", validator=grammar.key_hash)
    next_partitions: int = attrs.field(default=0, validator=grammar.next_partitions)
    """What it goes over to; 0 while it is settled."""
    why: str = attrs.field(default="", validator=grammar.text)
    since: int = 0
    """When the change under way was announced, else when the last one ended or was given up."""
    changed: int = 0
    """When a record was last placed by other partitions or another hash; 0: never."""
    murmur2_partitions: int = attrs.field(default=0, validator=grammar.next_partitions)
    """The most partitions that keys were ever placed by murmur2 over; 0: never."""
    fence: Mapping[str, int] = attrs.field(factory=dict, validator=grammar.fence)
    """The ends of the old partitions when the new ones came into force."""
    growths: tuple[Growth, ...] = attrs.field(default=(), converter=_as_tuple)
    """The last ones, the newest at the end."""
    etag: str = attrs.field(default="", eq=False)

    @property
    def name(self) -> TopicName:
        return (self.application, self.topic, self.version)


Steps = tuple[Mapping[str, Any], ...]
"""Transform steps as their owner wrote them; ``kateway.core.transforms`` compiles them."""


@attrs.frozen(kw_only=True)
class OutgoingTransforms:
    """A binding's own steps for records on their way out."""

    outgoing: Steps = attrs.field(default=(), converter=tuple, validator=grammar.steps)
    on_error: OnError = attrs.field(default="dead", validator=grammar.on_error)


@attrs.frozen(kw_only=True)
class Transforms:
    """What happens to a topic's records on their way in and out."""

    application: str = attrs.field(validator=grammar.name)
    topic: str = attrs.field(validator=grammar.topic)
    version: str = attrs.field(validator=grammar.version)
    incoming: Steps = attrs.field(default=(), converter=tuple, validator=grammar.steps)
    outgoing: Steps = attrs.field(default=(), converter=tuple, validator=grammar.steps)
    on_error: OnError = attrs.field(default="dead", validator=grammar.on_error)
    generation: int = attrs.field(default=1, eq=False)
    """Grows by one with each change: a record's header says which was applied."""
    etag: str = attrs.field(default="", eq=False)

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
    transforms: OutgoingTransforms | None = None
    """Applied behind the topic's own."""
    filter: str | None = attrs.field(default=None, validator=grammar.filter_text)
    """An expression that is true of the records that the subscriber may see."""
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
    cluster: str = ""
    """Where other gateways link to it; empty where it stands alone."""
    links: tuple[str, ...] = ()
    """The gateways that it has a link to."""
    version: str = ""
    started: int = 0
    load: Mapping[str, float] = attrs.field(factory=dict)
    """``readers``, ``groups``, ``bytes_in_flight`` … as it was when the entry was last written."""
    processes: int = 1
    """Of several, each has an entry of its own (``register_process``) that says which keys it places."""
    placed: Mapping[str, int] = attrs.field(factory=dict)
    """By elastic topic the generation of its placement that this gateway goes by: nothing that was placed by a former
    one is on its way any more.
    """
    readers: Mapping[str, Mapping[str, int]] = attrs.field(factory=dict)
    """By elastic topic and group, how many readers it has here."""


Entry = Application | Key | Topic | Binding | Transforms | Placement
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
    transforms: Mapping[TopicName, Transforms] = attrs.field(factory=lambda: MappingProxyType({}), repr=False)
    placements: Mapping[TopicName, Placement] = attrs.field(factory=lambda: MappingProxyType({}), repr=False)
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


DEAD_SUFFIX = ".dead"
"""Of the topics that hold groups' dead letters: ``<topic in the store>.<group in the store>.dead``."""


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

    def on_applied(self, callback: Callable[[float], None]) -> None:
        """Calls back with each change that came into force: when it was noticed here, on the reactor's clock."""

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

    async def put_topic(
        self, topic: Topic, expected: str | None = None, placement: Placement | None = None
    ) -> Written[Topic]:
        """``Conflict`` where another entry is the same topic of the same cluster already. ``placement`` is written with
        it where the topic is new.
        """

    async def delete_topic(self, name: TopicName, expected: str | None = None) -> None:
        """Unregisters it, no more; its transforms go with it. ``StillReferred`` while there are bindings on it."""

    async def put_binding(self, binding: Binding, expected: str | None = None) -> Written[Binding]: ...

    async def delete_binding(self, name: BindingName, expected: str | None = None) -> None: ...

    async def put_transforms(self, transforms: Transforms, expected: str | None = None) -> Written[Transforms]:
        """Its ``generation`` is the next one. ``TopicNotFound`` where the topic is not registered."""

    async def delete_transforms(self, name: TopicName, expected: str | None = None) -> None: ...

    async def put_placement(self, placement: Placement, expected: str | None) -> Written[Placement]:
        """Puts partitions in force, and into the topic's entry. Works with a file registry, too, which keeps them
        beside its file.
        """

    async def delete_placement(self, name: TopicName, expected: str | None) -> None:
        """Forgets a topic's partitions in force: its keys are placed by the store's again."""

    async def lead(self, report: bytes) -> bool:
        """Whether this gateway is the one that does what only one may do, of those that share the registry; asked
        again and again. It leads until ``stop``, or until its session ends. ``report`` is what it tells the others.
        """

    async def leader_report(self) -> bytes:
        """Returns what the gateway that leads has last told; empty where none leads."""

    @property
    def unheard_since(self) -> float | None:
        """Since when changes made by other gateways may be unknown here, on the reactor's clock; ``None``: they are
        known, and this gateway's entry is in the list.
        """

    async def register_gateway(self, entry: GatewayEntry) -> None:
        """Enters this gateway in the list, or brings its entry up to date; it stays until ``stop`` or the process's
        end. Works while the server is away: then it is entered when it is back.
        """

    async def register_process(self, entry: GatewayEntry) -> None:
        """Enters one of a gateway's several processes among those that place keys, as ``register_gateway`` does; to be
        called before that.
        """

    async def placing(self) -> Sequence[GatewayEntry]:
        """Returns all that place keys: the live gateways, and of those with several processes each process instead."""

    async def gateways(self) -> Sequence[GatewayEntry]:
        """The live gateways that share this registry, by name. ``RegistryUnavailable`` where that cannot be known."""

    async def note_used(self, used: Mapping[str, int]) -> None:
        """Keeps when keys were last used: gathered by the caller and told now and then, never on the hot path.
        Changes no entry and no snapshot; keys that are gone are passed over. A read-only driver keeps it in memory.
        """

    async def last_used(self, keys: Collection[str]) -> Mapping[str, int]:
        """When keys were last used, as far as noted; a key never used is not in it."""
