"""Runs writers and readers under faults chosen by a seed; the history checker's table ends it, with the daemons' memory
and descriptors. The exit status is 1 if a record was lost, doubled, out of order or repeated.

    python bench/soak.py --minutes 10 --seed 7                       # embedded: kill -9, disconnects, slow readers
    python bench/soak.py --store kafka --minutes 60 --pause 0.1 --faults outside  # the hour: all but the gateway's end
    python bench/soak.py --store kafka --brokers 3 --minutes 60      # and the gateway killed and restarted
    python bench/soak.py --rounds 1000 --faults none                 # the disconnect matrix alone
    python bench/soak.py --kills 100 --faults gateway                # so many times kill -9 of the gateway

Faults ``outside`` are brokers killed, stopped, frozen, added and cut off, partitions moved, reloads and readers that
stand still. Clients of every form (WebSockets too) that close, reset or are killed come on top (``--visitors``).
One group confirms by reading, another acknowledges, each record and up to one; ``--ack`` leaves one of the two out.
It ends after ``--minutes``, or after so many clients (``--rounds``) or kills (``--kills``) where those are given.
Memory is for the history: some 300 bytes for each publish and each delivery; ``--pause`` holds writers back.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from daemons import Checkout, resident_bytes  # noqa: E402
from history.check import Report, check, trace  # noqa: E402
from history.final import ends, from_gateway, from_oracle  # noqa: E402
from history.run import Run, settings  # noqa: E402
from history.wire import Client  # noqa: E402
from servers.certificate import self_signed, tls_endpoint  # noqa: E402
from servers.daemon import Daemon  # noqa: E402
from servers.kafka import KafkaCluster  # noqa: E402
from servers.oracle import Oracle  # noqa: E402
from servers.ports import held_port  # noqa: E402

TOPIC, GROUP = "soak", "soak-readers"
RECOVERY_SECONDS = 15.0
"""Until the gateway has found a group's coordinator again, or its new one, and could commit."""
SESSION_SECONDS = 6
COMMIT_SECONDS = 1.5
"""Records settled so long before a gateway's end may come again: its commit interval, and what a busy machine adds."""
SAMPLE_SECONDS = 60.0
SETTLE_SECONDS = 8
"""No client here stands still for so long, except one that has half-closed: it holds its partition."""


class Sample(NamedTuple):
    """What a daemon holds at one time: resident memory and open descriptors."""

    minute: float
    gateway: int
    pid: int
    megabytes: float
    descriptors: int

    @classmethod
    def of(cls, minute: float, gateway: int, pid: int) -> Sample:
        """Raises ``OSError`` where the process has ended."""
        megabytes = resident_bytes(pid) / 2**20
        return cls(minute, gateway, pid, megabytes, len(list(Path(f"/proc/{pid}/fd").iterdir())))

    def __str__(self) -> str:
        return (
            f"{self.minute:6.1f} min  gateway {self.gateway} (pid {self.pid})  "
            f"{self.megabytes:7.1f} MB  {self.descriptors:5} descriptors"
        )


class Soak:
    """One run: a gateway, perhaps a cluster behind it, writers, readers, and the faults."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.chosen = random.Random(options.seed)
        self.cluster: KafkaCluster | None = None
        self.oracle: Oracle | None = None
        store = f'path = "{folder / "data"}"\npartitions = {options.partitions}'
        if options.store == "kafka":
            self.cluster = KafkaCluster(options.kafka_version, brokers=options.brokers, proxied=True).start()
            self.oracle = Oracle(self.cluster.direct)
            self.oracle.create_topic(TOPIC, options.partitions, len(self.cluster.nodes))
            addresses = json.dumps(self.cluster.addresses)
            store = f'driver = "kafka"\nbrokers = {addresses}\nmetadata_refresh_seconds = 5'
        # a client that does not read is held to have read after settle_seconds
        delivery = f"settle_seconds = {SETTLE_SECONDS}\nsession_timeout_seconds = {SESSION_SECONDS}"
        path = settings(folder / "kateway.toml", store, delivery)
        self.secure_port = held_port()
        secure = ["--public", tls_endpoint(self_signed(folder), self.secure_port)]
        self.gateways = [
            Daemon(Checkout(ROOT), folder / f"gateway-{number}", command, env={"PYTHONPATH": str(ROOT)}).start()
            for number in range(options.gateways)
            for command in [["--config", str(path), *([] if number else secure)]]
        ]
        # both groups read what one set of writers wrote, and live through the same outages
        self.run = Run(TOPIC, self.gateways, group=GROUP, seed=options.seed)
        self.explicit = Run(TOPIC, self.gateways, group=f"{GROUP}-explicit", seed=options.seed)
        self.explicit.history.published = self.run.history.published
        self.explicit.history.faults = self.run.history.faults
        self.faults: Counter[str] = Counter()
        self.slow: list[Client] = []
        self.samples: list[Sample] = []
        self._over_event = threading.Event()

    # --- faults -------------------------------------------------------------------------------------------------

    def fault(self) -> None:
        """One, by the seed."""
        kinds = []
        if self.options.faults in ("all", "gateway"):
            kinds += [self.kill_gateway, self.restart_gateway] if self.options.kills is None else [self.kill_gateway]
        if self.options.faults in ("all", "outside"):
            kinds += [self.slow_reader, self.reload]
        if self.cluster is not None and self.options.faults in ("all", "outside", "brokers"):
            kinds += [self.kill_broker, self.stop_broker, self.freeze_broker, self.cut_connections]
            if self.options.brokers == 3:
                kinds.append(self.move_partition)
        if kinds:
            self.chosen.choice(kinds)()

    def note(self, name: str) -> None:
        self.faults[name] += 1
        print(f"{self.since():8.1f} s  {name:24} acknowledged {self.run.acknowledged():9,}  "
              f"delivered {len(self.run.history.delivered):9,}", flush=True)  # fmt: skip

    def since(self) -> float:
        return time.monotonic() - self.started

    def kill_gateway(self) -> None:
        gateway = self.chosen.choice(self.gateways)
        with self.outage("gateway killed"):
            gateway.kill()
            gateway.start()

    def restart_gateway(self) -> None:
        gateway = self.chosen.choice(self.gateways)
        with self.outage("gateway restarted"):
            gateway.terminate()
            gateway.start()

    def slow_reader(self) -> None:
        """Takes part in a group of its own and stops reading: it costs the others nothing."""
        self.note("slow reader")
        client = Client(self.chosen.choice(self.gateways).public_port, receive_buffer_bytes=4096)
        client.send("GET", f"/v1/topics/{TOPIC}/slow{len(self.slow) % 8}?follow=1")
        self.slow.append(client)
        if len(self.slow) > 8:
            self.slow.pop(0).reset()

    def reload(self) -> None:
        """No connection and no stream notices it."""
        self.note("reload")
        self.chosen.choice(self.gateways).hangup()

    def cut_connections(self) -> None:
        """Resets what is open to one broker, or each connection to it after some bytes of answers for a while."""
        proxy = self.cluster_.proxies[self.chosen.choice(self.cluster_.nodes)]
        with self.outage("connections cut", RECOVERY_SECONDS):
            if self.chosen.random() < 0.5:
                proxy.cut_after_response_bytes(self.chosen.randrange(50, 5000))
            proxy.cut()
            time.sleep(self.chosen.uniform(0, 3))
            proxy.pass_through()

    def kill_broker(self) -> None:
        node = self.chosen.choice(self.cluster_.nodes)
        with self.outage("broker killed", RECOVERY_SECONDS):
            self.cluster_.kill(node)
            time.sleep(self.chosen.uniform(0, 5))
            self.cluster_.restart(node)

    def stop_broker(self) -> None:
        node = self.chosen.choice(self.cluster_.nodes)
        with self.outage("broker stopped", RECOVERY_SECONDS):
            self.cluster_.stop(node)
            time.sleep(self.chosen.uniform(0, 5))
            self.cluster_.restart(node)

    def freeze_broker(self) -> None:
        node = self.chosen.choice(self.cluster_.nodes)
        with self.outage("broker frozen", RECOVERY_SECONDS):
            self.cluster_.freeze(node)
            time.sleep(self.chosen.uniform(1, 8))
            self.cluster_.thaw(node)
            self.cluster_.wait()

    def move_partition(self) -> None:
        """Of three brokers a fourth is made first, so that there is somewhere to go; the leader always changes."""
        if len(self.cluster_.nodes) == 3:
            self.note("broker added")
            self.cluster_.add()
        number = self.chosen.randrange(self.options.partitions)
        assert self.oracle is not None
        old = self.oracle.leaders(TOPIC)[number]
        others = [node for node in self.cluster_.nodes if node != old]
        self.note("partition moved")
        self.run.history.fault("partition moved")
        self.cluster_.reassign(TOPIC, number, self.chosen.sample(others, len(others)))

    def outage(self, name: str, recovery_seconds: float = 0.0) -> AbstractContextManager[None]:
        self.note(name)
        return self.run.outage(name, recovery_seconds)

    @property
    def cluster_(self) -> KafkaCluster:
        assert self.cluster is not None
        return self.cluster

    # --- the run --------------------------------------------------------------------------------------------------

    def soak(self) -> dict[str, Report]:
        """One report for each group."""
        options = self.options
        self.started = time.monotonic()
        sampling = threading.Thread(target=self._sample, name="samples", daemon=True)
        sampling.start()
        self.run.write(options.writers, batch=20, pause_seconds=options.pause, timeout_seconds=30)
        query = "limit=200&timeout=1&idle=0.1"
        if options.ack != "explicit":
            if options.visitors:
                rounds = -(-options.rounds // options.visitors) if options.rounds else 1 << 30
                self.run.visit(options.visitors, rounds, self.secure_port)
            if options.readers:
                self.run.read(options.readers, query=query)
        if options.ack != "auto":
            for ack in ("each", "upto"):
                self.explicit.read(1, query=f"{query}&ack_timeout=5", ack=ack)
        while not self._over():
            time.sleep(self.chosen.uniform(0.5, 1.5) * options.every)
            self.fault()
        self.run.stop_writing()
        if options.rounds:
            self.run.visited(600)
        for client in self.slow:
            client.reset()
        self.run.end_visits()
        reports = {}
        if options.ack != "explicit":
            self.run.read(1, query="limit=1000&timeout=1&idle=0.2")
            self.run.drain()
        if options.ack != "auto":
            self.explicit.drain()
        self._over_event.set()
        sampling.join()
        if options.ack != "explicit":
            reports["confirmed by reading"] = self._report(self.run, explicit=False)
        if options.ack != "auto":
            reports["acknowledged"] = self._report(self.explicit, explicit=True)
        return reports

    def _report(self, run: Run, *, explicit: bool) -> Report:
        if self.oracle is not None:
            final = from_oracle(self.oracle, TOPIC, run.group, drained=True)
        else:
            final = from_gateway(self.gateways[0].public_port, TOPIC, run.group, drained=True)
        report = check(
            run.history,
            final,
            in_order=not explicit,
            # a record acknowledged with sync=1 and answered 200 never comes again, whatever crashes
            outages=() if explicit else self.run.outages,
            commit_seconds=COMMIT_SECONDS,
        )
        for places in (report.lost_on_delivery, report.disordered_deliveries, report.repeated):
            for place in places[:2]:
                print(*trace(run.history, final, place), sep="\n    ")
        if final.committed != ends(final):
            print(f"{run.group} committed {final.committed}, and the log ends at {ends(final)}")
        return report

    def _sample(self) -> None:
        """Notes each daemon's memory and descriptors at the beginning, every minute and at the end."""
        due = self.started
        while True:
            for number, gateway in enumerate(self.gateways):
                with contextlib.suppress(OSError, RuntimeError):  # it was killed just now
                    sample = Sample.of(self.since() / 60, number, gateway.pid)
                    self.samples.append(sample)
                    print(sample, flush=True)
            if self._over_event.is_set():
                return
            due += SAMPLE_SECONDS
            self._over_event.wait(max(due - time.monotonic(), 0))

    def _over(self) -> bool:
        options = self.options
        if options.kills is not None:
            return self.faults["gateway killed"] >= options.kills
        if options.rounds:
            return not any(visitor.is_alive() for visitor in self.run.visitors)
        return self.since() > options.minutes * 60

    def close(self) -> None:
        self._over_event.set()
        self.explicit.close()
        self.run.close()
        for gateway in self.gateways:
            gateway.close()
        if self.cluster is not None:
            self.cluster.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=0, help="end after so many clients that end in every way")
    parser.add_argument("--kills", type=int, help="end after so many kills of the gateway")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=["embedded", "kafka"], default="embedded")
    parser.add_argument("--brokers", type=int, choices=[1, 3], default=3)
    parser.add_argument("--gateways", type=int, default=1, help="so many in one group, before Kafka")
    parser.add_argument("--kafka-version", default="4.3.1")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--faults", choices=["all", "outside", "gateway", "brokers", "none"], default="all")
    parser.add_argument("--every", type=float, default=3.0, help="seconds between faults")
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--ack", choices=["both", "auto", "explicit"], default="both", help="groups that read")
    parser.add_argument("--visitors", type=int, default=2, help="clients at a time that end in every way")
    parser.add_argument("--pause", type=float, default=0.005, help="seconds between a writer's requests")
    parser.add_argument("--folder", type=Path, help="keep the gateway's data and log there, not in a temporary folder")
    options = parser.parse_args()
    kept: Path | None = options.folder
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kateway-soak-") if kept is None else nullcontext(kept) as folder:
        soak = Soak(options, Path(folder))
        try:
            reports = soak.soak()
            seconds = soak.since()
        finally:
            soak.close()
    print(f"\nseed {options.seed}, {options.store}, {seconds:.0f} s, "
          f"{sum(len(each.statuses) for each in soak.run.visitors)} clients that left in every way")  # fmt: skip
    for name, count in sorted(soak.faults.items()):
        print(f"  {name:24} {count:6}")
    statuses = Counter(each.status for each in soak.run.history.published)
    print(f"  answers to publishes: {dict(sorted(statuses.items()))} (0: none came)")
    wrong = False
    for group, report in reports.items():
        print(f"  the group whose records are {group}:")
        for name in ("acknowledged", "present", "unacknowledged", "delivered", "redelivered"):
            print(f"    {name:22} {getattr(report, name):12,}")
        for name, found in report.faults().items():
            wrong = True
            print(f"    {name.upper():22} {len(found):12,}  {found[:5]}")
    if not wrong:
        print("  0 lost; nothing doubled, out of order or repeated")
    for number in range(options.gateways):
        own = [sample for sample in soak.samples if sample.gateway == number]
        print(f"  at the beginning and the end: {own[0]}\n{'':32}{own[-1]}")
    print(f"  (this program took {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB)")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
