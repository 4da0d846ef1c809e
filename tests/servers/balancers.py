"""Debian's HAProxy and nginx before gateways, with the configurations that kateway ships. Methods block."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from servers.jars import ServersMissing
from servers.ports import held_port
from servers.process import Process

CONF = Path(__file__).resolve().parents[2] / "conf"


class Balancer:
    """A load balancer on loopback: ``haproxy`` or ``nginx``. Of the shipped file only addresses are changed, and for
    nginx the folders that it writes to, on its command line.
    """

    def __init__(self, kind: str, gateways: Sequence[int]) -> None:
        binary = shutil.which(kind) or shutil.which(kind, path="/usr/sbin")
        if binary is None:
            raise ServersMissing(f"these tests need {kind} (Debian's package of that name)")
        self._home = Path(tempfile.mkdtemp(prefix=f"kateway-{kind}-"))
        self.port = held_port()
        shipped = {"haproxy": "haproxy.cfg", "nginx": "nginx.conf"}[kind]
        text = (CONF / shipped).read_text(encoding="utf-8")
        for number, port in enumerate(gateways, 1):
            text = text.replace(f"10.0.0.1{number}:9090", f"127.0.0.1:{port}")
        text = re.sub(r"(?m)^(\s+(?:bind|listen)) (?::80|80)\b", rf"\1 127.0.0.1:{self.port}", text)
        self.config = self._home / shipped
        if kind == "haproxy":
            self._command = [binary, "-db", "-f", str(self.config)]
            self._check = [binary, "-c", "-f", str(self.config)]
        else:
            folders = "".join(
                f"    {name}_temp_path {self._home}/{name};\n"
                for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            text = text.replace("http {\n", f"http {{\n{folders}", 1)
            directives = f"daemon off; pid {self._home}/pid; error_log {self._home}/error.log warn;"
            self._command = [binary, "-p", str(self._home), "-e", str(self._home / "start.log"), "-c", str(self.config)]
            self._command += ["-g", directives]
            self._check = [*self._command, "-t"]
        self.config.write_text(text, encoding="utf-8")
        self._process: Process | None = None

    def check(self) -> tuple[int, str]:
        """What the program itself says of the configuration: its exit code and its words."""
        done = subprocess.run(self._check, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout + done.stderr

    def start(self) -> Balancer:
        self._process = Process(self._command, log=self._home / "balancer.log", cwd=self._home)
        self._process.wait_until(self._answers, 20)
        return self

    def close(self) -> None:
        if self._process is not None:
            self._process.stop(5)
        shutil.rmtree(self._home, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True
