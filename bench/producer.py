"""Single-message publishes a second through the Kafka driver's write side alone, against a running broker.

``python bench/producer.py BROKER TOPIC [CLIENTS] [SECONDS]``: each client publishes, waits for its receipt and
publishes again. ``PROFILE=1`` prints where the time goes.
"""

from __future__ import annotations

import cProfile
import gc
import os
import pstats
import sys
import time
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from kateway.config.schema import KafkaStorageConfig
from kateway.model import Message
from kateway.storage.interface import Outcome
from kateway.storage.kafka.cluster.client import Client
from kateway.storage.kafka.producer.producer import Producer

reactor: Any = _reactor


async def main(broker: str, topic: str, clients: int, seconds: float) -> None:
    config = KafkaStorageConfig(driver="kafka", brokers=(broker,))
    client = Client(reactor, config)
    producer = Producer(client, config, reactor)
    client.start()
    message = Message(b"x" * 100)
    (first,) = await producer.publish(topic, [message], -1, reactor.seconds() + 5)
    print("first:", first)
    gc.freeze()
    gc.set_threshold(20000, 10, 50)
    end = reactor.seconds() + seconds
    done: Deferred[None] = Deferred()
    taken: list[float] = []
    failed: list[Outcome] = []
    running = clients

    def next_one(_result: object = None) -> None:
        start = time.perf_counter()

        def receipt(outcomes: list[Outcome]) -> None:
            nonlocal running
            taken.append(time.perf_counter() - start)
            if isinstance(outcomes[0], Exception):
                failed.append(outcomes[0])
            if reactor.seconds() < end:
                reactor.callLater(0, next_one)
                return
            running -= 1
            if not running:
                done.callback(None)

        producer.publish(topic, [message], -1, reactor.seconds() + 5).addCallback(receipt)

    profile = cProfile.Profile() if os.environ.get("PROFILE") else None
    used = time.process_time()
    if profile:
        profile.enable()
    for _ in range(clients):
        next_one()
    await done
    if profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    used = time.process_time() - used
    taken.sort()
    print(
        f"{len(taken) / seconds:.0f} a second, {used / len(taken) * 1e6:.1f} us of CPU each, {len(failed)} failed, "
        f"p50 {taken[len(taken) // 2] * 1e3:.1f} ms, p99 {taken[len(taken) * 99 // 100] * 1e3:.1f} ms"
    )
    await producer.stop(1)
    await client.stop()


def started() -> None:
    arguments = sys.argv[1:] + ["64", "5"][len(sys.argv) - 3 :]
    running = Deferred.fromCoroutine(main(arguments[0], arguments[1], int(arguments[2]), float(arguments[3])))
    running.addErrback(lambda failure: failure.printTraceback())
    running.addBoth(lambda _: reactor.stop())


if __name__ == "__main__":
    reactor.callWhenRunning(started)
    reactor.run()
