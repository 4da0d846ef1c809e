"""Lists, makes, grows and deletes topics. Changes go to the controller and are answered when every partition leads."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.task import deferLater

from kateway.errors import Conflict, OutcomeUnknown, TopicNotFound, Unavailable
from kateway.model import TopicInfo
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.connection import RequestFailed
from kateway.storage.kafka.cluster.offsets import as_outcome
from kateway.storage.kafka.cluster.pool import Pool
from kateway.storage.kafka.protocol import requests as wire
from kateway.storage.kafka.protocol.errors import TOPIC_ALREADY_EXISTS, UNKNOWN_TOPIC_OR_PARTITION, error_for
from kateway.storage.kafka.protocol.metadata import TopicView
from kateway.storage.kafka.protocol.primitives import MalformedResponse

RETENTION = "retention.ms"
RETRY_SECONDS = 0.2


class Topics:
    """Lists topics, and changes them."""

    def __init__(self, client: Client, pool: Pool) -> None:
        self._client = client
        self._pool = pool
        self._timeout_seconds = client.config.request_timeout_seconds

    async def all(self) -> Mapping[str, TopicInfo]:
        """All topics that are not Kafka's own, from a fresh listing."""
        await self._client.refresh()
        return self._client.view.infos()

    async def one(self, topic: str) -> TopicInfo:
        """One topic; ``TopicNotFound`` after fresh looks."""
        view = self._client.view.topics.get(topic) or await self._client.look_for(topic)
        if view is None or not view.leaders:
            raise TopicNotFound(f"there is no topic {topic}")
        return TopicInfo(topic, len(view.leaders), view.replicas)

    async def create(self, topic: str, partitions: int, replicas: int, retention_ms: int | None) -> TopicInfo:
        """Makes a topic; ``Conflict`` where it exists."""
        settings = {RETENTION: str(retention_ms)} if retention_ms is not None else {}
        body = wire.encode_create_topic(topic, partitions, replicas, settings, self._timeout_ms)
        error, words = wire.decode_create_topic(
            await self._at_controller(wire.CREATE_TOPICS, wire.CREATE_TOPICS_VERSION, body)
        )
        self._check(error, words, topic)
        return await self._when(topic, lambda view: view is not None and _whole(view, partitions))

    async def grow(self, topic: str, total: int) -> TopicInfo:
        """Grows a topic; fewer partitions than there are is ``Conflict``."""
        await self._client.refresh()
        info = await self.one(topic)
        if total < info.partitions:
            raise Conflict(f"topic {topic} has {info.partitions} partitions already")
        if total > info.partitions:
            body = wire.encode_create_partitions(topic, total, self._timeout_ms)
            error, words = wire.decode_create_partitions(
                await self._at_controller(wire.CREATE_PARTITIONS, wire.CREATE_PARTITIONS_VERSION, body)
            )
            self._check(error, words, topic)
        return await self._when(topic, lambda view: view is not None and _whole(view, total))

    async def retain(self, topic: str, retention_ms: int) -> None:
        """Sets for how long a topic keeps its records; -1: for ever."""
        await self.one(topic)
        body = wire.encode_topic_setting(topic, RETENTION, str(retention_ms))
        error, words = wire.decode_topic_setting(
            await self._at_controller(wire.ALTER_CONFIGS, wire.ALTER_CONFIGS_VERSION, body)
        )
        self._check(error, words, topic)

    async def delete(self, topic: str) -> None:
        """Deletes a topic and its records; ``TopicNotFound`` where there is none."""
        body = wire.encode_delete_topic(topic, self._timeout_ms)
        error = wire.decode_delete_topic(
            await self._at_controller(wire.DELETE_TOPICS, wire.DELETE_TOPICS_VERSION, body)
        )
        self._check(error, "", topic)
        self._client.deleted(topic)
        await self._when(topic, lambda view: view is None)

    @property
    def _timeout_ms(self) -> int:
        return int(self._timeout_seconds * 1000)

    async def _at_controller(self, key: int, version: int, body: bytes) -> bytes:
        """Sent once: a change that got no answer may have been made, so it is ``OutcomeUnknown``."""
        controller = self._client.view.controller
        if controller is None:
            await self._client.refresh()
            controller = self._client.view.controller
        if controller is None:
            raise Unavailable("the cluster has no controller just now")
        try:
            return await self._pool.request(controller, key, version, body, timeout_seconds=self._timeout_seconds + 1)
        except (RequestFailed, MalformedResponse) as error:
            raise as_outcome(error) from error

    def _check(self, error: int, words: str, topic: str) -> None:
        if error == 0:
            return
        if error == TOPIC_ALREADY_EXISTS:
            raise Conflict(f"there is a topic {topic} already")
        if error == UNKNOWN_TOPIC_OR_PARTITION:
            raise TopicNotFound(f"there is no topic {topic}")
        known = error_for(error, f"topic {topic}")
        raise type(known)(f"{known.detail}: {words}" if words else known.detail)

    async def _when(self, topic: str, done: Callable[[TopicView | None], bool]) -> TopicInfo:
        """Waits until the metadata shows a change."""
        deadline = self._client.reactor.seconds() + self._timeout_seconds
        while True:
            await self._client.refresh()
            view = self._client.view.topics.get(topic)
            if done(view):
                return TopicInfo(topic, len(view.leaders), view.replicas) if view is not None else TopicInfo(topic, 0)
            if self._client.reactor.seconds() > deadline:
                raise OutcomeUnknown(f"topic {topic} was changed, but the brokers do not show it yet")
            await deferLater(self._client.reactor, RETRY_SECONDS)


def _whole(view: TopicView, partitions: int) -> bool:
    return view.complete and len(view.leaders) >= partitions
