"""Kafka's brokers as ZooKeeper knows them (Kafka up to 3.9, where it is not run with KRaft).

Each live broker keeps an ephemeral node ``/brokers/ids/N`` whose ``endpoints`` are ``LISTENER://host:port`` and whose
``listener_security_protocol_map`` says which protocol a listener speaks (versions 4 and 5 of the node's format; before
them a listener is named like its protocol).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import orjson
from kazoo.exceptions import KazooException, NoNodeError
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from kateway.errors import Unavailable
from kateway.registry.zookeeper.client import State, ZookeeperClient

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]


async def kafka_brokers(
    reactor: Any, hosts: str, *, protocol: Protocol = "PLAINTEXT", timeout_seconds: float = 5.0, credentials: str = ""
) -> tuple[str, ...]:
    """The addresses, ``host:port``, of the live brokers' listeners of a protocol, by broker id.

    ``hosts``: as Kafka's ``zookeeper.connect``, chroot included. ``Unavailable`` where ZooKeeper does not answer in
    time or names no such listener.
    """
    addresses, _slash, chroot = hosts.partition("/")
    client = ZookeeperClient(reactor, addresses, credentials=credentials)
    reading = Deferred.fromCoroutine(_listed(client, f"/{chroot}".rstrip("/")))

    def late(_result: dict[int, bytes] | Failure, _seconds: float) -> dict[int, bytes]:
        raise Unavailable(f"ZooKeeper at {addresses} did not say in time which brokers there are")

    try:
        nodes = await reading.addTimeout(timeout_seconds, reactor, late)
    except NoNodeError as error:
        raise Unavailable(f"ZooKeeper at {hosts} knows of no Kafka: there is no /brokers/ids") from error
    except KazooException as error:
        raise Unavailable(f"ZooKeeper at {addresses}: {type(error).__name__} {error}") from error
    finally:
        await client.stop()
    found = tuple(address for number in sorted(nodes) for address in _addresses(nodes[number], protocol))
    if not found:
        raise Unavailable(f"ZooKeeper at {hosts} knows of no live broker with a {protocol} listener")
    return found


async def _listed(client: ZookeeperClient, root: str) -> dict[int, bytes]:
    connected: Deferred[None] = Deferred()

    def entered(state: State) -> None:
        if state == "connected" and not connected.called:
            connected.callback(None)

    client.on_state(entered)
    client.start()
    await connected
    folder = f"{root}/brokers/ids"
    numbers = [int(name) for name in await client.get_children(folder) if name.isdigit()]
    found = await client.get_many([f"{folder}/{number}" for number in numbers])
    return {int(path.rpartition("/")[2]): data for path, (data, _stat) in found.items()}


def _addresses(node: bytes, protocol: Protocol) -> Iterable[str]:
    try:
        broker = orjson.loads(node)
        protocols = broker.get("listener_security_protocol_map") or {}
        for endpoint in broker["endpoints"]:
            listener, _, address = endpoint.partition("://")
            if protocols.get(listener, listener) == protocol:
                yield address
    except (ValueError, KeyError, TypeError, AttributeError):
        # not a broker's node, or of a format to come
        return
