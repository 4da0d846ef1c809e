"""A process whose files may not grow beyond a limit, then may: prints what its embedded store did, as JSON."""

from __future__ import annotations

import json
import resource
import sys

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from kateway.config.schema import EmbeddedStorageConfig
from kateway.errors import KatewayError
from kateway.model import Message
from kateway.storage.embedded import EmbeddedStore


async def main(_reactor, directory: str) -> None:
    store = EmbeddedStore(EmbeddedStorageConfig(path=directory), reactor)
    await store.start()
    await store.create_topic("topic", partitions=1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
    written, refused = [], []

    async def publish(number: int) -> KatewayError | None:
        message = Message(b"%d " % number + b"x" * 20_000)
        (outcome,) = await store.publish("topic", [message], -1, reactor.seconds() + 10)
        if isinstance(outcome, KatewayError):
            refused.append(number)
            return outcome
        written.append(number)
        return None

    number = 0
    while (error := await publish(number)) is None:
        number += 1
    again = await publish(number + 1)
    ill = store.health()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    deadline = reactor.seconds() + 20
    while not store.health().healthy and reactor.seconds() < deadline:
        await deferLater(reactor, 0.05)
    well = store.health()
    after = await publish(number + 2)
    found, offset = [], 0
    while True:
        fetched = await store.read("topic", 0, offset, max_bytes=1 << 20, wait_seconds=0)
        if not fetched.records:
            break
        found += [int(record.value.split(b" ")[0]) for record in fetched.records]
        offset = fetched.next_offset
    await store.stop(5.0)
    print(
        json.dumps(
            {
                "errors": [error.code, again.code if again else None, after.code if after else None],
                "maybe_written": error.maybe_written,
                "ill": [ill.healthy, ill.reason],
                "well": well.healthy,
                "written": written,
                "refused": refused,
                "found": found,
            }
        )
    )


if __name__ == "__main__":
    react(lambda reactor_: Deferred.fromCoroutine(main(reactor_, sys.argv[1])))
