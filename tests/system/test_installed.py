"""The wheel, installed where nothing of the project's folder can help it."""

from __future__ import annotations

import signal
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.daemon import Daemon, Installation

pytestmark = pytest.mark.system

OF_EXTRAS = ("kateway.observe.otlp",)
"""Modules that need what an extra of the package brings."""


def test_twistd_help_names_kateway(installed: Installation, tmp_path: Path) -> None:
    done = subprocess.run(
        [installed.command("twistd"), "--help"], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert "An HTTP gateway to Kafka" in next(
        line for line in done.stdout.splitlines() if line.split()[:1] == ["kateway"]
    )


def test_the_wheel_shares_the_twisted_folder_and_does_not_own_it(installed: Installation) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert [name for name in names if name.startswith("twisted/")] == ["twisted/plugins/kateway_plugin.py"]


def test_the_wheel_carries_its_types_and_its_licence(installed: Installation) -> None:
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert "kateway/py.typed" in names
    assert any(name.endswith("/LICENSE") for name in names)
    assert not any(name.startswith("tests") for name in names)


def test_every_module_of_the_wheel_can_be_imported(installed: Installation, tmp_path: Path) -> None:
    program = (
        "import importlib, pkgutil, kateway\n"
        "for module in pkgutil.walk_packages(kateway.__path__, 'kateway.'):\n"
        f"    module.name in {OF_EXTRAS!r} or importlib.import_module(module.name)\n"
    )
    done = subprocess.run(
        [installed.command("python"), "-c", program], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_daemon_lives_is_ready_and_ends_well(daemon: Callable[..., Daemon]) -> None:
    gateway = daemon().start()
    gateway.wait_for_ready()
    # twistd shuts down in good order and then ends by the signal it got
    assert gateway.terminate() in (0, -signal.SIGTERM)
    assert "Traceback" not in gateway.log
