"""A real Prometheus, Debian's, on loopback, that scrapes one target each second. Methods block."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from servers.jars import ServersMissing
from servers.ports import held_port
from servers.process import Process

_CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: kateway
    static_configs: [{{targets: ["{target}"]}}]
    authorization: {{credentials_file: "{token}"}}
"""


class PrometheusServer:
    """Scrapes ``target``, ``HOST:PORT``, with the token of a file, and evaluates a file of rules."""

    def __init__(self, target: str, token: Path, rules: Path) -> None:
        binary = shutil.which("prometheus")
        if binary is None:
            raise ServersMissing("these tests need prometheus (Debian's package of that name)")
        self._home = Path(tempfile.mkdtemp(prefix="kateway-prometheus-"))
        self.port = held_port()
        (self._home / "prometheus.yml").write_text(_CONFIG.format(target=target, token=token, rules=rules))
        self._command = [
            binary,
            f"--config.file={self._home}/prometheus.yml",
            f"--storage.tsdb.path={self._home}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        self._process: Process | None = None

    def start(self) -> PrometheusServer:
        self._process = Process(self._command, log=self._home / "prometheus.log", cwd=self._home)
        self._process.wait_until(self._ready)
        return self

    def close(self) -> None:
        if self._process is not None:
            self._process.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def value(self, expression: str) -> float | None:
        """What a query gives, its first value; ``None`` where it gives none."""
        found = self._get("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> dict[str, dict[str, Any]]:
        """The alerts that fire, by name."""
        alerts = self._get("alerts")["alerts"]
        return {each["labels"]["alertname"]: each for each in alerts if each["state"] == "firing"}

    def rules(self) -> dict[str, dict[str, Any]]:
        """The rules that were read, by name, with their ``health`` and ``lastError``."""
        groups = self._get("rules")["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def targets(self) -> list[dict[str, Any]]:
        """What is scraped, with ``health`` and ``lastError``."""
        found: list[dict[str, Any]] = self._get("targets")["activeTargets"]
        return found

    def _get(self, name: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{name}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


def promtool(*arguments: str, text: str = "") -> tuple[int, str]:
    """Runs Prometheus' own checker; its exit code and what it says."""
    binary = shutil.which("promtool")
    if binary is None:
        raise ServersMissing("these tests need promtool (Debian's package prometheus)")
    done = subprocess.run([binary, *arguments], input=text, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr
