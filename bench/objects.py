"""What 1,000 applications, topics and groups cost: ``python bench/objects.py``.

Daemons with the embedded store and registry. Printed are what one that counts and keeps a history holds in living
objects beyond one that does not (traced, in two daemons of their own: resident memory says more of the allocator); how
long lists take, a page of a hundred rows sorted by a figure or searched; and the 99th percentile of publishes while a
page of the manager is open and ``/metrics`` is read each second, to that without, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import run  # isort: skip - first: it makes the tests' servers importable
import daemons
import load
from servers.daemon import Daemon

MOST_MEGABYTES = 25.0
MOST_LIST_SECONDS = 1.0
MOST_SEARCH_SECONDS = 0.3
MOST_P99_RATIO = 1.1
SETTLING_SECONDS = 35.0
"""Groups linger for 15 s, and are looked at each 10 s."""
LISTS = {
    "applications": "applications?limit=100",
    "topics": "topics?limit=100",
    "groups": "groups?limit=100",
    "groups by lag": "groups?limit=100&sort=lag&desc=1",
    "groups by severity": "groups?limit=100&sort=severity&desc=1",
    "groups of a verdict": "groups?limit=100&state=abandoned",
    "last page of groups": "groups?limit=100&after=app0950",
}
SEARCHES = {
    "search of applications": "applications?limit=100&contains=p099",
    "search of topics": "topics?limit=100&contains=p099",
    "search of groups": "groups?limit=100&contains=p099",
    "search of groups by lag": "groups?limit=100&contains=p099&sort=lag&desc=1",
}
PAGE = {
    "status": 3.0,
    "groups?sort=severity&desc=1&limit=100": 3.0,
    "groups?sort=lag&desc=1&limit=5": 3.0,
    "history?series=in_records,out_records,publish_seconds_p50,publish_seconds_p99,lag,errors,rejected&window=15m": 5.0,
    "slow?limit=5": 10.0,
    "errors?limit=5&sort=count&desc=1": 10.0,
    "events?limit=5": 10.0,
}
"""What Overview asks for, and each how many seconds."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=5, help="of each run of wrk")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--installed", action="store_true", help="measure a wheel in an environment of its own")
    return parser.parse_args()


class Api:
    """Calls of a daemon's two listeners."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    def admin(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        url = f"{self.daemon.admin}/admin/v1/{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=60) as response:
            found = response.read()
        return json.loads(found) if found else None

    def message(self, path: str, headers: dict[str, str], body: bytes | None = None) -> bytes:
        url = f"{self.daemon.public}/v1/topics/{path}"
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as response:
            return bytes(response.read())

    def key(self, application: str, kind: str) -> dict[str, str]:
        made = self.admin("POST", f"applications/{application}/keys", {"kind": kind})
        return {"Pubkey" if kind == "pub" else "Subkey": made["key"], "Secret": made["secret"]}

    def make(self, number: int) -> None:
        """An application with a topic of five records, of which a group has read one."""
        application = f"app{number:04}"
        self.admin("PUT", f"applications/{application}", {})
        self.admin("PUT", f"topics/{application}/things/v1", {"partitions": 1})
        batch = {**self.key(application, "pub"), "Content-Type": "application/x-ndjson"}
        self.message("things?batch=1", batch, b"x\n" * 5)
        self.message("things/readers?limit=1", self.key(application, "sub"))


def made(api: Api, objects: int) -> None:
    """All of them, and whatever is found of them later."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(api.make, range(objects)))
    time.sleep(SETTLING_SECONDS)


def living(installed: run.Installation, folder: Path, objects: int, *, observed: bool) -> float:
    """Megabytes of living objects that all of them add to a daemon."""
    text = "[admin]\ntrace_memory_frames = 1\n"
    if not observed:
        text += "[metrics]\nenabled = false\n[history]\nenabled = false\n"
    daemon = started(installed, folder, text)
    try:
        api = Api(daemon)
        api.make(9999)
        before = api.admin("GET", "memory?limit=1")["traced_bytes"]
        made(api, objects - 1)
        return float(api.admin("GET", "memory?limit=1")["traced_bytes"] - before) / 1e6
    finally:
        daemon.close()


def started(installed: run.Installation, folder: Path, text: str = "") -> Daemon:
    folder.mkdir()
    (folder / "kateway.toml").write_text(f'[registry]\ndriver = "embedded"\n{text}')
    options = ("--config", str(folder / "kateway.toml"), "--data", str(folder / "data"))
    return daemons.daemon(installed, folder, options)


def megabytes(daemon: Daemon) -> float:
    return daemons.resident_bytes(daemon.pid) / 1e6


def seconds_of(api: Api, path: str) -> float:
    """The median of five calls."""
    taken = []
    for _ in range(5):
        began = time.monotonic()
        api.admin("GET", path)
        taken.append(time.monotonic() - began)
    return statistics.median(taken)


@contextmanager
def watched(api: Api) -> Iterator[None]:
    """As if Overview were open in a browser, with its stream, and a Prometheus read ``/metrics`` each second."""
    over = threading.Event()

    def again(url: str, seconds: float) -> None:
        while not over.wait(seconds):
            urllib.request.urlopen(url, timeout=30).read()

    def stream() -> None:
        with urllib.request.urlopen(f"{api.daemon.admin}/admin/v1/live?view=groups", timeout=30) as response:
            while not over.is_set():
                response.readline()

    admin = api.daemon.admin
    calls = [(f"{admin}/admin/v1/{path}", seconds) for path, seconds in PAGE.items()]
    threads = [threading.Thread(target=again, args=call) for call in [*calls, (f"{admin}/metrics", 1.0)]]
    threads.append(threading.Thread(target=stream, daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


def p99_ratio(api: Api, options: argparse.Namespace) -> float:
    """Of publishes while it is watched to those while it is not."""
    api.admin("PUT", "applications/bench", {})
    api.admin("PUT", "topics/bench/load/v1", {"partitions": 4})
    key = api.key("bench", "pub")
    script = load.ONE_RECORD.replace("mypubkey", key["Pubkey"]) + f'wrk.headers["Secret"] = "{key["Secret"]}"\n'
    url = f"{api.daemon.public}/v1/topics/load"
    late: dict[bool, list[float]] = {True: [], False: []}
    cpu: dict[bool, list[float]] = {True: [], False: []}
    for number in range(options.rounds):
        for seen in (True, False) if number % 2 else (False, True):
            before = daemons.cpu_seconds(api.daemon.pid)
            with ExitStack() as stack:
                if seen:
                    stack.enter_context(watched(api))
                done = load.post(url, script, options.connections, options.seconds)
            late[seen].append(done.p99_seconds)
            cpu[seen].append((daemons.cpu_seconds(api.daemon.pid) - before) / done.requests * 1e6)
        run.tell(
            f"p99 {late[True][-1] * 1e3:.2f} ms watched, {late[False][-1] * 1e3:.2f} ms not; "
            f"CPU a publish {cpu[True][-1]:.1f} µs, {cpu[False][-1]:.1f} µs"
        )
    return statistics.median(a / b for a, b in zip(late[True], late[False], strict=True))


def main() -> None:
    options = arguments()
    load.require_wrk()
    missed = False

    def show(what: str, figure: float, most: float, unit: str) -> None:
        nonlocal missed
        missed = missed or figure > most
        print(f"{what:28} {figure:8.3f} {unit:4} (at most {most:g}){'' if figure <= most else '  MISSED'}", flush=True)

    with tempfile.TemporaryDirectory(prefix="kateway-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        installed = run.Installation(folder / "installed") if options.installed else daemons.Checkout(run.ROOT)
        watching = living(installed, folder / "observed", options.objects, observed=True)
        without = living(installed, folder / "not-observed", options.objects, observed=False)
        run.tell(f"living objects: {watching:.1f} MB, without metrics and history {without:.1f} MB")
        show("memory", watching - without, MOST_MEGABYTES, "MB")
        daemon = started(installed, folder / "daemon")
        stack.callback(daemon.close)
        api = Api(daemon)
        api.make(9999)
        for path in (*LISTS.values(), *SEARCHES.values()):
            seconds_of(api, path)
        before = megabytes(daemon)
        made(api, options.objects - 1)
        run.tell(f"{options.objects} of each are made: {megabytes(daemon) - before:.1f} MB more are resident")
        for what, path in LISTS.items():
            show(what, seconds_of(api, path), MOST_LIST_SECONDS, "s")
        for what, path in SEARCHES.items():
            show(what, seconds_of(api, path), MOST_SEARCH_SECONDS, "s")
        show("p99 while it is watched", p99_ratio(api, options), MOST_P99_RATIO, "")
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
