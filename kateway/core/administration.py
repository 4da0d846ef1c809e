"""Changes the registry: applications, keys, topics and bindings, each change checked, carried out and audited.

A change goes on to its end when its caller goes away: half of one would be worse, and its event would be
missing. Topics are made in their store before they are registered and records deleted before they are unregistered,
so that a caller can repeat a change that failed in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple

import attrs
from twisted.logger import Logger

from kateway.core.audit.events import Audit
from kateway.core.audited_changes import AuditedChanges, By
from kateway.core.breaker import Breakers
from kateway.core.elastic_entries import ElasticEntries, wanted_partitions
from kateway.errors import Conflict, InvalidParameter, KatewayError, NotFound, RegistryUnavailable, TopicNotFound
from kateway.model import TopicInfo
from kateway.registry import plans
from kateway.registry.documents import to_table
from kateway.registry.interface import (
    ABSENT,
    Application,
    Binding,
    BindingName,
    Entry,
    Key,
    KeyKind,
    Placement,
    Quota,
    Registry,
    Snapshot,
    Topic,
    TopicName,
    Transforms,
    Written,
)
from kateway.registry.secrets import hash_secret, new_key, new_secret
from kateway.storage.interface import FOR_EVER, Handoff, Store

DEFAULT_PARTITIONS = 4
HOUR_MS = 3_600_000
MAX_GRACE_SECONDS = 30 * 86400
SUNSET_MS = 180 * 24 * HOUR_MS
"""How long a deprecated topic is promised to be there, where its entry does not say until when."""

_log = Logger()


class NewSecret(NamedTuple):
    """A key with its secret, which is known this once."""

    key: Key
    secret: str

    def __repr__(self) -> str:
        return f"NewSecret(key={self.key!r}, …)"


class Administration:
    """The changes. ``expected`` is an etag as ``Registry`` takes it; ``now`` is seconds since the epoch."""

    def __init__(
        self,
        registry: Registry,
        stores: Mapping[str, Store],
        audit: Audit,
        now: Callable[[], float],
        *,
        just_used: Callable[[], Mapping[str, int]] = dict,
        own: Collection[str] = (),
        breakers: Breakers | None = None,
        handoffs: Mapping[str, Handoff] | None = None,
        elastic: ElasticEntries | None = None,
    ) -> None:
        """``just_used``: keys that were used here and of which the registry has not heard. ``own``: clusters that no
        other gateway has.
        """
        self.registry = registry
        self.audited = AuditedChanges(audit)
        self.breakers = Breakers({}, now) if breakers is None else breakers
        self.handoffs: Mapping[str, Handoff] = handoffs or {}
        self._just_used = just_used
        self._own = own
        self._elastic = ElasticEntries() if elastic is None else elastic
        self._stores = stores
        self._now = now
        self._made_of: Snapshot | None = None
        """The snapshot of the moment when every topic was made."""
        self._made: set[tuple[Topic, str]] = set()
        """Topics that their stores have, with the etag that each was looked at with."""

    def check_writable(self) -> None:
        """Raises the registry's own refusal where it takes no changes, before anything else is looked at."""
        self.registry.check_writable()

    # --- applications ------------------------------------------------------------------------------------------

    async def put_application(self, application: Application, expected: str | None, by: By) -> Written[Application]:
        change = self.registry.put_application(application, expected)
        return await self.audited(change, by, "application.put", application.name)

    async def delete_application(self, name: str, expected: str | None, by: By) -> None:
        await self.audited(self.registry.delete_application(name, expected), by, "application.delete", name)

    # --- keys --------------------------------------------------------------------------------------------------

    async def make_key(
        self, application: str, key: str | None, kind: KeyKind, quota: Quota | None, by: By
    ) -> NewSecret:
        """Makes a key, under a name of its own unless one is given. ``Conflict`` where it exists."""
        name, secret = key or new_key(), new_secret()
        entry = Key(
            key=name,
            application=application,
            kind=kind,
            secret_hash=hash_secret(secret),
            made=self.now_ms(),
            quota=quota,
        )
        written = await self.audited(self.registry.put_key(entry, ABSENT), by, "key.make", f"{application}/{name}")
        return NewSecret(written.entry, secret)

    async def rotate_key(self, application: str, key: str, grace_seconds: float, by: By) -> NewSecret:
        """Gives a key a new secret; the old one works on for ``grace_seconds``."""
        secret = new_secret()

        async def rotate() -> Written[Key]:
            old = self.key(application, key)
            rotated = attrs.evolve(
                old,
                secret_hash=hash_secret(secret),
                rotated_hash=old.secret_hash if grace_seconds > 0 else None,
                rotated_until=self.now_ms() + round(grace_seconds * 1000) if grace_seconds > 0 else 0,
            )
            return await self.registry.put_key(rotated, old.etag)

        written = await self.audited(rotate(), by, "key.rotate", f"{application}/{key}")
        return NewSecret(written.entry, secret)

    async def set_key_quota(
        self, application: str, key: str, quota: Quota | None, expected: str | None, by: By
    ) -> Written[Key]:
        """Gives a key a quota of its own, or with ``None`` its application's again."""

        async def change() -> Written[Key]:
            old = self.key(application, key)
            return await self.registry.put_key(attrs.evolve(old, quota=quota), expected or old.etag)

        return await self.audited(change(), by, "key.quota", f"{application}/{key}")

    async def delete_key(self, application: str, key: str, expected: str | None, by: By) -> None:
        change = self.registry.delete_key(application, key, expected)
        await self.audited(change, by, "key.delete", f"{application}/{key}")

    def key(self, application: str, key: str) -> Key:
        """A registered key of the application; ``NotFound`` where there is none, or another's."""
        entry = self.registry.snapshot.keys.get(key)
        if entry is None or entry.application != application:
            raise NotFound(f"{application} has no key {key}")
        return entry

    # --- topics ------------------------------------------------------------------------------------------------

    async def put_topic(self, topic: Topic, expected: str | None, by: By) -> Written[Topic]:
        """Registers a topic: one that the store has is taken over, and grown to ``partitions`` where those are more;
        otherwise it is made, with 4 partitions unless told. ``Conflict`` for fewer partitions than there are, of an
        elastic topic than are in force.
        """
        return await self.audited(self._put_topic(topic, expected), by, "topic.put", "/".join(topic.name))

    async def _put_topic(self, topic: Topic, expected: str | None) -> Written[Topic]:
        store = self._store(topic.cluster)
        registry = self.registry
        if registry.read_only:
            return await registry.put_topic(topic, expected)
        old = registry.snapshot.topics.get(topic.name)
        if topic.state == "deprecated":
            since = topic.deprecated or (old and old.deprecated) or self.now_ms()
            until = topic.sunset or (old and old.sunset) or since + SUNSET_MS
            topic = attrs.evolve(topic, deprecated=since, sunset=until)
        # a change that the registry would refuse must not have touched the store
        plans.put(topic, expected)(registry.snapshot)
        self._elastic.check(topic, registry.snapshot)
        in_force = registry.snapshot.placements.get(topic.name)
        topic = attrs.evolve(topic, partitions=wanted_partitions(topic, old, in_force))
        info, made = await self._in_store(store, topic, grown=in_force is not None)
        if old is not None and old.stored_as == topic.stored_as and old.retention_hours != topic.retention_hours:
            await store.set_retention(topic.stored_as, _retention_ms(topic))
        placement = None
        if in_force is None:
            topic = attrs.evolve(topic, partitions=info.partitions)
            if made and old is None and topic.elastic is not None:
                placement = _first_placement(topic, info, self.now_ms())
        written = await registry.put_topic(topic, expected, placement)
        # made just now: one that is deleted from the store behind the gateway's back is not made again without records
        self._made.add((written.entry, written.entry.etag))
        return written

    async def last_used(self, keys: Collection[str]) -> Mapping[str, int]:
        """When keys were last used, as far as is known here: other gateways tell the registry now and then."""
        return {**await self.registry.last_used(keys), **self._just_used()}

    async def make_topics(self) -> None:
        """Makes the topics and partitions that are registered and that a store lacks: all that a registry file names,
        and those of another gateway, which has made them in its stores, in those that are this one's own. A store
        that does not answer just now is for the next call. Costs nothing while nothing has changed.
        """
        snapshot = self.registry.snapshot
        if snapshot is self._made_of or self.registry.driver == "open":
            return
        wanted = {
            (topic, topic.etag)
            for topic in snapshot.topics.values()
            if topic.state != "retired" and (self.registry.driver == "file" or topic.cluster in self._own)
        }
        complete = True
        self._made &= wanted
        for topic, etag in wanted - self._made:
            store = self._stores.get(topic.cluster)
            if store is None or not store.health().healthy:
                complete = complete and store is None
                continue
            try:
                grown = topic.elastic is not None or topic.name in snapshot.placements
                await self._in_store(store, topic, grown=grown)
            except KatewayError as error:
                if error.retriable:
                    complete = False
                    continue
                _log.warn("topics.{topic}: {error}", topic="/".join(topic.name), error=error)
            self._made.add((topic, etag))
        if complete:
            self._made_of = snapshot

    @staticmethod
    async def _in_store(store: Store, topic: Topic, *, grown: bool = False) -> tuple[TopicInfo, bool]:
        """Makes what the store lacks of a topic; returns whether it had nothing of it. ``grown``: it may have more
        partitions than its entry says.
        """
        try:
            info = await store.topic(topic.stored_as)
        except TopicNotFound:
            try:
                made = await store.create_topic(
                    topic.stored_as,
                    partitions=topic.partitions or DEFAULT_PARTITIONS,
                    replicas=topic.replicas,
                    retention_ms=_retention_ms(topic),
                )
                return made, True
            except Conflict:
                # another gateway was quicker
                info = await store.topic(topic.stored_as)
        if topic.partitions is None or topic.partitions == info.partitions:
            return info, False
        if topic.partitions < info.partitions:
            if grown:
                return info, False
            raise Conflict(f"{topic.stored_as} has {info.partitions} partitions: they can become more, never fewer")
        return await store.add_partitions(topic.stored_as, topic.partitions), False

    async def delete_topic(self, name: TopicName, delete_records: bool, expected: str | None, by: By) -> None:
        """Unregisters a topic; its records stay in the store unless they are to be deleted."""
        action = "topic.delete-records" if delete_records else "topic.delete"
        await self.audited(self._delete_topic(name, delete_records, expected), by, action, "/".join(name))

    async def _delete_topic(self, name: TopicName, delete_records: bool, expected: str | None) -> None:
        registry = self.registry
        if delete_records and not registry.read_only:
            plans.delete("topics", "/".join(name), expected)(registry.snapshot)
            topic = registry.snapshot.topics[name]
            try:
                await self._store(topic.cluster).delete_topic(topic.stored_as)
            except TopicNotFound:
                pass  # gone already: an earlier try came so far
        await registry.delete_topic(name, expected)

    def _store(self, cluster: str) -> Store:
        store = self._stores.get(cluster)
        if store is None:
            known = ", ".join(sorted(self._stores))
            raise InvalidParameter(f"cluster: there is no {cluster!r} in the configuration, only {known}")
        return store

    # --- bindings ----------------------------------------------------------------------------------------------

    async def put_binding(self, binding: Binding, expected: str | None, by: By) -> Written[Binding]:
        """Gives an application the right to read a topic; its transforms and filter are compiled already."""
        old = self.registry.snapshot.bindings.get(binding.name)
        change = self.registry.put_binding(binding, expected)
        return await self.audited(
            change,
            by,
            "binding.put",
            "/".join(binding.name),
            changed=lambda written: (_table(old), _table(written.entry)),
        )

    async def delete_binding(self, name: BindingName, expected: str | None, by: By) -> None:
        await self.audited(self.registry.delete_binding(name, expected), by, "binding.delete", "/".join(name))

    # --- transforms --------------------------------------------------------------------------------------------

    async def put_transforms(self, transforms: Transforms, expected: str | None, by: By) -> Written[Transforms]:
        """Puts a topic's transforms in force; they are compiled already."""
        old = self.registry.snapshot.transforms.get(transforms.name)
        change = self.registry.put_transforms(transforms, expected)
        return await self.audited(
            change,
            by,
            "transforms.put",
            "/".join(transforms.name),
            changed=lambda written: (_table(old), _table(written.entry)),
        )

    async def delete_transforms(self, name: TopicName, expected: str | None, by: By) -> None:
        """Records of the topic go in and out as they are from then on."""
        old = self.registry.snapshot.transforms.get(name)
        change = self.registry.delete_transforms(name, expected)
        await self.audited(change, by, "transforms.delete", "/".join(name), changed=lambda _done: (_table(old), None))

    # --- breakers ----------------------------------------------------------------------------------------------

    async def set_breaker(self, cluster: str, state: Literal["open", "closed"], by: By) -> None:
        """Opens a cluster's breaker for maintenance, until it is closed by hand; or closes it. ``NotFound``."""

        async def change() -> None:
            if cluster not in self.breakers:
                raise NotFound(f"there is no cluster {cluster}")
            self.breakers.set_by_hand(cluster, state)

        await self.audited(change(), by, f"breaker.{state}", cluster)

    # --- handoff -----------------------------------------------------------------------------------------------

    def handoff(self, cluster: str) -> Handoff:
        """Returns a cluster's handoff. ``NotFound`` where it has none."""
        if cluster not in self.handoffs:
            raise NotFound(f"there is no handoff for a cluster {cluster}: set storage.{cluster}.handoff")
        return self.handoffs[cluster]

    async def retry_refused(self, cluster: str, by: By) -> int:
        """Writes again the records that the cluster refused. Returns how many."""

        async def change() -> int:
            return await self.handoff(cluster).retry_refused()

        return await self.audited(change(), by, "handoff.retry", cluster)

    async def delete_refused(self, cluster: str, by: By) -> int:
        """Deletes the records that the cluster refused. Returns how many."""

        async def change() -> int:
            return await self.handoff(cluster).delete_refused()

        return await self.audited(change(), by, "handoff.delete", cluster)

    @property
    def snapshot(self) -> Snapshot:
        """The registry's entries; ``RegistryUnavailable`` while none are known yet: an empty list would be wrong."""
        snapshot = self.registry.snapshot
        if not snapshot.known:
            raise RegistryUnavailable(self.registry.health().reason or "the registry has not answered yet")
        return snapshot

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return round(self._now() * 1000)


def current(entries: Mapping[Any, Entry], name: Any, kind: str) -> Any:
    """Returns an entry of a snapshot; ``NotFound`` names its ``kind``."""
    entry = entries.get(name)
    if entry is None:
        raise NotFound(f"there is no {kind} {name if isinstance(name, str) else '/'.join(name)}")
    return entry


def _first_placement(topic: Topic, info: TopicInfo, now_ms: int) -> Placement:
    """Returns where the keys of a topic go that was made and registered just now. Any other one may have records where
    the store put them, or on their way there: going over takes steps.
    """
    application, name, version = topic.name
    return Placement(
        application=application, topic=name, version=version, partitions=info.partitions, generation=now_ms
    )


def _table(entry: Entry | None) -> Mapping[str, Any] | None:
    return None if entry is None else to_table(entry)


def _retention_ms(topic: Topic) -> int:
    return FOR_EVER if topic.retention_hours is None else topic.retention_hours * HOUR_MS
