"""Publishes and reads behind a load balancer while gateways and brokers end at random: ``python bench/behind.py``.

Three gateways on real Kafka, the registry in ZooKeeper, HAProxy or nginx before them as they are shipped. Publishers
give each record an Idempotency-Key and send it until it is answered 201; five groups read by short polls, long polls,
NDJSON, events and WebSockets. At random a gateway is killed with -9, or stopped with TERM, and started again, or a
broker is killed or frozen. In the end each record that was answered 201 is there once, and every group has had it.
The exit status is 1 where one is missing or there twice.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import daemons  # noqa: E402
from history.fleet import GATEWAYS, Fleet  # noqa: E402
from history.record import ident  # noqa: E402
from servers.daemon import Daemon  # noqa: E402
from servers.kafka import KafkaCluster  # noqa: E402
from servers.oracle import Oracle  # noqa: E402
from servers.zookeeper import ZooKeeperServer  # noqa: E402

FAULTS = ("kill", "stop", "broker killed", "broker frozen")
TOPIC = "behind"
PATIENCE_SECONDS = 90.0


def fault(kind: str, fleet: Fleet, cluster: KafkaCluster, chosen: random.Random) -> None:
    if kind in ("kill", "stop"):
        number = chosen.randrange(GATEWAYS)
        if kind == "kill":
            fleet.kill(number)
        else:
            fleet.gateways[number].terminate()
        time.sleep(chosen.random() * 2)
        fleet.start(number)
        return
    node = chosen.choice(cluster.nodes)
    if kind == "broker killed":
        cluster.kill(node)
        time.sleep(chosen.random() * 2)
        cluster.restart(node)
    else:
        cluster.freeze(node)
        time.sleep(0.5 + chosen.random() * 3)
        cluster.thaw(node)


def run(options: argparse.Namespace, folder: Path) -> int:
    chosen = random.Random(options.seed)
    cluster = KafkaCluster(daemons.KAFKA_VERSION, brokers=options.brokers).start()
    zookeeper = ZooKeeperServer().start()

    def make(*arguments: str, name: str, **ports: Any) -> Daemon:
        env = {"PYTHONPATH": str(ROOT)}
        return Daemon(daemons.Checkout(ROOT), folder / name, arguments, env=env, **ports)

    fleet = None
    try:
        fleet = Fleet(options.balancer, make, folder, cluster, zookeeper, "behind", topic=TOPIC)
        return behind(options, fleet, cluster, chosen)
    finally:
        if fleet is not None:
            fleet.traffic.close()
            fleet.close()
        zookeeper.close()
        cluster.close()


def behind(options: argparse.Namespace, fleet: Fleet, cluster: KafkaCluster, chosen: random.Random) -> int:
    traffic = fleet.traffic
    traffic.subscribe(options.readers)
    traffic.publish(options.publishers, keyed=True, pause_seconds=options.pause)
    began = time.monotonic()
    faults: Counter[str] = Counter()
    while time.monotonic() - began < options.seconds:
        left = options.seconds - (time.monotonic() - began)
        pause = 1 + chosen.random() * 2 * options.every
        time.sleep(max(min(pause, left), 0))
        if pause >= left:
            break
        kind = chosen.choice(FAULTS)
        print(f"{time.monotonic() - began:6.0f} s  {kind}; {len(traffic.acknowledged)} records so far", flush=True)
        fault(kind, fleet, cluster, chosen)
        faults[kind] += 1
    traffic.end_writing()
    seconds = time.monotonic() - began
    until = time.monotonic() + PATIENCE_SECONDS
    while any(traffic.missing().values()) and time.monotonic() < until:
        time.sleep(0.5)
    oracle = Oracle(cluster.direct)
    (topic,) = (name for name in oracle.topics() if TOPIC in name)
    there = Counter(ident(record.value) for record in oracle.records(topic))
    lost = len(traffic.acknowledged - there.keys())
    twice = sum(times > 1 for times in there.values())
    unread = traffic.missing()
    print(f"{options.balancer}: {seconds:.0f} s, faults {dict(faults)}")
    print(f"{len(traffic.acknowledged)} records answered 201: {lost} missing, {twice} there more than once")
    print(f"other answers: {dict(Counter(failed.what for failed in traffic.failures))}")
    for form, had in traffic.read.items():
        again = sum(had.values()) - len(had)
        print(f"  {form:10} {len(had):8} records, {unread[form]} never came, {again} came again")
    print(f"what readers met: {dict(traffic.troubles)}")
    return 1 if lost or twice or any(unread.values()) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--balancer", choices=("haproxy", "nginx"), default="haproxy")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--publishers", type=int, default=16)
    parser.add_argument("--readers", type=int, default=2, help="of each form")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two records of a publisher")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two faults, on the average")
    parser.add_argument("--brokers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as name:
        status = run(options, Path(name))
    sys.exit(status)


if __name__ == "__main__":
    main()
