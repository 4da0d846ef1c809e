"""What a filter that passes most records over costs: records examined in a second, and what others feel of it.

``python bench/filtering.py [--records N] [--store kafka] [--rounds N] [--beside TREE]``. A topic of N records of 100
bytes JSON, of which 1 % satisfy the filter, is read to its end by a new group in each round, while another client
publishes one record at a time. Printed are the records examined in a second, the daemon's CPU for each, and the other
client's latencies without and with the reader: medians of the rounds, in which the trees take turns. Nothing is
asserted: the machine is noisy.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
import urllib.parse
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import daemons  # noqa: E402
from clients import percentile  # noqa: E402
from servers.daemon import Daemon, Installation  # noqa: E402
from servers.oracle import Oracle  # noqa: E402

BATCH = 2000
IDLE_SECONDS = 2
FILTER = "record.json.n % 100 == 0"


class Publisher(threading.Thread):
    """Publishes one record after the other and keeps the time of each."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.delays: list[float] = []
        self._port = port
        self.over = threading.Event()

    def run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        while not self.over.is_set():
            began = time.perf_counter()
            connection.request("POST", "/v1/topics/other", b"x" * 100)
            response = connection.getresponse()
            response.read()
            assert response.status == 201, response.status
            self.delays.append(time.perf_counter() - began)
            time.sleep(0.002)
        connection.close()


def watched(port: int, work: object = None, seconds: float = 0.0) -> list[float]:
    """The other client's delays while ``work`` runs, or for so many seconds."""
    other = Publisher(port)
    other.start()
    if callable(work):
        work()
    else:
        time.sleep(seconds)
    other.over.set()
    other.join(60)
    return other.delays


def fill(port: int, records: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    for first in range(0, records, BATCH):
        lines = [
            json.dumps({"n": number, "name": f"name {number}", "text": "x" * 60}).encode()
            for number in range(first, min(first + BATCH, records))
        ]
        connection.request(
            "POST", "/v1/topics/big?batch=1&partition=0", b"\n".join(lines), {"Content-Type": "application/x-ndjson"}
        )
        response = connection.getresponse()
        response.read()
        assert response.status == 201, response.status
    connection.close()


def read(port: int, group: str, wanted: str) -> int:
    query = (
        f"?limit=100000000&idle={IDLE_SECONDS}&filter={urllib.parse.quote(wanted)}"
        if wanted
        else f"?limit=100000000&idle={IDLE_SECONDS}"
    )
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", f"/v1/topics/big/{group}{query}", headers={"Accept": "application/x-ndjson"})
    found = connection.getresponse().read().count(b"\n")
    connection.close()
    return found


class Round(NamedTuple):
    """What one reading of the topic gave."""

    shown: int
    examined_rate: float
    cpu_each: float
    calm: list[float]
    busy: list[float]


def once(started: Daemon, records: int, number: int) -> Round:
    port = started.public_port
    calm = watched(port, seconds=5)
    cpu, began = daemons.cpu_seconds(started.pid), time.perf_counter()
    found: list[int] = []
    busy = watched(port, lambda: found.append(read(port, f"filtered{number}", FILTER)))
    taken = time.perf_counter() - began - IDLE_SECONDS
    spent = daemons.cpu_seconds(started.pid) - cpu
    return Round(found[0], records / taken, spent / records, calm, busy)


def show(name: str, rounds: list[Round]) -> None:
    rate, cpu = (median([getattr(each, field) for each in rounds]) for field in ("examined_rate", "cpu_each"))
    print(f"{name}: {rounds[0].shown} records shown, {rate:,.0f} examined in a second")
    print(f"{cpu * 1e6:.1f} µs of the daemon for each, the other client's included")
    for state in ("calm", "busy"):
        taken = [getattr(each, state) for each in rounds]
        p50, p99 = (median([percentile(delays, percent) * 1000 for delays in taken]) for percent in (50, 99))
        where = "calm" if state == "calm" else "beside the reader"
        print(f"another client's publish, {where}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    ratios = [percentile(each.busy, 99) / percentile(each.calm, 99) for each in rounds]
    print(f"p99 beside the reader / calm: {median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--store", choices=("embedded", "kafka"), default="embedded")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", type=Path, action="append", default=[], help="another checkout, measured in turn")
    parser.add_argument("--installed", action="store_true", help="measure a wheel in an environment of its own")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        mine = Installation(folder / "installed") if options.installed else daemons.Checkout(ROOT)
        trees: list[Installation] = [mine, *(daemons.Checkout(tree.resolve()) for tree in options.beside)]
        kafka = stack.enter_context(closing(daemons.kafka())) if options.store == "kafka" else None
        if kafka is not None:
            for topic in ("big", "other"):
                Oracle(kafka.direct).create_topic(topic, 1)
        pairs: list[tuple[str, Daemon]] = []
        for number, tree in enumerate(trees):
            home = folder / str(number)
            where = ["--data", str(home / "data")] if kafka is None else ["--kafka", kafka.bootstrap]
            started = daemons.daemon(tree, home, where)
            stack.callback(started.close)
            pairs.append((daemons.revision(getattr(tree, "tree", ROOT)), started))
            if kafka is None or not number:
                fill(started.public_port, options.records)
        rounds: list[list[Round]] = [[] for _ in pairs]
        for number in range(options.rounds):
            for each, (_, started) in enumerate(pairs):
                rounds[each].append(once(started, options.records, number * len(pairs) + each))
        print(f"{daemons.machine()}, {options.store} store")
        for (revision, _), taken in zip(pairs, rounds, strict=True):
            show(revision, taken)


if __name__ == "__main__":
    main()
