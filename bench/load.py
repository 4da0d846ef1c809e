"""Load from ``wrk``: a client in Python would be the bottleneck.

``wrk`` is a small C program: ``apt-get install wrk`` (Debian, Ubuntu), ``brew install wrk`` (macOS),
https://github.com/wg/wrk elsewhere.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

VALUE_BYTES = 100
BATCH_RECORDS = 100
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_SCRIPT = """
wrk.method = "POST"
wrk.body = {body}
wrk.headers["Content-Type"] = "{content_type}"
wrk.headers["Pubkey"] = "mypubkey"
"""
ONE_RECORD = _SCRIPT.format(body=f'string.rep("x", {VALUE_BYTES})', content_type="application/octet-stream")
NDJSON_BATCH = _SCRIPT.format(
    body=rf'string.rep(string.rep("x", {VALUE_BYTES}) .. "\n", {BATCH_RECORDS})', content_type="application/x-ndjson"
)


class LoadFailed(Exception):
    """Requests failed, so that there is no figure; the message is what wrk said."""


class Load(NamedTuple):
    """What a run of wrk measured."""

    requests: int
    seconds: float
    p50_seconds: float
    p99_seconds: float
    refused: int = 0
    """Of the requests: answered with another status than 2xx or 3xx."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def require_wrk() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit(f"the benchmarks need wrk, which is not here.\n{__doc__}")


def start(url: str, script: str, connections: int, seconds: float) -> subprocess.Popen[str]:
    """Starts wrk, one thread; ``result`` waits for it."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua", prefix="kateway-bench-", delete=False) as file:
        file.write(script)
    duration = f"{max(round(seconds), 1)}s"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration}", "--timeout", "10s", "--latency", "-s", file.name, url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def result(running: subprocess.Popen[str], *, refusals: bool = False) -> Load:
    """What wrk says at its end. ``LoadFailed`` where any connection failed or, unless ``refusals`` are wanted, any
    answer was not 2xx.
    """
    output, _ = running.communicate()
    Path(str(running.args[-2])).unlink(missing_ok=True)  # type: ignore[index]
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)\b", output)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    if running.returncode or total is None or "Socket errors" in output or (refused and not refusals):
        raise LoadFailed(output.strip())
    return Load(
        int(total.group(1)),
        float(total.group(2)) * _SECONDS[total.group(3)],
        _percentile(output, 50),
        _percentile(output, 99),
        int(refused.group(1)) if refused else 0,
    )


def post(url: str, script: str, connections: int, seconds: float) -> Load:
    """A whole run."""
    return result(start(url, script, connections, seconds))


def _percentile(output: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)$", output, re.MULTILINE)
    if found is None:
        raise LoadFailed(output.strip())
    return float(found.group(1)) * _SECONDS[found.group(2)]
