"""What keys, bindings and quotas cost: ``python bench/access.py``. Publish at 64 connections, open and guarded in turn.

Both gateways keep their records in an embedded store, or with ``--store kafka`` in one Kafka. Where the machine does
other work too, the requests a second of the gateway's own processor time compare better than those of the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import daemons  # noqa: E402
import load  # noqa: E402
from servers.daemon import Daemon, Installation  # noqa: E402

CONNECTIONS = 64
QUOTA = {"publish_records_per_second": 1e6, "publish_bytes_per_second": 1e9, "requests_per_second": 1e6}
WANTED = 0.85


class Run(NamedTuple):
    """Requests a second: of the clock, and of the gateway's processor time."""

    rate: float
    rate_of_cpu: float


def admin(gateway: Daemon, method: str, path: str, body: Any) -> Any:
    request = urllib.request.Request(f"{gateway.admin}/admin/v1{path}", json.dumps(body).encode(), method=method)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def register(gateway: Daemon) -> str:
    """An application with a topic, a bound reader and quotas too large to be met; gives wrk's script with its key."""
    admin(gateway, "PUT", "/applications/app1", {"quota": QUOTA})
    admin(gateway, "PUT", "/applications/app2", {})
    made = admin(gateway, "POST", "/applications/app1/keys", {"kind": "pub"})
    admin(gateway, "PUT", "/topics/app1/bench/v1", {"partitions": 4})
    admin(gateway, "PUT", "/bindings/app2/app1/bench/v1", {"groups": ["*"]})
    lines = [f'wrk.headers["Pubkey"] = "{made["key"]}"', f'wrk.headers["Secret"] = "{made["secret"]}"']
    return load.ONE_RECORD + "\n".join(lines) + "\n"


def measure(gateway: Daemon, script: str, seconds: float) -> Run:
    before = daemons.cpu_seconds(gateway.pid)
    measured = load.post(f"{gateway.public}/v1/topics/bench", script, CONNECTIONS, seconds)
    return Run(measured.rate, measured.requests / (daemons.cpu_seconds(gateway.pid) - before))


def gateways(store: str, folder: Path, stack: ExitStack) -> list[tuple[Installation, Path, list[str]]]:
    """How the open and the guarded one are started."""
    checkout = daemons.Checkout(ROOT)
    registry = f'[registry]\ndriver = "embedded"\npath = "{folder}/registry"\n'
    if store == "kafka":
        cluster = daemons.kafka()
        stack.callback(cluster.close)
        kafka = f'[storage.default]\ndriver = "kafka"\nbrokers = ["{cluster.bootstrap}"]\ncreate_topics = true\n'
        tables = [kafka, kafka + registry]
    else:
        tables = [f'[storage.default]\npath = "{folder}/{name}-data"\n' for name in ("open", "guarded")]
        tables[1] += registry
    made: list[tuple[Installation, Path, list[str]]] = []
    for name, text in zip(("open", "guarded"), tables, strict=True):
        (folder / f"{name}.toml").write_text(text)
        made.append((checkout, folder / name, ["--config", str(folder / f"{name}.toml")]))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=("embedded", "kafka"), default="embedded")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    load.require_wrk()
    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as name, ExitStack() as stack:
        started = [daemons.daemon(*each) for each in gateways(options.store, Path(name), stack)]
        for gateway in started:
            stack.callback(gateway.close)
        scripts = [load.ONE_RECORD, register(started[1])]
        rounds = []
        # the open one makes its topic with the first record, the other has it
        with urllib.request.urlopen(f"{started[0].public}/v1/topics/bench?timeout=30", b"first"):
            pass
        for gateway, script in zip(started, scripts, strict=True):
            measure(gateway, script, 1.0)
        for _ in range(options.rounds):
            rounds.append([measure(*pair, options.seconds) for pair in zip(started, scripts, strict=True)])
            print(*(f"{run.rate:8.0f}/s {run.rate_of_cpu:8.0f}/cpu-s" for run in rounds[-1]), flush=True)
    print(f"{daemons.machine()}, revision {daemons.revision(ROOT)}")
    for what, index in (("requests a second", 0), ("requests a second of processor time", 1)):
        ratio = statistics.median(guarded[index] / opened[index] for opened, guarded in rounds)
        print(f"guarded / open, {what}: {ratio:.3f} (wanted: {WANTED})")


if __name__ == "__main__":
    main()
