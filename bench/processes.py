"""CPU for each publish with two processes to that with one, on a real Kafka: ``python bench/processes.py``.

Two gateways take turns with ``wrk``; what disturbs the machine disturbs both alike. The CPU is that of every process of
a gateway, its supervisor included. What four and eight processes would reach on as many cores is computed from it, not
measured: this needs a machine that has them, with Kafka and the clients elsewhere.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import run  # isort: skip - first: it makes the tests' servers importable
import daemons
import load
from servers.daemon import Daemon
from servers.oracle import Oracle

MOST_RATIO = 1.10
"""Of the CPU of a publish with two processes to that with one."""
TOPIC = "bench"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each run of wrk")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--each", action="store_true", help="so many connections for each process, not for all of them")
    return parser.parse_args()


def started(folder: Path, count: int, brokers: list[str], tree: Path) -> Daemon:
    """A gateway of so many processes."""
    folder.mkdir()
    file = folder / "kateway.toml"
    file.write_text(
        f"data_directory = {json.dumps(str(folder / 'data'))}\n[process]\ncount = {count}\n"
        f'[storage.default]\ndriver = "kafka"\nbrokers = {json.dumps(brokers)}\n'
    )
    return daemons.daemon(daemons.Checkout(tree), folder, ("--config", str(file)))


def pids(gateway: Daemon) -> set[int]:
    """Of all processes of a gateway, the supervisor among them."""
    with urllib.request.urlopen(f"{gateway.admin}/admin/v1/processes", timeout=10) as answer:
        return {gateway.pid, *(row["pid"] for row in json.load(answer)["items"])}


def produces(gateway: Daemon) -> float:
    """How many Produce requests all processes have made."""
    query = "family=kateway_store_request_duration_seconds"
    with urllib.request.urlopen(f"{gateway.admin}/metrics?{query}", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    counts = (line for line in lines if "_seconds_count{" in line and 'request="produce"' in line.lower())
    return sum(float(line.rpartition(" ")[2]) for line in counts)


def measured(gateway: Daemon, count: int, options: argparse.Namespace) -> tuple[float, float, float]:
    """Microseconds of CPU for each publish, publishes a second, and records in a Produce request."""
    requests, processes = produces(gateway), pids(gateway)
    before = sum(map(daemons.cpu_seconds, processes))
    connections = options.connections * (count if options.each else 1)
    url = f"{gateway.public}/v1/topics/{TOPIC}"
    found = load.result(load.start(url, load.ONE_RECORD, connections, options.seconds))
    cpu = (sum(map(daemons.cpu_seconds, processes)) - before) / found.requests * 1e6
    return cpu, found.rate, found.requests / max(produces(gateway) - requests, 1)


def main() -> None:
    options = arguments()
    load.require_wrk()
    tree = run.ROOT
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kateway-bench-")))
        kafka = daemons.kafka()
        stack.callback(kafka.close)
        Oracle(kafka.direct).create_topic(TOPIC, 6)
        gateways = {count: started(folder / str(count), count, list(kafka.addresses), tree) for count in (1, 2)}
        for count, gateway in gateways.items():
            stack.callback(gateway.close)
            gateway.wait_for_ready()
            measured(gateway, count, options)
        rounds = [
            {count: measured(gateway, count, options) for count, gateway in gateways.items()}
            for _ in range(options.rounds)
        ]
        ratio = statistics.median(each[2][0] / each[1][0] for each in rounds)
        memory = {
            count: [daemons.resident_bytes(pid) >> 20 for pid in sorted(pids(gateways[count]))] for count in (1, 2)
        }
    print(daemons.machine())
    cost = {}
    for count in (1, 2):
        cost[count] = statistics.median(each[count][0] for each in rounds)
        rate = statistics.median(each[count][1] for each in rounds)
        batch = statistics.median(each[count][2] for each in rounds)
        print(
            f"{count} processes: {cost[count]:.1f} µs of CPU each, {rate:,.0f}/s, {batch:.1f} records in a Produce "
            f"request, memory {memory[count]} MB"
        )
    verdict = "within" if ratio <= MOST_RATIO else "ABOVE"
    print(f"ratio within a round {ratio:.3f}: {verdict} {MOST_RATIO}")
    for count in (4, 8):
        print(f"ESTIMATE, not measured: {count} processes on {count} free cores {count * 1e6 / cost[2]:,.0f}/s at most")


if __name__ == "__main__":
    main()
