"""The demo that README.rst offers: each trouble that it plants is on Overview with its cause; it ends in good order."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from managed import Gateway, Watch
from playwright.sync_api import BrowserContext
from servers.daemon import ROOT, Daemon, Installation
from servers.process import Process

SECONDS = 90.0
WORDS = {
    "analytics/search/clicks/v1/ranking": ("abandoned", r"500 records behind, and no reader for \d+ s"),
    "billing/billing/payments/v1/ledger": ("poisoned", r"partition \d offset \d+ was delivered \d+ times"),
    "warehouse/shop/carts/v1/export": ("blocked", r"its readers had no room for more in \d+% of the last minute"),
    "search/mobile/sessions/v1/profiles": ("leases-run-out", r"\d+% of the leases of the last minute ran out"),
    "mobile/search/queries/v1/suggestions": ("throttled", r"its quota refused \d+ times within the last minute"),
    "analytics/warehouse/stock/v1/backfill": ("catching-up", r"\d+ records behind, done in .* at this rate"),
    "warehouse/shop/orders/v1/picking": ("keeping-up", r"\d+ records behind, and \d+ more each second"),
}
TROUBLES = [name for name, (state, _) in WORDS.items() if state not in {"catching-up", "keeping-up"}]


@pytest.fixture
def demo_gateway(installed: Installation, tmp_path: Path) -> Iterator[Gateway]:
    daemon = Daemon(installed, tmp_path, env={"KATEWAY_REGISTRY_DRIVER": "embedded"}).start()
    try:
        yield Gateway(daemon)
    finally:
        daemon.terminate()


@pytest.fixture
def demo(installed: Installation, demo_gateway: Gateway, tmp_path: Path) -> Iterator[Callable[[], Process]]:
    """Starts the script as README.rst does, with the Python that kateway is installed for."""
    started: list[Process] = []
    daemon = demo_gateway.daemon
    command = [installed.command("python"), str(ROOT / "bench" / "demo.py")]
    command += ["--admin", daemon.admin, "--public", daemon.public]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}

    def start() -> Process:
        log = tmp_path / f"demo-{len(started)}.log"
        started.append(Process(command, log=log, env={**env, "PYTHONDONTWRITEBYTECODE": "1"}))
        return started[-1]

    yield start
    for process in started:
        if process.exit_code is None:
            process.kill()


def wrong(gateway: Gateway) -> dict[str, dict[str, str] | None]:
    """Groups that do not have the verdict that was planted, or not in its words."""
    found = {row["name"]: row["verdict"] for row in gateway.admin("GET", "groups?limit=100")["items"]}
    return {
        name: found.get(name)
        for name, (state, words) in WORDS.items()
        if name not in found or found[name]["state"] != state or not re.search(words, found[name]["reason"])
    }


def test_readme_offers_it_in_two_commands() -> None:
    text = (ROOT / "README.rst").read_text(encoding="utf-8")
    commands = ["KATEWAY_REGISTRY_DRIVER=embedded .venv/bin/twistd -n kateway", ".venv/bin/python bench/demo.py"]
    assert "\n".join(f"    {command}" for command in commands) in text


@pytest.mark.timeout(300)
def test_each_planted_trouble_is_on_overview_with_its_cause_and_can_be_planted_again(
    demo_gateway: Gateway, demo: Callable[[], Process], context: BrowserContext, watches: list[Watch]
) -> None:
    first = demo()
    first.wait_until(lambda: not wrong(demo_gateway), SECONDS)
    page = context.new_page()
    watches.append(Watch(page, demo_gateway.daemon.admin))
    page.goto(demo_gateway.url)
    said = page.get_by_role("status")
    for name in TROUBLES:
        state, words = WORDS[name]
        said.get_by_text(re.compile(f"{re.escape(name)}: {state}, .*{words}")).wait_for()
    behind = page.get_by_role("table", name="Groups")
    behind.get_by_role("row").filter(has_text="stock/v1/backfill").get_by_text("done in").wait_for()
    behind.get_by_role("row").filter(has_text="orders/v1/picking").get_by_text("more each second").wait_for()
    page.get_by_text(re.compile(r"mobile [\d,.\s]+ refused")).wait_for()
    first.signal(signal.SIGINT)
    assert first.wait(20) == 0, first.output()
    assert "demo: ended" in first.output()
    second = demo()
    second.wait_until(lambda: "abandoned" in second.output().partition("Found by the gateway")[2], SECONDS)
    second.signal(signal.SIGINT)
    assert second.wait(20) == 0, second.output()
    assert "Traceback" not in first.output() + second.output()
    assert "Traceback" not in demo_gateway.daemon.log
