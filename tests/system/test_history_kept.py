"""A gateway that is killed has its history of before again, up to the last file; the time between is a gap."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.request import Request, urlopen

import pytest
from servers.daemon import Daemon

pytestmark = pytest.mark.system

SECONDS = 60.0
TOPIC = "default/foobar/v1"
CONFIG = """
[history]
snapshot_interval_seconds = 1
[storage.default]
path = "{data}"
"""


def ask(url: str, body: bytes | None = None) -> Any:
    with urlopen(Request(url, body), timeout=20) as response:
        return json.loads(response.read())


def known(gateway: Daemon) -> dict[int, float]:
    """The topic's figures of the last quarter of an hour, by the time of their step."""
    found = ask(f"{gateway.admin}/admin/v1/history?object={TOPIC}&series=in_records&window=15m")
    whole = ask(f"{gateway.admin}/admin/v1/history?series=in_records&window=15m")
    assert whole["step_seconds"] == 5
    figures = found["series"]["in_records"]
    end = int(time.time()) // 10 * 10
    return {end - 10 * back: figure for back, figure in enumerate(reversed(figures)) if figure is not None}


@pytest.mark.timeout(240)
def test_killed_gateway_has_its_history_again(daemon: Callable[..., Daemon], tmp_path: Any) -> None:
    file = tmp_path / "kateway.toml"
    file.write_text(CONFIG.format(data=tmp_path / "data"))
    gateway = daemon("--config", str(file)).start()
    deadline = time.monotonic() + SECONDS
    # a topic that is not there has no history
    ask(f"{gateway.public}/v1/topics/foobar", b"x")
    while sum(1 for figure in known(gateway).values() if figure > 0) < 2:
        assert time.monotonic() < deadline, known(gateway)
        assert ask(f"{gateway.public}/v1/topics/foobar", b"x")["offset"] >= 0
        time.sleep(0.2)
    time.sleep(3)
    before = known(gateway)
    gateway.kill()
    time.sleep(25)
    gateway.start()
    # requests are answered a moment before the file is read
    gateway.process.wait_until(lambda: any(figure > 0 for figure in known(gateway).values()), 20)
    after = known(gateway)
    kept = [figure for at, figure in after.items() if figure > 0]
    assert kept, (before, after)
    assert set(kept) <= set(before.values())
    steps = sorted(after)
    assert any(later - earlier >= 20 for earlier, later in zip(steps, [*steps[1:], time.time()], strict=True)), after
    assert "Traceback" not in gateway.log
    gateway.terminate()
