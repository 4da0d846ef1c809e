"""The session of README.rst is run as it stands, on a port of the test's own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.daemon import ROOT, Daemon

pytestmark = pytest.mark.system

README = (ROOT / "README.rst").read_text(encoding="utf-8")


def session() -> list[tuple[str, list[str]]]:
    """Each command of the README's console blocks with the lines that are shown after it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^\.\. code-block:: console\n\n((?:    .*\n|\n)+)", README, re.MULTILINE):
        for line in filter(None, (each.strip() for each in block.splitlines())):
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def alike(line: str) -> str:
    """A line without what differs from run to run: the place that a record got."""
    return re.sub(r"(partition|offset)(\"?[:=] ?)\d+", r"\1\g<2>0", line, flags=re.IGNORECASE)


def shell(command: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], check=False, capture_output=True, text=True, cwd=folder, timeout=60
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stderr}"
    return done.stdout


def test_the_session_has_the_two_commands_that_have_to_work() -> None:
    commands = [command for command, _ in session()]
    assert commands[:2] == [
        "curl -i -XPOST -H \"Pubkey: mypubkey\" -d 'm=hello world'"
        ' "http://localhost:9090/v1/topics/foobar?ack=2&timeout=1&retry=3"',
        'curl -i "http://localhost:9090/v1/topics/foobar/group1?limit=10000000"',
    ]


@pytest.mark.timeout(240)
def test_the_session_runs_and_shows_what_the_readme_shows(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    gateway = daemon().start()
    for command, shown in session():
        output = shell(command.replace("localhost:9090", f"localhost:{gateway.public_port}"), tmp_path)
        lines = [alike(line) for line in output.splitlines()]
        for expected in shown:
            assert any(line.startswith(alike(expected)) for line in lines), (
                f"{command} did not show {expected}:\n{output}"
            )
