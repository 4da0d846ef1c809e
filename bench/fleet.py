"""Estimates what many gateways cost Kafka's group coordinators, and each other: ``python bench/fleet.py``.

No Kafka and no gateway is run: ten thousand groups are played through on a clock of its own (a sample of them, and
the sum is scaled), their requests going to gateways at random, as a load balancer sends them. Twice: as it is today,
where each gateway that is asked for a group joins it and leaves ``linger_seconds`` after the last request; and with
passing on, where one gateway is a group's home, the others find it by asking the group's coordinator
(``DescribeGroups``), keep the answer for some seconds, and pass requests on over links. What a member costs is
measured: ``--measure`` starts a Kafka and a gateway and does so anew.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]


class Costs(NamedTuple):
    """Of one member that has nothing to do, by ``--measure`` (see docs/scale.rst for machine and date)."""

    gateway_cpu: float
    """Seconds of CPU in a second: heartbeats, fetches that come back empty, commits."""
    broker_cpu: float
    memory_bytes: float
    """In the gateway."""


MEASURED = Costs(gateway_cpu=0.00033, broker_cpu=0.00046, memory_bytes=53_500)

HEARTBEATS_PER_SECOND = 1.0
"""``group_protocol.HEARTBEAT_INTERVAL_SECONDS``."""
HEARTBEAT_BYTES = 120 + 20
"""Request (header, group of 16, member id of 60) and answer, without TCP's own."""
JOIN_BYTES = 400 + 300
SYNC_BYTES = 160 + 200
DESCRIBE_BYTES = 60 + 400
"""Of a group with one member, whose metadata has its gateway's address."""
RECORD_OVERHEAD_BYTES = 40
"""Of a record on a link: its frame, partition, offset, and the settlement that comes back."""
LINK_HEARTBEAT_BYTES = 20
LINK_HEARTBEATS_PER_SECOND = 0.4
"""Both ways, every 5 s."""


class Load(NamedTuple):
    """What clients do with one group."""

    groups: int
    pollers: int
    poll_seconds: float
    """Between two polls of one client."""
    streams: int
    stream_seconds: float
    """A stream's life; the next one may land anywhere."""
    partitions: int
    records_per_second: float
    record_bytes: int


class Seen(NamedTuple):
    """Sums over all groups; a second each where it is a rate."""

    members: float
    requests: float
    """To coordinators."""
    coordinator_bytes: float
    rebalances: float
    idle_polls: float
    """The share of polls that land on a member without a partition, which today get nothing."""
    links: float
    link_bytes: float


def requests(load: Load, gateways: int, chosen: random.Random, seconds: float) -> Iterator[tuple[float, int, float]]:
    """One group's requests in the order of their beginning: when, at which gateway, for how long."""
    due = [(chosen.random() * load.poll_seconds, 0.0) for _ in range(load.pollers)]
    due += [(0.0, load.stream_seconds) for _ in range(load.streams)]
    heapq.heapify(due)
    while due:
        at, lasts = heapq.heappop(due)
        if at >= seconds:
            continue
        first = lasts and at == 0.0
        length = lasts * chosen.random() if first else lasts
        yield at, chosen.randrange(gateways), length
        heapq.heappush(due, (at + (length or load.poll_seconds * (0.5 + chosen.random())), lasts))


def today(load: Load, gateways: int, linger: float, chosen: random.Random, seconds: float, warm: float) -> Seen:
    """One group, in which each gateway asked is a member until ``linger`` after its last request."""
    until: dict[int, float] = {}
    changes = idle = polls = 0
    member_seconds = requests_sent = traffic = 0.0
    now = 0.0
    for at, gateway, length in requests(load, gateways, chosen, seconds):
        # those who left since the last request
        while until:
            first = min(until, key=until.__getitem__)
            if until[first] > at:
                break
            left = until.pop(first)
            if left > warm:
                member_seconds += (left - max(now, warm)) * (len(until) + 1)
                changes += 1
                requests_sent += 1 + 2 * len(until)
                traffic += 100 + (JOIN_BYTES + SYNC_BYTES) * len(until)
            now = left
        if at > warm:
            member_seconds += (at - max(now, warm)) * len(until)
        now = at
        if gateway not in until:
            until[gateway] = at
            if at > warm:
                changes += 1
                requests_sent += 2 * len(until)
                traffic += (JOIN_BYTES + SYNC_BYTES) * len(until)
        if not length and at > warm:
            polls += 1
            idle += chosen.random() >= load.partitions / len(until) if len(until) > load.partitions else 0
        until[gateway] = max(until[gateway], at + length + linger)
    span = seconds - warm
    beats = member_seconds * HEARTBEATS_PER_SECOND
    return Seen(
        member_seconds / span,
        (beats + requests_sent) / span,
        (beats * HEARTBEAT_BYTES + traffic) / span,
        changes / span,
        idle / polls if polls else 0.0,
        0.0,
        0.0,
    )


def passing_on(load: Load, gateways: int, cached: float, chosen: random.Random, seconds: float, warm: float) -> Seen:
    """One group, whose home is one gateway. It is never left: requests come all the time."""
    home = chosen.randrange(gateways)
    known: dict[int, float] = {}
    asked = passed = total = 0
    for at, gateway, _ in requests(load, gateways, chosen, seconds):
        fresh = known.get(gateway, -1.0) > at
        if gateway != home and not fresh:
            known[gateway] = at + cached
        if at > warm:
            total += 1
            passed += gateway != home
            asked += gateway != home and not fresh
    span = seconds - warm
    share = passed / total if total else 0.0
    size = load.record_bytes + RECORD_OVERHEAD_BYTES
    return Seen(
        1.0,
        HEARTBEATS_PER_SECOND + asked / span,
        HEARTBEATS_PER_SECOND * HEARTBEAT_BYTES + DESCRIBE_BYTES * asked / span,
        0.0,
        0.0,
        0.0,
        load.records_per_second * size * share,
    )


def scaled(load: Load, sample: list[Seen], gateways: int, relaying: bool) -> Seen:
    factor = load.groups / len(sample)
    sums = [sum(column) * factor for column in zip(*sample, strict=True)]
    found = Seen(*sums)
    links = 0.0
    if relaying:
        # a pair of gateways has a link where any group has its home at one of them and a request at the other
        pairs = gateways * (gateways - 1) / 2
        active = load.groups * min(gateways - 1, load.pollers + load.streams)
        links = pairs * (1 - math.exp(-active / pairs)) if pairs else 0.0
    link_bytes = found.link_bytes + links * LINK_HEARTBEATS_PER_SECOND * LINK_HEARTBEAT_BYTES
    return found._replace(idle_polls=found.idle_polls / load.groups, links=links, link_bytes=link_bytes)


def table(load: Load, options: argparse.Namespace, costs: Costs) -> None:
    print(load)
    print(
        f"{'gateways':>8} {'':10} {'members':>9} {'a gateway':>9} {'its MB':>7} {'its CPU':>8} {'brokers CPU':>11} "
        f"{'requests/s':>10} {'kB/s':>9} {'rebalances/s':>12} {'empty polls':>11} {'links':>7} {'link MB/s':>9}"
    )
    for gateways in options.gateways:
        for name in ("today", "passing on"):
            chosen = random.Random(options.seed)
            way, time_known = (today, options.linger) if name == "today" else (passing_on, options.cached)
            spans = options.seconds, options.seconds / 3
            sample = [way(load, gateways, time_known, chosen, *spans) for _ in range(options.sample)]
            seen = scaled(load, sample, gateways, name != "today")
            each = seen.members / gateways
            print(
                f"{gateways:8} {name:10} {seen.members:9,.0f} {each:9,.0f} {each * costs.memory_bytes / 1e6:7,.0f} "
                f"{each * costs.gateway_cpu:8.2f} {seen.members * costs.broker_cpu:11.2f} {seen.requests:10,.0f} "
                f"{seen.coordinator_bytes / 1e3:9,.0f} {seen.rebalances:12,.0f} {seen.idle_polls:11.0%} "
                f"{seen.links:7,.0f} {seen.link_bytes / 1e6:9.1f}"
            )


def measure(groups: int, seconds: float) -> Costs:
    """Costs of a member by a real gateway on a real Kafka: of so many groups, less those of none."""
    import daemons
    from history.wire import ask
    from servers.oracle import Oracle

    cluster = daemons.kafka()
    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as name:
        config = Path(name) / "kateway.toml"
        config.write_text(
            f'data_directory = "{name}/data"\n[storage.default]\ndriver = "kafka"\nbrokers = ["{cluster.direct}"]\n'
            "[delivery]\nlinger_seconds = 3600\n"
        )
        Oracle(cluster.direct).create_topic("measured", 6)
        gateway = daemons.daemon(daemons.Checkout(ROOT), Path(name), ["--config", str(config)])
        try:
            broker = cluster.pid(cluster.nodes[0])

            def look() -> tuple[float, float, float]:
                own, other = daemons.cpu_seconds(gateway.pid), daemons.cpu_seconds(broker)
                time.sleep(seconds)
                used = daemons.cpu_seconds(gateway.pid) - own, daemons.cpu_seconds(broker) - other
                return used[0] / seconds, used[1] / seconds, float(daemons.resident_bytes(gateway.pid))

            ask(gateway.public_port, "GET", "/v1/topics/measured/first?timeout=5")
            time.sleep(5)
            before = look()
            with ThreadPoolExecutor(32) as pool:  # a join takes seconds
                targets = [f"/v1/topics/measured/group{number}?timeout=0" for number in range(groups)]
                list(pool.map(lambda target: ask(gateway.public_port, "GET", target), targets))
            time.sleep(10)
            after = look()
        finally:
            gateway.close()
            cluster.close()
    return Costs(*((late - early) / groups for early, late in zip(before, after, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateways", type=int, nargs="+", default=[3, 30, 300])
    parser.add_argument("--groups", type=int, default=10_000)
    parser.add_argument("--pollers", type=int, default=2, help="clients of a group that poll")
    parser.add_argument("--poll-seconds", type=float, default=1.0)
    parser.add_argument("--streams", type=int, default=1, help="clients of a group that follow it")
    parser.add_argument("--stream-seconds", type=float, default=600.0)
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--records", type=float, default=10.0, help="a second, of a group")
    parser.add_argument("--bytes", type=int, default=100, help="of a record")
    parser.add_argument("--linger", type=float, default=15.0, help="[delivery] linger_seconds")
    parser.add_argument("--cached", type=float, default=5.0, help="seconds that a home is known for")
    parser.add_argument("--seconds", type=float, default=180.0, help="played through; the first third is not counted")
    parser.add_argument("--sample", type=int, default=100, help="groups that are played through")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--measure", type=int, default=0, metavar="GROUPS", help="measure a member's costs anew")
    options = parser.parse_args()
    costs = MEASURED
    if options.measure:
        costs = measure(options.measure, 20.0)
        print(f"measured with {options.measure} groups: {costs}")
    load = Load(
        options.groups,
        options.pollers,
        options.poll_seconds,
        options.streams,
        options.stream_seconds,
        options.partitions,
        options.records,
        options.bytes,
    )
    table(load, options, costs)


if __name__ == "__main__":
    main()
