"""Where a daemon's time goes in one case, so that a missed figure is explained: ``python bench/hotspots.py CASE``.

CASE is publish-64, publish-256, publish-1, batch-16, embedded-64, read-raw or read-ndjson. ``--by py-spy`` (the
default; ``pip install py-spy``) samples the running daemon from outside and costs it little: its shares are true.
``--by cprofile`` counts every call inside the daemon, which doubles the time of small functions: for numbers of calls.
``--by perf`` shows what is below Python: the kernel, the C libraries and the interpreter.
"""

from __future__ import annotations

import argparse
import collections
import pstats
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import run  # first: it makes the tests' servers importable
from daemons import cpu_seconds
from servers.daemon import Daemon

CASES = ("publish-64", "publish-256", "publish-1", "batch-16", "embedded-64", "read-raw", "read-ndjson")
SAMPLES_A_SECOND = 500
STATS = "stats.cprofile"
WAITING = ("Condition.wait ", "wait (threading")
"""How the idle threads of a pool look to py-spy."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--by", choices=("py-spy", "cprofile", "perf"), default="py-spy")
    parser.add_argument("--top", type=int, default=40, help="how many functions to print")
    parser.add_argument("--lines", action="store_true", help="py-spy: by line of source, not by function")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--tree", type=Path, default=run.ROOT)
    parser.add_argument(
        "--stacks", type=Path, metavar="FILE", help="py-spy: keep the collapsed stacks (for a flame graph)"
    )
    return parser.parse_args()


def main() -> None:
    options = arguments()
    options.installed = False
    options.rounds = 1
    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as folder, ExitStack() as stack:
        bench = run.Bench(options, Path(folder), stack)
        if options.by == "cprofile":
            bench.twistd_options = ("--profiler=cprofile", "--savestats", f"--profile={folder}/{STATS}")
        daemon = bench.embedded if options.case.startswith("embedded") else bench.gateway
        case = bench.cases[options.case]
        seconds, options.seconds = options.seconds, 2.0
        case()
        options.seconds = seconds
        before, began = cpu_seconds(daemon.pid), time.monotonic()
        sampler = Sampler(options, daemon, Path(folder)) if options.by != "cprofile" else None
        value = case()
        used = (cpu_seconds(daemon.pid) - before) / (time.monotonic() - began)
        each = bench.results.cpu_microseconds[options.case][-1]
        print(f"{options.case}: {value:,.1f}; {each:.1f} µs of CPU each; {used:.0%} of a core was used")
        if sampler is not None:
            sampler.show()
        else:
            daemon.terminate(60)
            pstats.Stats(f"{folder}/{STATS}").sort_stats("tottime").print_stats(options.top)


class Sampler:
    """py-spy or perf beside the daemon, until it is asked to show what it saw."""

    def __init__(self, options: argparse.Namespace, daemon: Daemon, folder: Path) -> None:
        self._options = options
        self._file = folder / "samples"
        rate = str(SAMPLES_A_SECOND)
        if options.by == "perf":
            command = ["perf", "record", "-q", "-F", rate, "-p", str(daemon.pid), "-o", str(self._file)]
            command += ["--", "sleep", "3600"]
        else:
            spy = str(Path(sys.executable).with_name("py-spy"))
            command = [spy, "record", "--pid", str(daemon.pid), "--rate", rate, "--duration", "3600"]
            command += ["--format", "raw", "--output", str(self._file)]
            if not options.lines:
                command.append("--function")
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        time.sleep(0.5)

    def show(self) -> None:
        self._process.send_signal(2)
        _, said = self._process.communicate()
        if not self._file.exists():
            raise SystemExit(said)
        if self._options.by == "perf":
            self._show_perf()
        else:
            self._show_stacks()

    def _show_perf(self) -> None:
        report = ["perf", "report", "--stdio", "-q", "--no-children", "-i", str(self._file), "--sort", "dso,symbol"]
        lines = subprocess.run(report, check=True, capture_output=True, text=True).stdout.splitlines()
        print("\n".join([line for line in lines if line.strip()][: self._options.top]))

    def _show_stacks(self) -> None:
        """Time in a function itself, and with what it calls."""
        own: collections.Counter[str] = collections.Counter()
        whole: collections.Counter[str] = collections.Counter()
        text = self._file.read_text()
        if self._options.stacks:
            self._options.stacks.write_text(text)
        for line in text.splitlines():
            frames, _, count = line.rpartition(" ")
            called = frames.split(";")
            if called[-1].startswith(WAITING):
                continue
            own[called[-1]] += int(count)
            for frame in set(called):
                whole[frame] += int(count)
        total = sum(own.values())
        print(f"{total} samples\n   own  with what it calls")
        for frame, count in own.most_common(self._options.top):
            print(f"{count / total:6.1%} {whole[frame] / total:6.1%}  {frame}")


if __name__ == "__main__":
    main()
