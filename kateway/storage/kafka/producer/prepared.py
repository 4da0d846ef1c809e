"""Writes batches that were encoded and numbered beforehand: the Kafka side of the handoff.

One attempt a call, on connections of its own, so that neither live publishes nor these wait for each other. A broker
that remembers a batch's producer id and sequence answers a copy as if it had been written now (it keeps the last five
of each id and partition, for ``producer.id.expiration.ms``, a day by default).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from twisted.internet.defer import Deferred

from kateway.config.schema import KafkaStorageConfig
from kateway.errors import Denied, KatewayError, Unavailable
from kateway.model import Message
from kateway.storage.interface import Attempt, Numbering
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.cluster.connection import RequestFailed
from kateway.storage.kafka.producer.broker_sender import ANSWER_GRACE_SECONDS
from kateway.storage.kafka.producer.partition_queue import BATCH_OVERHEAD_BYTES, Verdict
from kateway.storage.kafka.producer.producer_ids import TIMEOUT_SECONDS
from kateway.storage.kafka.producer.verdicts import UNKNOWN_SERVER_ERROR, VERDICTS
from kateway.storage.kafka.protocol.errors import DUPLICATE_SEQUENCE, error_for
from kateway.storage.kafka.protocol.primitives import MalformedResponse
from kateway.storage.kafka.protocol.produce_requests import (
    INIT_PRODUCER_ID,
    INIT_PRODUCER_ID_VERSION,
    PRODUCE,
    PRODUCE_VERSION,
    decode_init_producer_id,
    decode_produced,
    encode_init_producer_id,
    encode_produce,
)
from kateway.storage.kafka.protocol.record_batches import encode_batch, encoded_size
from kateway.storage.partitioner import Partitioner

_ALL_REPLICAS = -1


class PreparedBatches:
    """``PreparedWrites`` for one cluster."""

    def __init__(
        self,
        client: Client,
        config: KafkaStorageConfig,
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self.max_batch_bytes = config.max_request_bytes - BATCH_OVERHEAD_BYTES
        self._client = client
        self._config = config
        self._now_ms = now_ms
        self._pool = client.pool("handoff")
        self._partitioner = Partitioner()
        self._turn = 0

    def known_topics(self) -> Mapping[str, int]:
        """Returns the topics of the last look at the cluster."""
        return {name: info.partitions for name, info in self._client.view.infos().items()}

    def partition_for(self, key: bytes | None, partitions: int) -> int:
        """Chooses by key as the Java client does; else round robin that stays a while."""
        return self._partitioner.choose(partitions, key)

    def encoded_size(self, message: Message) -> int:
        """Returns about how many bytes a message takes in a batch."""
        return encoded_size(message)

    def encode(self, messages: Sequence[Message], numbering: Numbering, sequence: int) -> bytes:
        """Encodes a batch under its number."""
        return encode_batch(
            messages,
            now_ms=self._now_ms(),
            compression=self._config.compression,
            producer_id=numbering.producer_id,
            epoch=numbering.epoch,
            sequence=sequence,
        )

    async def numbering(self) -> Numbering:
        """Asks the brokers in turn for a producer id."""
        nodes = sorted(self._client.view.brokers)
        if not nodes:
            raise Unavailable("no broker is known")
        self._turn += 1
        try:
            code, identity = decode_init_producer_id(
                await self._pool.request(
                    nodes[self._turn % len(nodes)],
                    INIT_PRODUCER_ID,
                    INIT_PRODUCER_ID_VERSION,
                    encode_init_producer_id(),
                    timeout_seconds=TIMEOUT_SECONDS,
                )
            )
        except (RequestFailed, MalformedResponse) as error:
            raise Unavailable(f"no producer id: {error}") from error
        if code or identity.producer_id < 0:
            refusal = error_for(code, "a producer id")
            raise refusal if isinstance(refusal, (Unavailable, Denied)) else Unavailable(refusal.detail)
        return Numbering(identity.producer_id, identity.epoch)

    async def write(self, topic: str, partition: int, batch: bytes) -> Attempt:
        """Sends a batch to its partition's leader."""
        about = f"{topic} partition {partition}"
        leader = self._client.leader(topic, partition)
        if leader is None:
            await self._look()
            return Attempt("again", Unavailable(f"{about} has no leader just now"))
        timeout = self._config.request_timeout_seconds
        try:
            answer = await self._pool.request(
                leader,
                PRODUCE,
                PRODUCE_VERSION,
                encode_produce(_ALL_REPLICAS, int(timeout * 1000), {topic: [(partition, batch)]}),
                timeout_seconds=timeout + ANSWER_GRACE_SECONDS,
            )
            found = decode_produced(answer).get((topic, partition))
        except (RequestFailed, MalformedResponse) as error:
            await self._look()
            return Attempt("again", Unavailable(f"{about}: {error}"))
        if found is None:
            return Attempt("again", Unavailable(f"{about}: the broker's answer does not name it"))
        if found.error in (0, DUPLICATE_SEQUENCE):
            return Attempt("written")
        failed = error_for(found.error, about)
        attempt = _ATTEMPTS.get(VERDICTS.get(found.error, Verdict.LOST))
        if attempt is None:
            await self._look()
            return Attempt("unclear" if found.error == UNKNOWN_SERVER_ERROR else "again", failed)
        return Attempt(attempt, failed)

    async def _look(self) -> None:
        """Asks for the leaders anew, once for all that ask at a time."""
        looking: Deferred[None] = self._client.refresh()
        try:
            await looking
        except KatewayError:
            pass  # the next attempt says what is wrong


_ATTEMPTS: dict[Verdict, Literal["unclear", "split", "refused", "renumber"]] = {
    Verdict.LOST: "unclear",
    Verdict.REFUSED: "refused",
    Verdict.BAD_RECORD: "split",
    Verdict.TOO_LARGE: "split",
    Verdict.OUT_OF_ORDER: "renumber",
    Verdict.FORGOTTEN: "renumber",
}
