"""A gateway of one process becomes what is installed now: its records, its port and its number stay."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.daemon import Daemon
from servers.ports import held_port

from kateway.daemon.processes.in_place import pid_file

pytestmark = pytest.mark.system


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("twistd", [(), ("--pidfile", "gateway.pid"), ("--pidfile=twistd.pid",)])
def test_upgrade_goes_on_under_the_same_number_with_twistds_file_of_it(
    daemon: Callable[..., Daemon], twistd: tuple[str, ...]
) -> None:
    gateway = daemon(twistd=twistd).start()
    assert ask(gateway.public_port, "POST", "/v1/topics/foobar", b"before")[0] == 201
    for generation in (2, 3):
        status, body = ask(gateway.admin_port, "POST", "/admin/v1/upgrade")
        assert (status, json.loads(body)) == (200, {"generation": generation})
        # the port stays open: this waits in its queue
        gateway.process.wait_until(lambda g=generation: running(gateway) == (g, gateway.pid), 60)
    assert ask(gateway.public_port, "GET", "/v1/topics/foobar/g1") == (200, b"before")
    gateway.terminate()


def publish(port: int, context: ssl.SSLContext, written: list[bytes], faults: list[str], stop: threading.Event) -> None:
    """Publishes over one connection after the other: a response that says so ends one."""
    connection: http.client.HTTPSConnection | None = None
    while not stop.is_set():
        try:
            connection = connection or http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
            value = b"%d" % len(written)
            connection.request("POST", "/v1/topics/foobar", value)
            response = connection.getresponse()
            response.read()
            if response.status != 201:
                faults.append(str(response.status))
            written.append(value)
            if response.will_close:
                connection.close()
                connection = None
        except OSError as error:
            faults.append(repr(error))
            connection = None
        time.sleep(0.1)
    if connection is not None:
        connection.close()


def test_upgrade_of_a_tls_listener_ends_connections_with_a_response_that_says_so(
    daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], check=True, capture_output=True,
    )  # fmt: skip
    port = held_port()
    endpoint = f"ssl:{port}:interface=127.0.0.1:privateKey={tmp_path}/key.pem:certKey={tmp_path}/cert.pem"
    settings = tmp_path / "gateway.toml"
    settings.write_text('data_directory = "data"\n')
    gateway = daemon("--config", str(settings), "--public", endpoint).start()
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    context.check_hostname = False
    faults: list[str] = []
    written: list[bytes] = []
    stop = threading.Event()

    idle = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
    idle.request("GET", "/live")
    idle.getresponse().read()
    publishers = [threading.Thread(target=publish, args=(port, context, written, faults, stop)) for _ in range(4)]
    for each in publishers:
        each.start()
    gateway.process.wait_until(lambda: len(written) > 8, 30)
    assert ask(gateway.admin_port, "POST", "/admin/v1/upgrade")[0] == 200
    # what was checked comes into force, whatever becomes of the file
    settings.write_text("nonsense = 1\n")
    gateway.process.wait_until(lambda: running(gateway) == (2, gateway.pid), 60)
    after = len(written)
    gateway.process.wait_until(lambda: len(written) > after + 8, 30)
    stop.set()
    for each in publishers:
        each.join()
    assert faults == []
    # the end of an idle one is told by TLS, not cut off
    assert idle.sock.recv(1) == b""
    idle.close()
    status, body = ask(gateway.admin_port, "POST", "/admin/v1/upgrade")
    assert (status, json.loads(body)["problems"]) == (422, ["nonsense: there is no such option"])
    # faults that only a start would meet
    settings.write_text(f'data_directory = "{settings}/data"\n[http]\nadmin = ["tcp:{port}:interface=127.0.0.1"]\n')
    status, body = ask(gateway.admin_port, "POST", "/admin/v1/upgrade")
    problems = json.loads(body)["problems"]
    assert (status, len(problems)) == (422, 1)
    assert problems[0].endswith("is no directory")
    gateway.terminate()


def running(gateway: Daemon) -> tuple[int, int] | None:
    try:
        status, body = ask(gateway.admin_port, "GET", "/admin/v1/processes")
    except (OSError, http.client.HTTPException):
        return None
    (row,) = json.loads(body)["items"] if status == 200 else (None,)
    return None if row is None else (row["generation"], row["pid"])


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["-n", "kateway"], "twistd.pid"),
        (["-n", "kateway", "--pidfile=of-kateway"], "twistd.pid"),
        (["--pidfile=", "-n", "kateway"], ""),
        (["--pidfile", "a.pid", "-n", "kateway"], "a.pid"),
        (["--pidfile=a.pid", "--pidfile=b.pid", "kateway"], "b.pid"),
    ],
)
def test_file_of_the_process_number_is_the_one_that_twistd_was_told(arguments: list[str], file: str) -> None:
    assert pid_file(arguments) == file
