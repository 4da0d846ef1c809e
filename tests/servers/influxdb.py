"""One real InfluxDB 1, Debian's, on loopback, whose users are asked for their passwords. Methods block."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from servers.jars import ServersMissing
from servers.ports import held_port
from servers.process import Process

USER, PASSWORD = "root", "a password: with a colon"
_CONFIG = """
reporting-enabled = false
bind-address = "127.0.0.1:{backup_port}"
[meta]
  dir = "{home}/meta"
[data]
  dir = "{home}/data"
  wal-dir = "{home}/wal"
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  auth-enabled = true
"""


class InfluxServer:
    """A server with a folder of its own; ``start`` makes an administrator named ``USER``."""

    def __init__(self) -> None:
        self._binary = shutil.which("influxd")
        if self._binary is None:
            raise ServersMissing("these tests need influxd (Debian's package influxdb)")
        self._home = Path(tempfile.mkdtemp(prefix="kateway-influxdb-"))
        self.port = held_port()
        self._process: Process | None = None
        (self._home / "influxdb.conf").write_text(
            _CONFIG.format(home=self._home, port=self.port, backup_port=held_port())
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> InfluxServer:
        assert self._binary is not None
        command = [self._binary, "run", "-config", str(self._home / "influxdb.conf")]
        # nothing of the tests' environment may be an option of it
        self._process = Process(command, log=self._home / "influxdb.log", env={"HOME": str(self._home)})
        self._process.wait_until(self._answers)
        if not (self._home / "named").exists():
            self.query(f"CREATE USER {USER} WITH PASSWORD '{PASSWORD}' WITH ALL PRIVILEGES")
            (self._home / "named").touch()
        return self

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def query(self, text: str, database: str = "") -> list[dict[str, Any]]:
        """The series that an InfluxQL statement gives."""
        data = urllib.parse.urlencode({"q": text, "db": database}).encode()
        request = urllib.request.Request(f"{self.url}/query", data)
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            result = json.load(answer)["results"][0]
        if "error" in result:
            raise RuntimeError(result["error"])
        found: list[dict[str, Any]] = result.get("series", [])
        return found

    def last(self, measurement: str, database: str, **tags: str) -> dict[str, Any]:
        """The newest point with these tags, by field and tag; empty where there is none."""
        chosen = " AND ".join(f"\"{name}\" = '{value}'" for name, value in tags.items())
        where = f" WHERE {chosen}" if chosen else ""
        series = self.query(f'SELECT * FROM "{measurement}"{where} ORDER BY time DESC LIMIT 1', database)
        return dict(zip(series[0]["columns"], series[0]["values"][0], strict=True)) if series else {}

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/ping", timeout=5) as answer:
                return bool(answer.status == 204)
        except (OSError, urllib.error.URLError):
            return False
