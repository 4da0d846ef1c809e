"""What librdkafka's Python client does with the same broker: the measure for our latency and our reading."""

from __future__ import annotations

import statistics
import time
import uuid
from typing import Any

from confluent_kafka import Consumer, Producer

CONSUMED_AT_ONCE = 10_000


def preload(bootstrap: str, topic: str, records: int, value_bytes: int) -> None:
    """Writes records without keys, spread over the topic's partitions."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 20,
            "acks": "all",
            "queue.buffering.max.messages": 200_000,
            "sticky.partitioning.linger.ms": 10,
        }
    )
    value = b"x" * value_bytes
    for _ in range(records):
        while True:
            try:
                producer.produce(topic, value)
                break
            except BufferError:
                producer.poll(0.05)
    if producer.flush(120):
        raise RuntimeError(f"{topic} could not be filled")


def latency(bootstrap: str, topic: str, value_bytes: int, seconds: float) -> float:
    """The median time of a publish in seconds, with one message in flight, linger 0 and acks=all."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "acks": "all"})
    value = b"x" * value_bytes
    taken: list[float] = []
    delivered: list[Any] = []

    def told(error: Any, _message: Any) -> None:
        if error is not None:
            raise RuntimeError(str(error))
        delivered.append(None)

    end = time.perf_counter() + seconds + 0.5
    while (began := time.perf_counter()) < end:
        producer.produce(topic, value, on_delivery=told)
        while not delivered:
            producer.poll(1)
        delivered.clear()
        taken.append(time.perf_counter() - began)
    # the first half second is connections being made
    warm = sum(1 for total in _running(taken) if total < 0.5)
    return statistics.median(taken[warm:] or taken)


def _running(taken: list[float]) -> list[float]:
    sums, total = [], 0.0
    for each in taken:
        total += each
        sums.append(total)
    return sums


def consume(bootstrap: str, topic: str, records: int) -> tuple[float, float]:
    """Reads a topic into tuples as a new group's member: seconds to the first record, and from there to the last."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"bench-{uuid.uuid4().hex}",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    try:
        asked = time.perf_counter()
        consumer.subscribe([topic])
        count, began = 0, 0.0
        while count < records:
            # consume() waits until it has as many as asked for
            most = min(CONSUMED_AT_ONCE, records - count) if began else 1
            messages = consumer.consume(most, timeout=30)
            if not messages:
                raise RuntimeError(f"{count} of {records} records came from {topic}")
            began = began or time.perf_counter()
            read = [
                (each.partition(), each.offset(), each.timestamp()[1], each.key(), each.value()) for each in messages
            ]
            count += len(read)
        return began - asked, time.perf_counter() - began
    finally:
        consumer.close()
