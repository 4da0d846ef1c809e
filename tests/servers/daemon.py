"""kateway as its users have it: a wheel installed in a virtual environment of its own, run by twistd.

Methods block; in a test with a reactor use ``deferToThread`` for all but ``hangup``, ``freeze`` and ``thaw``.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from servers.ports import held_port
from servers.process import Process

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("kateway", "twisted", "setup.py", "pyproject.toml", "README.rst", "LICENSE")


class Installation:
    """A virtual environment that holds kateway's wheel and what the wheel asks for, nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wheel = _wheel(folder / "build")
        # what pip of the tests' own environment puts there is what its own pip would; it is quicker so
        _run(sys.executable, "-m", "venv", "--without-pip", str(folder / "venv"))
        pip = [sys.executable, "-m", "pip", "--python", self.command("python"), "--disable-pip-version-check"]
        _run(*pip, "install", "--quiet", "--no-compile", str(self.wheel))

    def command(self, name: str) -> str:
        return str(self.folder / "venv" / "bin" / name)


def _wheel(folder: Path) -> Path:
    # a copy: building leaves things behind, and takes what an earlier build left
    folder.mkdir(parents=True)
    for name in SOURCES:
        source, copy = ROOT / name, folder / "source" / name
        copy.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", "dropin.cache"))
        else:
            shutil.copy(source, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run(*pip, "--wheel-dir", str(folder), str(folder / "source"))
    (wheel,) = folder.glob("kateway-*.whl")
    return wheel


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


class Daemon:
    """``twistd -n kateway`` with ports of its own, and a data folder unless ``options`` name a store.

    ``twistd`` are options of twistd's own.
    """

    def __init__(
        self,
        installed: Installation,
        folder: Path,
        options: Sequence[str] = (),
        *,
        public_port: int | None = None,
        admin_port: int | None = None,
        env: Mapping[str, str] | None = None,
        twistd: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.public_port = public_port or held_port()
        self.admin_port = admin_port or held_port()
        self.public = f"http://127.0.0.1:{self.public_port}"
        self.admin = f"http://127.0.0.1:{self.admin_port}"
        self.data = folder / "data"
        self._command = [installed.command("twistd"), "-n", "--pidfile=", *twistd, "kateway", *options]
        self._command += ["--public", f"tcp:{self.public_port}:interface=127.0.0.1"]
        self._command += ["--admin", f"tcp:{self.admin_port}:interface=127.0.0.1"]
        if not {"--data", "--config", "--kafka"} & set(options):
            self._command += ["--data", str(self.data)]
        # nothing of the tests' own environment may help it to find kateway
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
        self._env = {**inherited, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._process: Process | None = None

    def launch(self) -> Daemon:
        """Starts it and does not wait."""
        self._process = Process(self._command, log=self.folder / "daemon.log", cwd=self.folder, env=self._env)
        return self

    def start(self) -> Daemon:
        """Starts it and waits until ``/live`` says 200."""
        self.launch()
        self.process.wait_until(lambda: self.status("/live") == 200, 30)
        return self

    @property
    def process(self) -> Process:
        if self._process is None:
            raise RuntimeError("the daemon was never started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.process.output()

    def status(self, path: str) -> int:
        """The status of a GET on the public listener; 0 where nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.public_port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def wait_for_ready(self, status: int = 200, timeout_seconds: float = 30.0) -> None:
        self.process.wait_until(lambda: self.status("/ready") == status, timeout_seconds)

    def hangup(self) -> None:
        self.process.signal(signal.SIGHUP)

    def freeze(self) -> None:
        self.process.freeze()

    def thaw(self) -> None:
        self.process.thaw()

    def terminate(self, timeout_seconds: float = 30.0) -> int:
        """TERM; gives the exit code."""
        return self.process.stop(timeout_seconds)

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        if self._process is not None and self._process.exit_code is None:
            self._process.kill()
