"""All of kateway's figures as one table: ``python bench/run.py``. See README.rst in this folder.

Rounds over all cases, not one case several times: what disturbs the machine disturbs what is compared alike.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import daemons  # noqa: E402
import librdkafka  # noqa: E402
import load  # noqa: E402
import memory  # noqa: E402
import reading  # noqa: E402
from figures import (  # noqa: E402
    AGAINST_HEADINGS,
    AGAINST_WIDTHS,
    BY_NAME,
    FIGURES,
    Results,
    rst_table,
    text_table,
)
from servers.daemon import Daemon, Installation  # noqa: E402
from servers.kafka import KafkaCluster  # noqa: E402
from servers.oracle import Oracle  # noqa: E402

PARTITIONS = 6
TOPIC = "bench"
FULL = "preloaded"
QUIET_LOAD = 1.2
SLOWEST_READ = 50_000
YARDSTICK = "yardstick"
Server = Daemon | daemons.Yardstick


def tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


class Bench:
    """The servers that the chosen cases need, started when first asked for, and the cases."""

    def __init__(self, options: argparse.Namespace, folder: Path, stack: ExitStack) -> None:
        self.options = options
        self.folder = folder
        self.results = Results()
        self.twistd_options: tuple[str, ...] = ()
        self._stack = stack
        self._installed: Installation | None = None
        self._made: dict[str, Any] = {}
        self._number = 0
        self.beside: dict[str, Callable[[], Server]] = {}
        """What else is measured in each round, by its name: the yardstick and other trees."""
        self.compared: dict[str, Callable[[str, Server], float]] = {
            "publish-64": partial(self._publish, connections=64),
            "publish-256": partial(self._publish, connections=256),
            "publish-1": self._latency,
            "batch-16": self._batches,
            "read-raw": partial(self._read, accept="*/*"),
            "read-ndjson": partial(self._read, accept="application/x-ndjson"),
        }
        """The cases that those beside have too; each is told the name that its figures are kept by."""
        self.cases: dict[str, Callable[[], float]] = {
            "bare-64": lambda: self._publish("bare-64", self.bare, 64),
            "publish-64": lambda: self.compared["publish-64"]("publish-64", self.gateway),
            "bare-256": lambda: self._publish("bare-256", self.bare, 256),
            "publish-256": lambda: self.compared["publish-256"]("publish-256", self.gateway),
            "librdkafka-1": self._librdkafka_latency,
            "publish-1": lambda: self.compared["publish-1"]("publish-1", self.gateway),
            "batch-16": lambda: self.compared["batch-16"]("batch-16", self.gateway),
            "embedded-64": lambda: self._publish("embedded-64", self.embedded, 64),
            "librdkafka-read": self._librdkafka_read,
            "read-raw": lambda: self.compared["read-raw"]("read-raw", self.gateway),
            "read-ndjson": lambda: self.compared["read-ndjson"]("read-ndjson", self.gateway),
            "start-kafka": lambda: self._start("--kafka", self.kafka.bootstrap),
            "start-embedded": self._start,
            "connection": self._connection,
        }
        """All but growth, which is measured once."""

    # --- servers -------------------------------------------------------------------------------------------------

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            tell(f"starting {name}")
            self._made[name] = make()
            self._stack.callback(self._made[name].close)
        return self._made[name]

    @property
    def kafka(self) -> KafkaCluster:
        def make() -> KafkaCluster:
            cluster = daemons.kafka()
            Oracle(cluster.bootstrap).create_topic(TOPIC, PARTITIONS)
            return cluster

        cluster: KafkaCluster = self._once("Kafka", make)
        return cluster

    @property
    def bare(self) -> daemons.Bare:
        bare: daemons.Bare = self._once("the bare protocol", lambda: daemons.Bare(self.folder, self.options.tree))
        return bare

    @property
    def gateway(self) -> Daemon:
        kafka = self.kafka
        gateway: Daemon = self._once("kateway on Kafka", lambda: self._daemon("--kafka", kafka.bootstrap))
        return gateway

    @property
    def embedded(self) -> Daemon:
        gateway: Daemon = self._once("kateway on the embedded store", self._daemon)
        return gateway

    def put_beside(self, program: Path, trees: dict[str, Path]) -> None:
        """Has the yardstick and other trees, by their names, measured in each round."""
        for name, tree in trees.items():
            self.beside[name] = partial(self._once, f"kateway of {name}", partial(self._other, tree))
        self.beside[YARDSTICK] = partial(self._once, "the yardstick", partial(self._yardstick, program))

    def _other(self, tree: Path) -> Daemon:
        return self._daemon("--kafka", self.kafka.bootstrap, installed=daemons.Checkout(tree))

    def _yardstick(self, program: Path) -> daemons.Yardstick:
        return daemons.Yardstick(program, self.folder, self.kafka.bootstrap)

    @property
    def installed(self) -> Installation:
        if self._installed is None:
            options = self.options
            if options.installed:
                tell("building and installing the wheel")
                self._installed = Installation(self.folder / "installed")
            else:
                self._installed = daemons.Checkout(options.tree)
        return self._installed

    def _daemon(self, *options: str, installed: Installation | None = None) -> Daemon:
        self._number += 1
        folder = self.folder / f"gateway-{self._number}"
        return daemons.daemon(installed or self.installed, folder, options, self.twistd_options)

    @contextmanager
    def _fresh(self, *options: str) -> Iterator[Daemon]:
        gateway = self._daemon(*options)
        try:
            yield gateway
        finally:
            gateway.terminate()

    def _preloaded(self) -> None:
        if FULL not in self._made:
            Oracle(self.kafka.bootstrap).create_topic(FULL, PARTITIONS)
            tell(f"writing {self.options.records} records")
            librdkafka.preload(self.kafka.bootstrap, FULL, self.options.records, load.VALUE_BYTES)
            self._made[FULL] = True

    # --- cases ---------------------------------------------------------------------------------------------------

    def _publish(self, name: str, server: Server | daemons.Bare, connections: int) -> float:
        port = server.port if isinstance(server, daemons.Bare) else server.public_port
        return self._posted(name, server.pid, port, load.ONE_RECORD, connections).rate

    def _posted(self, name: str, pid: int, port: int, script: str, connections: int, records: int = 1) -> load.Load:
        query = "?batch=1" if records > 1 else ""
        url = f"http://127.0.0.1:{port}/v1/topics/{TOPIC}{query}"
        before = daemons.cpu_seconds(pid)
        done = load.post(url, script, connections, self.options.seconds)
        self._used(name, pid, before, done.requests * records)
        return done

    def _used(self, name: str, pid: int, before: float, units: int) -> None:
        used = (daemons.cpu_seconds(pid) - before) / units * 1e6
        self.results.cpu_microseconds.setdefault(name, []).append(used)

    def _librdkafka_latency(self) -> float:
        return librdkafka.latency(self.kafka.bootstrap, TOPIC, load.VALUE_BYTES, self.options.seconds) * 1e3

    def _latency(self, name: str, server: Server) -> float:
        return self._posted(name, server.pid, server.public_port, load.ONE_RECORD, 1).p50_seconds * 1e3

    def _batches(self, name: str, server: Server) -> float:
        port, records = server.public_port, load.BATCH_RECORDS
        return self._posted(name, server.pid, port, load.NDJSON_BATCH, 16, records).rate * records

    def _librdkafka_read(self) -> float:
        self._preloaded()
        records = self.options.records
        _first, seconds = librdkafka.consume(self.kafka.bootstrap, FULL, records)
        return float(records / seconds)

    def _read(self, name: str, server: Server, accept: str) -> float:
        self._preloaded()
        records = self.options.records
        path = f"/v1/topics/{FULL}/bench-{uuid.uuid4().hex[:12]}?limit={records}"
        before = daemons.cpu_seconds(server.pid)
        response = reading.read_all(server.public_port, path, accept)
        self._used(name, server.pid, before, records)
        if response.bytes < records * load.VALUE_BYTES or response.seconds > records / SLOWEST_READ + 5:
            # a response that ends for want of records has waited for its idle end
            raise reading.ReadFailed(f"{response} is not {records} records")
        return records / response.seconds

    def _start(self, *options: str) -> float:
        with self._fresh(*options) as gateway:
            return memory.after_start(gateway.pid) / 1e6

    def _connection(self) -> float:
        with self._fresh("--kafka", self.kafka.bootstrap) as gateway:
            count = self.options.connections
            return memory.per_connection(gateway.pid, gateway.public_port, TOPIC, count) / 1e3

    def growth(self) -> float:
        with self._fresh("--kafka", self.kafka.bootstrap) as gateway:
            return memory.growth(gateway.pid, gateway.public_port, TOPIC, self.options.minutes, tell) / 1e6

    def _beside(self, name: str, beside: str) -> float:
        return self.compared[name](f"{name}@{beside}", self.beside[beside]())

    # --- rounds --------------------------------------------------------------------------------------------------

    def measure(self, name: str, case: Callable[[], float]) -> None:
        """One value more; a fault is noted and the others go on."""
        try:
            value = case()
        except (load.LoadFailed, reading.ReadFailed, RuntimeError, OSError) as error:
            self.results.failures.setdefault(name, []).append(str(error))
            tell(f"{name}: failed: {error}")
            return
        self.results.values.setdefault(name, []).append(value)
        tell(f"{name}: {value:,.2f} {BY_NAME[name.partition('@')[0]].unit}")

    def run(self, names: list[str]) -> None:
        cases: dict[str, Callable[[], float]] = {}
        for name in (name for name in self.cases if name in names):
            cases[name] = self.cases[name]
            # at once after it: what is compared has the same moment of the machine
            for beside in self.beside if name in self.compared else ():
                cases[f"{name}@{beside}"] = partial(self._beside, name, beside)
        tell("warming up")
        seconds, self.options.seconds = self.options.seconds, min(self.options.seconds, 2)
        for case in cases.values():
            case()
        self.options.seconds = seconds
        self.results.cpu_microseconds.clear()
        for number in range(self.options.rounds):
            tell(f"round {number + 1} of {self.options.rounds}, load average {os.getloadavg()[0]:.1f}")
            for name, case in cases.items():
                self.measure(name, case)
        if "growth" in names and self.options.minutes:
            tell(f"growth, {self.options.minutes:g} minutes")
            self.measure("growth", self.growth)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round: only shows that it works")
    parser.add_argument("--only", action="append", metavar="NAME", choices=list(BY_NAME), help="may be repeated; what "
                        f"it is compared with comes along. Names: {', '.join(BY_NAME)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, help="default 5")
    parser.add_argument("--seconds", type=float, help="of each run of wrk, default 5")
    parser.add_argument("--records", type=int, help="to read, default 1,000,000")
    parser.add_argument("--connections", type=int, help="idle ones for their memory, default 2,000")
    parser.add_argument("--minutes", type=float, help="of load for the growth, default 1 (0: leave it out)")
    parser.add_argument("--tree", type=Path, default=ROOT, help="the checkout whose daemon is measured")
    parser.add_argument("--installed", action="store_true", help="measure a wheel in an environment of its own")
    parser.add_argument("--yardstick", action="store_true", help="measure the Go program of bench/yardstick in the "
                        "same rounds, and print ratios to it")  # fmt: skip
    parser.add_argument("--beside", action="append", type=Path, default=[], metavar="DIR", help="with --yardstick: "
                        "another checkout in the same rounds; may be repeated")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value")
    parser.add_argument("--rst", type=Path, metavar="FILE", help="write the table for docs/performance.rst")
    options = parser.parse_args()
    if options.beside and not options.yardstick:
        parser.error("--beside needs --yardstick")
    sizes = {"rounds": (5, 1), "seconds": (5, 1), "records": (1_000_000, 50_000), "connections": (2000, 200),
             "minutes": (1, 0.05)}  # fmt: skip
    for name, (full, quick) in sizes.items():
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else full)
    return options


def chosen(options: argparse.Namespace) -> list[str]:
    if not options.only:
        return [figure.name for figure in FIGURES]
    against = {BY_NAME[name].against for name in options.only}
    return [figure.name for figure in FIGURES if figure.name in options.only or figure.name in against]


def facts(options: argparse.Namespace, begun_load: float) -> dict[str, str]:
    """Where, when and how it was measured."""
    said = {
        "Machine": daemons.machine(),
        "Date": time.strftime("%Y-%m-%d"),
        "Revision": daemons.revision(options.tree),
        "Kafka": f"{daemons.KAFKA_VERSION}, one broker on the same machine, {PARTITIONS} partitions, acks=all",
        "Command": f"python bench/run.py {shlex.join(_plain(sys.argv[1:]))}".strip(),
        "Load before": f"{begun_load:.2f}",
    }
    return {name: value for name, value in said.items() if value}


def yardstick(options: argparse.Namespace, folder: Path) -> Path | None:
    """The yardstick's program where it is wanted and can be built."""
    if not options.yardstick:
        return None
    tell("building the yardstick")
    try:
        return daemons.build_yardstick(folder)
    except daemons.NoYardstick as error:
        tell(f"no yardstick, so no ratios to it: {error}")
        return None


def tree_name(tree: Path) -> str:
    """Names a tree in the table by its revision; its folder tells no reader anything."""
    return daemons.revision(tree) or tree.resolve().name


def _plain(given: list[str]) -> list[str]:
    """The arguments without where the results were written."""
    kept = []
    skip = False
    for each in given:
        if skip or each.startswith(("--json", "--rst", "--tree", "--beside")):
            skip = not skip and "=" not in each
            continue
        kept.append(each)
    return kept


def main() -> None:
    options = arguments()
    load.require_wrk()
    begun_load = os.getloadavg()[0]
    if begun_load > QUIET_LOAD:
        tell(f"the machine is busy (load average {begun_load:.1f}): look at ratios and CPU each only")
    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as folder, ExitStack() as stack:
        bench = Bench(options, Path(folder), stack)
        program = yardstick(options, Path(folder))
        if program is not None:
            bench.put_beside(program, {tree_name(tree): tree for tree in options.beside})
        try:
            bench.run(chosen(options))
        finally:
            results, said = bench.results, facts(options, begun_load)
            against: list[tuple[str, ...]] = []
            if program is not None:
                said["Yardstick"] = daemons.yardstick_version()
                servers = {"": f"kateway {tree_name(options.tree)}"}
                servers |= {name: f"kateway {name}" for name in bench.beside if name != YARDSTICK}
                against = results.rows_against(YARDSTICK, servers)
            if options.json:
                everything = {"facts": said, "values": results.values, "cpu_microseconds": results.cpu_microseconds,
                              "failures": results.failures}  # fmt: skip
                options.json.write_text(json.dumps(everything, indent=1) + "\n")
            if options.rst:
                tables = rst_table(results.rows(), said)
                if against:
                    tables += rst_table(against, {}, AGAINST_HEADINGS, AGAINST_WIDTHS)
                options.rst.write_text(tables)
            print("\n".join(f"{name}: {value}" for name, value in said.items()))
            print()
            print(text_table(results.rows()))
            if against:
                print(f"\n{text_table(against, AGAINST_HEADINGS)}")
    if bench.results.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
