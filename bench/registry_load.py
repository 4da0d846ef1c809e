"""How long 10,000 bindings take to load, and what they cost: ``PYTHONPATH=.:tests python bench/registry_load.py``.

One process a driver, so that each one's memory is its own: ``embedded``, ``file``, ``zookeeper`` (a real server).
"""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kazoo.client import KazooClient
from servers.zookeeper import ZooKeeperServer
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from kateway.registry.file import FileRegistry
from kateway.registry.sqlite import EmbeddedRegistry
from kateway.registry.zookeeper.registry import ZookeeperRegistry

BINDINGS = 10_000
DOCUMENT = b'{"groups":["group1","group2"],"dead_letter":true,"max_deliveries":5}'


def names() -> list[str]:
    return [f"subscriber-{number:05}/app1/foobar/v1" for number in range(BINDINGS)]


def resident_megabytes() -> float:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def file_registry(folder: Path) -> FileRegistry:
    lines = [
        "[applications.app1]\n",
        *(f'[applications."{n.partition("/")[0]}"]\n' for n in names()),
        '[topics."app1/foobar/v1"]\n',
        *(f'[bindings."{name}"]\ngroups = ["group1", "group2"]\n' for name in names()),
    ]
    (folder / "registry.toml").write_text("".join(lines))
    return FileRegistry(reactor, folder / "registry.toml")


async def embedded_registry(folder: Path) -> EmbeddedRegistry:
    empty = EmbeddedRegistry(reactor, folder)
    await empty.start()
    await empty.stop()
    with sqlite3.connect(folder / "registry.db") as connection:
        connection.executemany(
            "INSERT INTO entries VALUES ('bindings', ?, 1, ?)", [(name, DOCUMENT) for name in names()]
        )
    connection.close()
    return EmbeddedRegistry(reactor, folder)


def zookeeper_registry(hosts: str) -> ZookeeperRegistry:
    client = KazooClient(hosts)
    client.start()
    client.ensure_path("/kateway/bindings")
    for base in range(0, BINDINGS, 500):
        transaction = client.transaction()
        for name in names()[base : base + 500]:
            transaction.create(f"/kateway/bindings/{name.replace('/', '.')}", DOCUMENT)
        transaction.commit()
    client.stop()
    client.close()
    return ZookeeperRegistry(reactor, f"{hosts}/kateway", write_timeout_seconds=60)


async def measure(driver: str) -> None:
    server = ZooKeeperServer().start() if driver == "zookeeper" else None
    registry: Any
    with tempfile.TemporaryDirectory() as folder:
        try:
            if server is not None:
                registry = zookeeper_registry(server.hosts)
            elif driver == "file":
                registry = file_registry(Path(folder))
            else:
                registry = await embedded_registry(Path(folder))
            before, began = resident_megabytes(), time.perf_counter()
            await registry.start()
            took = time.perf_counter() - began
            count = len(registry.snapshot.bindings)
            print(f"{driver}: {count} bindings in {took:.2f} s, {resident_megabytes() - before:.0f} MB", flush=True)
            await registry.stop()
        finally:
            if server is not None:
                server.close()


def main() -> None:
    if len(sys.argv) == 1:
        for driver in ("embedded", "file", "zookeeper"):
            subprocess.run([sys.executable, __file__, driver], check=True)
        return
    running = Deferred.fromCoroutine(measure(sys.argv[1]))
    running.addErrback(lambda failure: failure.printTraceback())
    running.addBoth(lambda _: reactor.stop())
    reactor.run()


main()
