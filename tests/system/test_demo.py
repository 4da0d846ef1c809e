"""The demo's script where it cannot plant anything: it says why, and how to go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from servers.daemon import ROOT, Daemon
from servers.ports import held_port

pytestmark = pytest.mark.system


def demo(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / "demo.py"), *options]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_demo_before_an_open_gateway_tells_how_to_start_one_with_a_registry(daemon: Callable[..., Daemon]) -> None:
    gateway = daemon().start()
    done = demo("--admin", gateway.admin, "--public", gateway.public)
    assert done.returncode == 1
    assert "this gateway has no registry" in done.stderr
    assert "KATEWAY_REGISTRY_DRIVER=embedded twistd -n kateway" in done.stderr


def test_demo_without_a_gateway_names_the_address() -> None:
    admin = f"http://127.0.0.1:{held_port()}"
    done = demo("--admin", admin)
    assert done.returncode == 1
    assert f"demo: {admin} cannot be reached" in done.stderr
