"""The embedded store's gateway keeps the delivery promise whatever its clients do and however it ends."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from history.check import check
from history.final import committed, ends, from_gateway
from history.record import Ident
from history.run import Run, settings, wait_until
from history.wire import ACCEPT, Client, Incoming, ask
from servers.certificate import self_signed, tls_endpoint
from servers.daemon import Daemon
from servers.ports import held_port

pytestmark = pytest.mark.system
Daemons = Callable[..., Daemon]


@pytest.fixture
def gateway(daemon: Daemons, tmp_path: Path) -> Callable[..., Daemon]:
    """Starts a gateway with lines of ``[delivery]``."""

    def start(delivery: str = "", store: str = "", *options: str) -> Daemon:
        path = settings(tmp_path / "kateway.toml", f'path = "{tmp_path / "data"}"\n{store}', delivery)
        return daemon("--config", str(path), *options).start()

    return start


def test_no_end_of_a_client_loses_a_record(gateway: Callable[..., Daemon], tmp_path: Path) -> None:
    # a client that lives on without reading is held to have read what its TCP took: no check here waits for that long
    secure_port = held_port()
    public = ["--public", tls_endpoint(self_signed(tmp_path), secure_port)]
    up = gateway("settle_seconds = 4", "partitions = 3", *public)
    with Run("matrix", [up], seed=2) as run:
        run.write(3, count=1500, batch=50)
        run.visit(3, rounds=20, secure_port=secure_port)
        run.visited()
        run.written()
        run.read(1, query="limit=1000&timeout=1&idle=0.2")
        run.drain()
    final = from_gateway(up.public_port, "matrix", "group1", drained=True)
    report = check(run.history, final)
    print(report.row())
    assert report.faults() == {}
    assert report.acknowledged == report.delivered == 4500
    assert final.committed == ends(final)
    assert "Traceback" not in up.log


@pytest.mark.parametrize("form", sorted(ACCEPT))
def test_ten_read_and_closed_are_ten_committed_at_once_and_the_next_reader_starts_with_the_eleventh(
    gateway: Callable[..., Daemon], form: str
) -> None:
    up = gateway()
    for number in range(20):
        ask(up.public_port, "POST", "/v1/topics/t?partition=0", Ident("a", number).value())
    client, incoming = Client(up.public_port), Incoming(form)
    client.send("GET", "/v1/topics/t/g?limit=10", Accept=ACCEPT[form])
    read = []
    while not incoming.complete:
        read += incoming.feed(client.socket.recv(65536))
    client.close()
    wait_until(lambda: committed(up.public_port, "t", "g").get(0) == 10, 5)
    assert [each.ident.number for each in read] == list(range(10))
    answer = ask(up.public_port, "GET", "/v1/topics/t/g?limit=1")
    assert answer.body == Ident("a", 10).value()


def test_a_follower_that_read_ten_of_ten_and_closes_has_ten_committed(gateway: Callable[..., Daemon]) -> None:
    up = gateway("settle_seconds = 60")
    for number in range(10):
        ask(up.public_port, "POST", "/v1/topics/t?partition=0", Ident("a", number).value())
    client, incoming = Client(up.public_port), Incoming("raw")
    client.send("GET", "/v1/topics/t/g?follow=1")
    read = []
    while len(read) < 10:
        read += incoming.feed(client.socket.recv(65536))
    client.close()
    ask(up.public_port, "POST", "/v1/topics/t?partition=0", Ident("a", 10).value())
    wait_until(lambda: committed(up.public_port, "t", "g").get(0) == 10, 5)
    assert ask(up.public_port, "GET", "/v1/topics/t/g").body == Ident("a", 10).value()


@pytest.mark.parametrize("ack", ["", "upto", "each"])
def test_killing_the_gateway_under_load_loses_nothing(gateway: Callable[..., Daemon], ack: str) -> None:
    up = gateway("settle_seconds = 1", "partitions = 4")
    chosen = random.Random(ack)
    with Run("killed", [up], seed=2) as run:
        run.write(4, batch=20)
        run.read(3, ack=ack, query="limit=200&timeout=1&idle=0.1" + ("&ack_timeout=3" if ack else ""))
        for _ in range(3):
            before = run.acknowledged()
            wait_until(lambda before=before: run.acknowledged() > before + 200, what="load")
            time.sleep(chosen.random() * 0.5)
            with run.outage("kill -9 of the gateway"):
                up.kill()
                up.start()
        run.stop_writing()
        run.drain()
    final = from_gateway(up.public_port, "killed", "group1", drained=True)
    # what was acknowledged with sync=1 and answered 200 never comes again, whatever crashes
    report = check(run.history, final, in_order=not ack, outages=() if ack else run.outages, commit_seconds=1.5)
    print(report.row())
    assert report.faults() == {}
    assert report.delivered == report.present >= 600


def test_a_client_gone_in_mid_body_writes_nothing(gateway: Callable[..., Daemon]) -> None:
    up = gateway()
    ask(up.public_port, "POST", "/v1/topics/t?partition=0", b"a")
    for end in (Client.close, Client.reset, Client.half_close):
        for head in (
            b"Content-Length: 100\r\n\r\n0123456789",
            b"Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n",
        ):
            client = Client(up.public_port)
            client.socket.sendall(b"POST /v1/topics/t?partition=0 HTTP/1.1\r\nHost: h\r\n" + head)
            time.sleep(0.1)  # so that it arrives before the end does
            end(client)
            client.close()
    ask(up.public_port, "POST", "/v1/topics/t?partition=0", b"b")
    listed = json.loads(ask(up.public_port, "GET", "/v1/topics/t").body)
    assert listed["partitions"][0]["end"] == 2


def resident_bytes(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * 4096


def test_readers_that_stop_reading_cost_little_memory_and_others_go_on(gateway: Callable[..., Daemon]) -> None:
    up = gateway()
    body = b"\n".join(b"x" * 1000 for _ in range(900))
    for _ in range(40):
        assert (
            ask(up.public_port, "POST", "/v1/topics/big?batch=1", body, Content_Type="application/x-ndjson").status
            == 201
        )
    ask(up.public_port, "GET", "/v1/topics/big/warm?limit=1000")
    before = resident_bytes(up.pid)
    stopped = []
    for number in range(20):
        stopped.append(Client(up.public_port, receive_buffer_bytes=4096))
        stopped[-1].send("GET", f"/v1/topics/big/slow{number}?follow=1")
    for client in stopped:
        client.socket.recv(100)
    started = time.monotonic()
    total = 0
    client, incoming = Client(up.public_port), Incoming()
    client.send("GET", "/v1/topics/big/fast?limit=36000&timeout=5")
    while not incoming.complete:
        data = client.socket.recv(1 << 20)
        assert data
        total += len(data)
        incoming.feed(data)
        incoming.body.clear()
    client.close()
    assert total > 36_000_000
    wait_until(lambda: time.monotonic() > started + 2)
    grown = resident_bytes(up.pid) - before
    # 36 MB wait for each of them; what is read ahead for them is bounded
    assert grown / 20 < 5 * (1 << 20), f"{grown / 20 / 1024:.0f} kB for each reader that stopped"
    for each in stopped:
        each.reset()


def test_terminating_ends_streams_with_their_last_chunk_and_repeats_nothing(gateway: Callable[..., Daemon]) -> None:
    up = gateway()
    with Run("drained", [up]) as run:
        run.write(4, pause_seconds=0.002, keyed=False)
        readers = run.read(2, query="follow=1")
        wait_until(lambda: all(reader.count > 100 for reader in readers))
        run.stop_writing()
        time.sleep(0.3)
        assert up.terminate() in (0, -15)
        wait_until(lambda: all(reader.statuses.get(200) for reader in readers), 10, "a last chunk")
        up.start()
        run.drain()
    final = from_gateway(up.public_port, "drained", "group1", drained=True)
    report = check(run.history, final)
    print(report.row())
    assert report.faults() == {}
    assert report.redelivered == 0


def test_two_hundred_groups_that_join_at_once_are_all_served(gateway: Callable[..., Daemon]) -> None:
    up = gateway()
    ask(up.public_port, "POST", "/v1/topics/t?partition=0", b"a")
    clients = [Client(up.public_port, 30) for _ in range(200)]
    for number, client in enumerate(clients):
        client.send("GET", f"/v1/topics/t/g{number}?timeout=30")
    answers = []
    for client in clients:
        incoming = Incoming()
        while not incoming.complete:
            data = client.socket.recv(4096)
            assert data
            incoming.feed(data)
        answers.append((incoming.status, bytes(incoming.body)))
        client.close()
    assert answers == [(200, b"a")] * 200


def test_a_group_set_back_by_hand_reads_again_from_there(gateway: Callable[..., Daemon]) -> None:
    up = gateway()
    for number in range(10):
        ask(up.public_port, "POST", "/v1/topics/t?partition=0", Ident("a", number).value())
    assert ask(up.public_port, "GET", "/v1/topics/t/g?limit=10").body.count(b"\n") == 10
    wait_until(lambda: committed(up.public_port, "t", "g").get(0) == 10, 10)
    moved = ask(up.public_port, "PUT", "/v1/topics/t/g/offsets", b'{"offsets":{"0":4}}')
    assert moved.status == 200
    assert committed(up.public_port, "t", "g")[0] == 4
    assert ask(up.public_port, "GET", "/v1/topics/t/g").body == Ident("a", 4).value()


def test_the_port_is_free_again_after_a_kill(gateway: Callable[..., Daemon]) -> None:
    up = gateway()
    held = socket.create_connection(("127.0.0.1", up.public_port))
    up.kill()
    up.start()
    held.close()
    assert up.status("/ready") == 200
