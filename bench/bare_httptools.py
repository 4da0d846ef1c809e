"""How much the HTTP edge costs: our channel against a bare httptools protocol that answers a constant.

    python bench/bare_httptools.py                       measures both, interleaved, with wrk; prints a table
    python bench/bare_httptools.py serve bare|edge PORT  runs one of the two servers

The bare server parses with httptools and answers each finished request with the same bytes through Twisted's own
transport: the floor for any HTTP server on this stack. The edge is the real channel with a direct handler that answers
201, its access log on. Both run in one process on one core; wrk posts 100-byte records over 64 and 256 connections.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httptools
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.web.resource import Resource
from twisted.web.server import Site

from kateway.config.schema import HttpConfig, LogConfig
from kateway.web.access_log import AccessLog
from kateway.web.exchange import Exchange, Request, Response
from kateway.web.http1.factory import HttpFactory
from kateway.web.tcp.listener import listen

RUNS = 5
SECONDS = 5
CONNECTIONS = (64, 256)
ANSWER = b'{"partition":0,"offset":7}'
CONSTANT = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(ANSWER),
    ANSWER,
)
SCRIPT = """
wrk.method = "POST"
wrk.body = string.rep("x", 100)
wrk.headers["Content-Type"] = "application/octet-stream"
wrk.headers["Pubkey"] = "mypubkey"
"""


class Bare(Protocol):
    """A request is whatever httptools says it is; the answer is always the same."""

    def connectionMade(self) -> None:
        self.parser = httptools.HttpRequestParser(self)

    def dataReceived(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.transport.write(CONSTANT)  # type: ignore[union-attr]


def answer(exchange: Exchange) -> None:
    exchange.respond(
        Response(
            201,
            (
                (b"Content-Type", b"application/json"),
                (b"X-Partition", b"0"),
                (b"X-Offset", b"7"),
                (b"Location", b"/v1/topics/foobar?partition=0&offset=7"),
            ),
            ANSWER,
        )
    )


def route(request: Request) -> Any:
    return answer if request.method == b"POST" else None


def serve(kind: str, port: int) -> None:
    endpoint = f"tcp:{port}:interface=127.0.0.1"
    if kind == "bare":
        factory = Factory.forProtocol(Bare)
        factory.noisy = False
        reactor.listenTCP(port, factory, interface="127.0.0.1")  # type: ignore[arg-type]
    else:
        with tempfile.NamedTemporaryFile() as log:
            access = AccessLog(LogConfig(access_file=log.name, format="json"), reactor)
        listen(reactor, endpoint, HttpFactory(route, Site(Resource()), HttpConfig(), reactor, access=access))
    print("ready", flush=True)
    reactor.run()


def measure(port: int, connections: int, script: Path) -> float:
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "-s", str(script), f"http://127.0.0.1:{port}/v1/topics/t"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    if found is None or "Non-2xx" in done.stdout:
        raise SystemExit(done.stdout)
    return float(found.group(1))


def main() -> None:
    servers = {}
    for kind, port in (("bare", 19301), ("edge", 19302)):
        process = subprocess.Popen([sys.executable, __file__, "serve", kind, str(port)], stdout=subprocess.PIPE)
        if process.stdout is None or b"ready" not in process.stdout.readline():
            raise SystemExit(f"{kind} did not start")
        servers[kind] = (process, port)
    time.sleep(0.2)
    try:
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "post.lua"
            script.write_text(SCRIPT)
            print(f"{'connections':>12} {'bare':>10} {'edge':>10} {'ratio':>6} {'microseconds more':>18}")
            for connections in CONNECTIONS:
                rates: dict[str, list[float]] = {kind: [] for kind in servers}
                for _ in range(RUNS):
                    for kind, (_process, port) in servers.items():
                        rates[kind].append(measure(port, connections, script))
                bare, edge = (statistics.median(rates[kind]) for kind in ("bare", "edge"))
                more = 1e6 / edge - 1e6 / bare
                print(f"{connections:>12} {bare:>10.0f} {edge:>10.0f} {edge / bare:>6.2f} {more:>18.1f}")
    finally:
        for process, _port in servers.values():
            process.terminate()
            process.wait()


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        main()
