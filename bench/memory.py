"""What a daemon holds in memory: after its start, for each idle connection, and under load for minutes."""

from __future__ import annotations

import resource
import socket
import statistics
import threading
import time
from collections.abc import Callable

import load
import reading
from daemons import resident_bytes

SETTLING_SECONDS = 1.0
WARM_CONNECTIONS = 50
SAMPLE_SECONDS = 0.5
_REQUEST = b"POST /v1/topics/%b HTTP/1.1\r\nHost: bench\r\nPubkey: mypubkey\r\nContent-Length: %d\r\n\r\n%b"


def after_start(pid: int) -> int:
    """Resident bytes of a daemon that has just said it is ready."""
    time.sleep(SETTLING_SECONDS)
    return resident_bytes(pid)


def per_connection(pid: int, port: int, topic: str, connections: int) -> float:
    """Resident bytes more for each connection that has published once and then stays open and idle."""
    _allow_descriptors(connections + 200)
    _used_and_closed(port, topic, WARM_CONNECTIONS)
    before = after_start(pid)
    idle: list[socket.socket] = []
    try:
        for _ in range(connections):
            idle.append(_used(port, topic))
        return (after_start(pid) - before) / connections
    finally:
        for connection in idle:
            connection.close()


def growth(pid: int, port: int, topic: str, minutes: float, tell: Callable[[str], None]) -> float:
    """Resident bytes more in the last quarter of a load than in the second: by then the caches and pools are full.

    The load: 64 connections that publish, and a reader that follows the topic in a group.
    """
    seconds = minutes * 60
    over = threading.Event()
    following = threading.Thread(target=_follow, args=(port, topic, over))
    following.start()
    samples: list[tuple[float, int]] = []
    try:
        publishing = load.start(f"http://127.0.0.1:{port}/v1/topics/{topic}", load.ONE_RECORD, 64, seconds)
        began = time.monotonic()
        while publishing.poll() is None:
            samples.append(((time.monotonic() - began) / seconds, resident_bytes(pid)))
            time.sleep(SAMPLE_SECONDS)
        done = load.result(publishing)
    finally:
        over.set()
        following.join()
    second = statistics.mean(size for at, size in samples if 0.25 <= at < 0.5)
    last = statistics.mean(size for at, size in samples if 0.75 <= at < 1)
    most = max(size for _, size in samples)
    tell(f"load: {done.requests} records in {done.seconds:.0f} s, {second / 1e6:.1f} MB, then {last / 1e6:.1f} MB, "
         f"at most {most / 1e6:.1f} MB")  # fmt: skip
    return last - second


def _used(port: int, topic: str) -> socket.socket:
    value = b"x" * load.VALUE_BYTES
    connection = reading.connect(port)
    connection.sendall(_REQUEST % (topic.encode(), len(value), value))
    answer = connection.recv(4096)
    if not answer.startswith(b"HTTP/1.1 201 "):
        raise reading.ReadFailed(answer.decode("latin-1"))
    return connection


def _used_and_closed(port: int, topic: str, count: int) -> None:
    for connection in [_used(port, topic) for _ in range(count)]:
        connection.close()


def _follow(port: int, topic: str, over: threading.Event) -> None:
    """Takes what is published as fast as it comes, until it is over."""
    buffer = bytearray(reading.BUFFER_BYTES)
    with reading.connect(port) as connection:
        reading.ask(connection, f"/v1/topics/{topic}/growth?follow=1&offset=latest", "*/*")
        connection.settimeout(0.5)
        while not over.is_set():
            try:
                if not connection.recv_into(buffer):
                    raise reading.ReadFailed("the follower was cut off")
            except TimeoutError:
                continue


def _allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
