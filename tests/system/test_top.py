"""``kateway-admin top`` in a terminal of its own, and where its output is no terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from urllib.request import Request, urlopen

import pytest
from servers.daemon import Daemon, Installation

pytestmark = pytest.mark.system

SECONDS = 30.0
COLUMNS, LINES = 80, 12
GROUP = "default/foobar/v1/group1"


@pytest.fixture
def gateway(daemon: Callable[..., Daemon]) -> Daemon:
    """With a group that has read one of three records."""
    started = daemon().start()
    for number in range(3):
        with urlopen(Request(f"{started.public}/v1/topics/foobar", b"%d" % number), timeout=20) as response:
            assert response.status == 201
    with urlopen(f"{started.public}/v1/topics/foobar/group1?limit=1", timeout=20) as response:
        assert response.status == 200
    return started


def command(installed: Installation, gateway: Daemon, *options: str) -> list[str]:
    return [installed.command("kateway-admin"), "--url", gateway.admin, *options]


class Terminal:
    """A command in a terminal of 80 columns."""

    def __init__(self, *arguments: str) -> None:
        self._own, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        self.before = termios.tcgetattr(other)
        self._other = other
        # tests that run in the background of a shell have it ignored, and so would their children
        reset = ("env", "--default-signal=INT")
        self.process = subprocess.Popen(
            (*reset, *arguments), stdin=other, stdout=other, stderr=other, env={**os.environ, "TERM": "xterm"}
        )
        self.shown = ""

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            readable, _, _ = select.select([self._own], [], [], 0.2)
            if readable:
                self.shown += os.read(self._own, 65536).decode()

    def press(self, key: bytes) -> None:
        os.write(self._own, key)

    def settings(self) -> list[object]:
        return list(termios.tcgetattr(self._other))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._own)
        os.close(self._other)


@pytest.mark.parametrize("end", ["q", "Ctrl-C"])
def test_table_is_drawn_again_and_again_until_it_is_ended(installed: Installation, gateway: Daemon, end: str) -> None:
    terminal = Terminal(*command(installed, gateway, "top", "--interval", "0.2"))
    try:
        terminal.wait_for(GROUP)
        with urlopen(f"{gateway.public}/v1/topics/foobar/group2?limit=1", timeout=20) as response:
            assert response.status == 200
        terminal.wait_for("default/foobar/v1/group2")
        for line in re.split(r"[\r\n]+|\x1b\[H", terminal.shown):
            assert len(re.sub(r"\x1b\[[?0-9]*[a-zA-Z]", "", line)) <= COLUMNS
        if end == "q":
            terminal.press(b"q")
        else:
            terminal.process.send_signal(signal.SIGINT)
        # the cursor and the screen of before are back, and the last table stays
        terminal.wait_for("\x1b[?25h\x1b[?1049l")
        assert terminal.process.wait(20) == 0
        assert terminal.settings() == list(terminal.before)
        assert "Traceback" not in terminal.shown
    finally:
        terminal.close()


def test_gateway_that_goes_away_is_named_and_found_again(installed: Installation, gateway: Daemon) -> None:
    terminal = Terminal(*command(installed, gateway, "top", "--interval", "0.2"))
    try:
        terminal.wait_for(GROUP)
        gateway.terminate()
        terminal.wait_for("cannot be reached")
        terminal.shown = ""
        gateway.start()
        # the store keeps a place for it, and nothing reads it
        terminal.wait_for("1 group: 1 abandoned")
        terminal.press(b"q")
        assert terminal.process.wait(20) == 0
    finally:
        terminal.close()


def test_table_is_printed_once_where_the_output_is_no_terminal(installed: Installation, gateway: Daemon) -> None:
    def printed(*options: str) -> str:
        done = subprocess.run(
            command(installed, gateway, "top", *options), check=False, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert GROUP in printed()
    assert "\x1b" not in printed()
    assert printed("--contains", "group9") == "no groups\n"
    (row,) = json.loads(printed("--json", "--limit", "1"))["items"]
    assert row["name"] == GROUP


def test_tail_prints_what_is_written_and_ends_by_an_interrupt(installed: Installation, gateway: Daemon) -> None:
    terminal = Terminal(*command(installed, gateway, "records", "tail", "default/foobar/v1", "--last", "1"))
    try:
        terminal.wait_for(" - ")
        with urlopen(Request(f"{gateway.public}/v1/topics/foobar", b"the newest"), timeout=20) as response:
            assert response.status == 201
        terminal.wait_for(" - the newest")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(20) == 0
        assert "Traceback" not in terminal.shown
    finally:
        terminal.close()
