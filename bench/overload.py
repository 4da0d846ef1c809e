"""More than a gateway can do: ``python bench/overload.py``. Goodput, refusals, memory and ``/live`` under an overload.

First the best throughput is looked for; then three times as much is offered by 512 and by 2,048 impatient connections
(``yardstick/overload``, in Go), publishes and polls mixed; then the same with a store that is the bottleneck (Kafka
behind a slow line); then one application floods the gateway with 500 connections while another has eight. An answer
counts where it is 2xx and came within the deadline.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import access  # noqa: E402
import daemons  # noqa: E402
from servers.daemon import Daemon  # noqa: E402
from servers.kafka import KafkaCluster  # noqa: E402
from servers.oracle import Oracle  # noqa: E402

TOPIC = "overload"
OTHER_TOPIC = "other"
POLLS = 0.25
DEADLINE_SECONDS = 1.0
TIMES = 3
FLOOD_CONNECTIONS = 500
CALM_CONNECTIONS = 8


class Run(NamedTuple):
    """What one run of the load program saw, and the gateway meanwhile."""

    ok: float
    """2xx within the deadline, a second."""
    answers: dict[str, int]
    report: dict[str, Any]
    live_seconds: float
    """The longest answer to ``/live``."""
    resident_bytes: int
    cpu_seconds: float

    def line(self, name: str, best: float) -> str:
        others = ", ".join(f"{what} {count}" for what, count in sorted(self.answers.items()))
        report = self.report
        return (
            f"{name:34} {self.ok:8.0f}/s ok ({self.ok / best:4.0%})  p99 {report['ok_p99_ms']:6.0f} ms  refused p50 "
            f"{report['refused_p50_ms']:5.0f} p99 {report['refused_p99_ms']:5.0f} ms  /live {self.live_seconds:5.2f} s"
            f"  {self.resident_bytes >> 20} MiB  [{others}]"
        )


class Load:
    """The load program, against one gateway."""

    def __init__(self, program: Path, gateway: Daemon, seconds: float) -> None:
        self._program = program
        self._gateway = gateway
        self._seconds = seconds

    def start(self, connections: int, **options: Any) -> subprocess.Popen[str]:
        given = {"deadline": DEADLINE_SECONDS, "seconds": self._seconds, "topic": TOPIC, **options}
        command = [str(self._program), f"-address=127.0.0.1:{self._gateway.public_port}", f"-connections={connections}"]
        command += [f"-{name}={value}" for name, value in given.items()]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def run(self, connections: int, **options: Any) -> Run:
        before = daemons.cpu_seconds(self._gateway.pid)
        running = self.start(connections, **options)
        probe = Probe(self._gateway.public_port)
        found = finished(running)
        live = probe.stop()
        cpu = daemons.cpu_seconds(self._gateway.pid) - before
        return Run(ok_rate(found), found["answers"], found, live, daemons.resident_bytes(self._gateway.pid), cpu)


def finished(running: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = running.communicate()
    found: dict[str, Any] = json.loads(output)
    return found


def ok_rate(found: dict[str, Any]) -> float:
    answers = found["answers"]
    return float((answers.get("publish", 0) + answers.get("poll", 0)) / found["seconds"])


class Probe:
    """Asks ``/live`` ten times a second, each time on a new connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self._longest = 0.0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> float:
        self._over.set()
        self._thread.join()
        return self._longest

    def _run(self) -> None:
        while not self._over.wait(0.1):
            began = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
            connection.request("GET", "/live")
            assert connection.getresponse().status == 200
            connection.close()
            self._longest = max(self._longest, time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the revision to measure")
    parser.add_argument("--only", choices=("processor", "store", "fair"), action="append")
    options = parser.parse_args()
    wanted = options.only or ["processor", "store", "fair"]
    print(daemons.machine())
    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        program = daemons.build_yardstick(folder, "./overload")
        cluster = daemons.kafka()
        stack.callback(cluster.close)
        Oracle(cluster.direct).create_topic(TOPIC, 4)
        checkout = daemons.Checkout(options.tree)
        if "processor" in wanted:
            gateway = daemons.daemon(checkout, folder / "open", ["--kafka", cluster.direct])
            try:
                processor(Load(program, gateway, options.seconds))
            finally:
                gateway.close()
        if "store" in wanted:
            store(checkout, program, folder, options.seconds)
        if "fair" in wanted:
            gateway = daemons.daemon(checkout, folder / "guarded", ["--config", str(guarded(folder, cluster))])
            try:
                fair(Load(program, gateway, options.seconds), gateway)
            finally:
                gateway.close()


def processor(load: Load) -> None:
    """The gateway's own processor is the bottleneck."""
    load.run(64, polls=POLLS)
    runs = {connections: load.run(connections, polls=POLLS) for connections in (64, 256, 512)}
    best = max(run.ok for run in runs.values())
    for connections, run in runs.items():
        print(run.line(f"{connections} connections, one by one", best))
    for connections in (512, 2048):
        for obey in ("false", "true"):
            run = load.run(connections, polls=POLLS, rate=TIMES * best, obey=obey)
            print(run.line(f"{connections}, {TIMES * best:.0f}/s, obey={obey}", best), flush=True)


def store(checkout: daemons.Checkout, program: Path, folder: Path, seconds: float) -> None:
    """A slow line to Kafka is the bottleneck: 64 KiB each 0.1 s."""
    cluster = KafkaCluster(daemons.KAFKA_VERSION, proxied=True, jvm=daemons.KAFKA_JVM, heap_megabytes=1024).start()
    try:
        Oracle(cluster.direct).create_topic(TOPIC, 4)
        Oracle(cluster.direct).create_topic(OTHER_TOPIC, 4)
        gateway = daemons.daemon(checkout, folder / "slow", ["--kafka", cluster.bootstrap])
        try:
            load = Load(program, gateway, seconds)
            load.run(16)
            load.run(16, topic=OTHER_TOPIC)
            for proxy in cluster.proxies.values():
                proxy.delay(0.1)
            runs = {connections: load.run(connections, bytes=1000) for connections in (64, 128, 256)}
            best = max(run.ok for run in runs.values())
            for connections, run in runs.items():
                print(run.line(f"slow store, {connections} connections", best))
            for connections in (512, 2048):
                run = load.run(connections, bytes=1000, rate=TIMES * best)
                print(run.line(f"slow store, {connections}, {TIMES * best:.0f}/s", best), flush=True)
            other = load.start(512, bytes=1000, rate=TIMES * best)
            run = load.run(CALM_CONNECTIONS, topic=OTHER_TOPIC, bytes=1000)
            print(run.line(f"slow store, another topic beside 512, {CALM_CONNECTIONS}", best), flush=True)
            finished(other)
        finally:
            gateway.close()
    finally:
        cluster.close()


def guarded(folder: Path, cluster: KafkaCluster) -> Path:
    config = folder / "guarded.toml"
    config.write_text(
        f'[storage.default]\ndriver = "kafka"\nbrokers = ["{cluster.direct}"]\n[registry]\ndriver = "embedded"\n'
        f'path = "{folder / "registry"}"\n'
    )
    return config


def fair(load: Load, gateway: Daemon) -> None:
    """Two applications, one with many connections: what the other gets."""
    headers = {}
    for name in ("flooding", "calm"):
        access.admin(gateway, "PUT", f"/applications/{name}", {})
        key = access.admin(gateway, "POST", f"/applications/{name}/keys", {"kind": "pub"})
        access.admin(gateway, "PUT", f"/topics/{name}/{TOPIC}/v1", {"partitions": 4})
        headers[name] = f"Pubkey: {key['key']}|Secret: {key['secret']}"
    for given in headers.values():
        load.run(8, headers=given)
    alone = load.run(CALM_CONNECTIONS, headers=headers["calm"])
    full = load.run(FLOOD_CONNECTIONS, headers=headers["flooding"])
    flood = load.start(FLOOD_CONNECTIONS, headers=headers["flooding"])
    beside = load.run(CALM_CONNECTIONS, headers=headers["calm"])
    flooded = finished(flood)
    print(alone.line(f"calm, {CALM_CONNECTIONS} connections, alone", alone.ok))
    print(beside.line("calm, beside the flood", alone.ok))
    print(full.line(f"flood, {FLOOD_CONNECTIONS} connections, alone", full.ok))
    print(f"flood beside the calm one: {ok_rate(flooded):.0f}/s, {flooded['answers']}")


if __name__ == "__main__":
    main()
