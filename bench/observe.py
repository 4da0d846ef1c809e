"""The cost of counting: a publish's CPU with ``[metrics] enabled`` to that without: ``python bench/observe.py``.

Two daemons on the embedded store, which differ in that alone, take turns with ``wrk``; what disturbs the machine
disturbs both alike. ``--scrape``: while each is measured its ``/metrics`` is read once a second, where there is one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import run  # isort: skip - first: it makes the tests' servers importable
import daemons
import load
from servers.daemon import Daemon

MOST_RATIO = 1.05
"""Of the CPU of a publish with everything counted to that without."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3, help="of each run of wrk")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--scrape", action="store_true", help="read /metrics once a second meanwhile")
    parser.add_argument("--installed", action="store_true", help="measure a wheel in an environment of its own")
    return parser.parse_args()


def started(folder: Path, enabled: bool, installed: run.Installation) -> Daemon:
    """A daemon whose configuration says whether it counts."""
    folder.mkdir()
    file = folder / "kateway.toml"
    text = f'[storage.default]\ndriver = "embedded"\npath = "{folder / "data"}"\n'
    file.write_text(f"{text}[metrics]\nenabled = {str(enabled).lower()}\n")
    return daemons.daemon(installed, folder, ("--config", str(file)))


@contextmanager
def scraped(daemon: Daemon, wanted: bool) -> Iterator[None]:
    """Reads ``/metrics`` once a second while the block runs."""
    over = threading.Event()

    def read() -> None:
        while not over.wait(1.0):
            try:
                urllib.request.urlopen(f"{daemon.admin}/metrics", timeout=10).read()
            except urllib.error.HTTPError as error:
                error.close()  # nothing is counted there

    thread = threading.Thread(target=read)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if wanted:
            thread.join()


def once(daemon: Daemon, options: argparse.Namespace) -> tuple[float, float]:
    """Publishes for a while; returns microseconds of CPU a publish, and the 99th percentile in milliseconds."""
    url = f"{daemon.public}/v1/topics/bench"
    before = daemons.cpu_seconds(daemon.pid)
    with scraped(daemon, options.scrape):
        done = load.post(url, load.ONE_RECORD, options.connections, options.seconds)
    return (daemons.cpu_seconds(daemon.pid) - before) / done.requests * 1e6, done.p99_seconds * 1e3


def main() -> None:
    options = arguments()
    load.require_wrk()
    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        installed = run.Installation(folder / "installed") if options.installed else daemons.Checkout(run.ROOT)
        pair = {enabled: started(folder / f"counting-{enabled}", enabled, installed) for enabled in (True, False)}
        for daemon in pair.values():
            stack.callback(daemon.close)
            once(daemon, options)
        cpu: dict[bool, list[float]] = {True: [], False: []}
        p99: dict[bool, list[float]] = {True: [], False: []}
        for number in range(options.rounds):
            # in turn the first: the second of a pair finds a busier disk
            for enabled in (True, False) if number % 2 else (False, True):
                used, late = once(pair[enabled], options)
                cpu[enabled].append(used)
                p99[enabled].append(late)
            run.tell(f"counting {cpu[True][-1]:.2f} µs, not counting {cpu[False][-1]:.2f} µs")
    # what disturbs the machine only adds: the least of each is the nearest to what counting costs
    ratio = min(cpu[True]) / min(cpu[False])
    pairs = statistics.median(a / b for a, b in zip(cpu[True], cpu[False], strict=True))
    late = statistics.median(p99[True]) / statistics.median(p99[False])
    print(f"{min(cpu[True]):.2f} µs with, {min(cpu[False]):.2f} µs without: ratio {ratio:.3f}, at most {MOST_RATIO}")
    print(f"the median of the rounds' ratios is {pairs:.3f}; that of the 99th percentiles' medians {late:.2f}")
    raise SystemExit(ratio > MOST_RATIO)


if __name__ == "__main__":
    main()
