"""The servers under measurement: a Kafka as its own scripts start it, and daemons of kateway with their CPU time."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from servers.daemon import Daemon, Installation
from servers.kafka import KafkaCluster
from servers.ports import held_port
from servers.process import Process

KAFKA_VERSION = "4.3.1"
YARDSTICK = Path(__file__).with_name("yardstick")
# what bin/kafka-server-start.sh and bin/kafka-run-class.sh of Kafka set
KAFKA_JVM = (
    "-server",
    "-Xms1g",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
    "-Dlog4j2.StatusLogger.level=OFF",
)


class Checkout(Installation):
    """Daemons run from a source tree with this Python's packages; an ``Installation`` runs them from a wheel."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def command(self, name: str) -> str:
        return str(Path(sys.executable).with_name(name))


def kafka() -> KafkaCluster:
    """One broker with Kafka's own settings of the virtual machine, started."""
    return KafkaCluster(KAFKA_VERSION, jvm=KAFKA_JVM, heap_megabytes=1024).start()


def daemon(installed: Installation, folder: Path, options: Sequence[str], twistd: Sequence[str] = ()) -> Daemon:
    """A daemon as anybody has it: its log, with a line for each request, goes to a file."""
    env = {"PYTHONPATH": str(installed.tree)} if isinstance(installed, Checkout) else {}
    started = Daemon(installed, folder, options, env=env, twistd=twistd).start()
    started.wait_for_ready()
    return started


class Bare:
    """The floor: a Twisted protocol that parses with httptools and answers a constant (``bare_httptools.py``)."""

    def __init__(self, folder: Path, tree: Path) -> None:
        self.port = held_port()
        program = Path(__file__).with_name("bare_httptools.py")
        command = [sys.executable, str(program), "serve", "bare", str(self.port)]
        self._process = Process(command, log=folder / "bare.log", env={**os.environ, "PYTHONPATH": str(tree)})
        self._process.wait_until(lambda: "ready" in self._process.output(), 30)
        self.pid = self._process.pid

    def close(self) -> None:
        self._process.stop()


class Yardstick:
    """The measure: a plain Go program that does what kateway does in the benchmarks (``yardstick/main.go``)."""

    def __init__(self, program: Path, folder: Path, bootstrap: str) -> None:
        self.public_port = held_port()
        command = [str(program), "-listen", f"127.0.0.1:{self.public_port}", "-kafka", bootstrap]
        self._process = Process(command, log=folder / "yardstick.log")
        self.pid = self._process.pid
        self._process.wait_until(self._ready, 30)

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.public_port, timeout=5)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def close(self) -> None:
        self._process.stop()


class NoYardstick(Exception):
    """The yardstick could not be built; the message says why."""


def build_yardstick(folder: Path, package: str = ".") -> Path:
    """The yardstick's program (or ``./overload``, which offers load), built into ``folder``; Go fetches what ``go.sum``
    names where it does not have it.
    """
    if shutil.which("go") is None:
        raise NoYardstick("Go is not here (no go on the PATH)")
    program = folder / ("kateway-yardstick" + package.strip("./"))
    command = ["go", "build", "-mod=readonly", "-buildvcs=false", "-o", str(program), package]
    done = subprocess.run(command, cwd=YARDSTICK, check=False, capture_output=True, text=True)
    if done.returncode:
        raise NoYardstick(f"go build ended with {done.returncode}: {done.stderr.strip()}")
    return program


def yardstick_version() -> str:
    """What the yardstick is made with, in one line."""
    go = subprocess.run(["go", "env", "GOVERSION"], check=False, capture_output=True, text=True).stdout.strip()
    (client,) = (line.split()[-1] for line in (YARDSTICK / "go.mod").read_text().splitlines()
                 if line.split()[-2:-1] == ["github.com/twmb/franz-go"])  # fmt: skip
    return f"{go}, franz-go {client}"


def cpu_seconds(pid: int) -> float:
    """User and system time that a process's threads have used. (Its stat file counts in ticks: too coarse here.)"""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9


def resident_bytes(pid: int) -> int:
    """What a process holds in memory (VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has ended")


def machine() -> str:
    """The machine in one line: processor, cores, memory, system, Python."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    kernel = f"{os.uname().sysname} {os.uname().release}"
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{model}, {os.cpu_count()} cores, {pages * size / 2**30:.0f} GB, {kernel}, Python {python}"


def revision(tree: Path) -> str:
    """The commit that is measured, with ``+`` where the tree differs from it; empty where git does not know."""
    done = subprocess.run(
        ["git", "-C", str(tree), "describe", "--always", "--dirty=+", "--exclude=*"],
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
