"""The examples do what they say, against a daemon."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.daemon import ROOT, Daemon, Installation
from servers.process import Process

pytestmark = pytest.mark.system


def publish(installed: Installation, url: str, lines: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [installed.command("python"), str(ROOT / "examples" / "publish.py"), url, *arguments],
        input=lines,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_publisher_prints_where_each_line_went(installed: Installation, daemon: Callable[..., Daemon]) -> None:
    gateway = daemon().start()
    done = publish(installed, f"{gateway.public}/v1/topics/foobar", "one\ntwo\nthree\n", "key")
    assert (done.returncode, done.stderr) == (0, "")
    partitions, offsets = zip(*(line.split(":") for line in done.stdout.split()), strict=True)
    assert len(set(partitions)) == 1
    assert offsets == ("0", "1", "2")


def test_the_publisher_says_what_is_wrong(installed: Installation, daemon: Callable[..., Daemon]) -> None:
    gateway = daemon().start()
    done = publish(installed, f"{gateway.public}/v1/topics/foo%20bar", "one\n")
    assert done.returncode != 0
    assert "A version, topic or group is outside its grammar" in done.stderr


def test_the_subscriber_follows_and_comes_back_when_the_gateway_does(
    installed: Installation, daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    gateway = daemon().start()
    url = f"{gateway.public}/v1/topics/foobar"
    publish(installed, url, "one\ntwo\n", "key")
    subscriber = Process(
        [installed.command("python"), str(ROOT / "examples" / "subscribe.py"), f"{url}/group1"],
        log=tmp_path / "subscriber.log",
    )
    try:
        subscriber.wait_until(lambda: {"one", "two"} <= set(subscriber.output().split()), 30)
        gateway.terminate()
        gateway.start()
        publish(installed, url, "three\n", "key")
        subscriber.wait_until(lambda: "three" in subscriber.output().split(), 30)
    finally:
        subscriber.kill()
