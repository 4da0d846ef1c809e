"""A process that publishes to an embedded store and prints the acknowledged records: to be killed.

``embedded_writer.py DIRECTORY SEED``: each line of its output is ``record PARTITION OFFSET NAME`` or
``commit PARTITION OFFSET``, written after the store said so.
"""

from __future__ import annotations

import os
import random
import sys

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from kateway.config.schema import EmbeddedStorageConfig
from kateway.errors import Conflict
from kateway.model import Committed, Message, Receipt
from kateway.storage.embedded import EmbeddedStore


class IdleListener:
    """A listener that knows only when it may commit."""

    def __init__(self) -> None:
        self.ready: Deferred[None] = Deferred()

    def assigned(self, partitions):
        self.ready.callback(None)

    def revoked(self, partitions):
        return None

    def lost(self, partitions): ...

    def readable(self, partition): ...

    def failed(self, error): ...


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def publish(store, loop: int, seed: str) -> None:
    random_ = random.Random(f"{seed}-{loop}")
    number = 0
    while True:
        count = random_.choice([1, 1, 1, 2, 40])
        messages = []
        for _ in range(count):
            name = b"%s/%d/%d" % (seed.encode(), loop, number)
            number += 1
            messages.append(Message(name + b" " + b"x" * random_.choice([10, 100, 3000, 30000]), key=name))
        outcomes = await store.publish("topic", messages, -1, reactor.seconds() + 30)
        for message, outcome in zip(messages, outcomes, strict=True):
            assert isinstance(outcome, Receipt), outcome
            say(f"record {outcome.partition} {outcome.offset} {message.key.decode()}")


async def commit(store) -> None:
    listener = IdleListener()
    subscription = store.subscribe("group", "topic", listener, "earliest")
    await listener.ready
    offset = (await store.committed("group", "topic"))[0]
    next_offset = offset.offset if offset else 0
    while True:
        next_offset += 1
        await subscription.commit({0: Committed(next_offset)})
        say(f"commit 0 {next_offset}")


async def main(_reactor, directory: str, seed: str) -> None:
    store = EmbeddedStore(EmbeddedStorageConfig(path=directory), reactor)
    await store.start()
    try:
        await store.create_topic("topic", partitions=3)
    except Conflict:
        pass
    for loop in range(16):
        Deferred.fromCoroutine(publish(store, loop, seed))
    await Deferred.fromCoroutine(commit(store))


if __name__ == "__main__":
    react(lambda reactor_: Deferred.fromCoroutine(main(reactor_, sys.argv[1], sys.argv[2])))
