"""A real Prometheus scrapes a gateway and evaluates the shipped rules; its own checker reads rules and figures."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from servers.prometheus import PrometheusServer
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from gateways import RunningGateway, config
from metrics import scrape

from kateway.config.schema import AdminConfig, Config
from kateway.daemon.service import GatewayService
from kateway.errors import ConfigError

here = pytest_twisted.ensureDeferred
CONF = Path(__file__).resolve().parents[2] / "conf"
RULES = CONF / "prometheus-alerts.yml"
TOKEN = "the-admins-token-of-this-test"

Make = Callable[..., PrometheusServer]
Promtool = Callable[..., tuple[int, str]]


async def seen(look: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """What Prometheus says, once it is as it should be."""
    deadline = time.monotonic() + 60
    while not wanted(found := await deferToThread(look)):
        assert time.monotonic() < deadline, found
        await deferLater(reactor, 0.2)
    return found


def shown_by_dashboard() -> list[str]:
    """The dashboard's expressions, with one minute for Grafana's own variables."""
    board = json.loads((CONF / "grafana-dashboard.json").read_text())
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    return [re.sub(r"\$__(rate_interval|range|interval)", "1m", each) for each in panels]


def hurried(folder: Path) -> Path:
    """The shipped rules with a second or two in the place of minutes."""
    rules = folder / "rules.yml"
    rules.write_text(re.sub(r"\[\d+m\]", "[3s]", re.sub(r"for: \d+m", "for: 1s", RULES.read_text())))
    return rules


def test_shipped_rules_are_sound(promtool: Promtool) -> None:
    code, said = promtool("check", "rules", str(RULES))
    assert code == 0, said
    assert "rules found" in said


@here
async def test_prometheus_own_checker_finds_no_fault_in_the_figures(promtool: Promtool, tmp_path: Path) -> None:
    gateway = RunningGateway(config(tmp_path / "data"), "hot")
    await gateway.start()
    try:
        assert (await gateway.request("POST", "/v1/topics/foobar", b"abc")).status == 201
        text = (await scrape(gateway)).body.decode()
    finally:
        await gateway.stop()
    code, said = await deferToThread(promtool, "check", "metrics", text=text)
    assert (code, said) == (0, "")


@here
async def test_prometheus_scrapes_and_a_shipped_rule_fires_and_ends(prometheus: Make, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    settings = attrs.evolve(config(tmp_path / "data"), admin=AdminConfig(token_file=str(token)))
    faults = ["http.max_body_bytes: must be a whole number, is 'x'"]

    def reread() -> Config:
        if faults:
            raise ConfigError(faults)
        return settings

    gateway = RunningGateway(settings, "hot")
    gateway.service = GatewayService(settings, reactor, reread)
    await gateway.start()
    try:
        for _ in range(5):
            assert (await gateway.request("POST", "/v1/topics/foobar", b"abc")).status == 201
        port = gateway.service.ports[-1].getHost().port
        server = await deferToThread(prometheus, f"127.0.0.1:{port}", token, RULES)
        published = 'kateway_publish_records_total{job="kateway",application="default",topic="foobar",version="v1"}'
        await seen(lambda: server.value(published), lambda value: value == 5)
        assert await deferToThread(server.value, 'up{job="kateway"}') == 1
        for expression in shown_by_dashboard():
            await deferToThread(server.value, expression)
        with pytest.raises(ConfigError) as refused:
            await gateway.service.reload()
        assert refused.value.problems == faults
        firing = await seen(server.firing, lambda alerts: "KatewayReloadFailed" in alerts)
        assert "the last reload was refused" in firing["KatewayReloadFailed"]["annotations"]["summary"]
        faults.clear()
        await gateway.service.reload()
        await seen(server.firing, lambda alerts: alerts == {})
        rules = await seen(server.rules, lambda rules: all(each["health"] != "unknown" for each in rules.values()))
        assert len(rules) == RULES.read_text().count("- alert: ")
        assert {name: rule.get("lastError") for name, rule in rules.items() if rule["health"] != "ok"} == {}
        assert [each["lastError"] for each in await deferToThread(server.targets)] == [""]
    finally:
        await gateway.stop()


@here
async def test_shipped_rule_fires_for_a_group_that_is_left_and_ends_with_its_next_reader(
    prometheus: Make, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    gateway = RunningGateway(attrs.evolve(config(tmp_path / "data"), admin=AdminConfig(token_file=str(token))), "hot")
    await gateway.start()
    try:
        for _ in range(3):
            assert (await gateway.request("POST", "/v1/topics/foobar", b"abc")).status == 201
        assert (await gateway.request("GET", "/v1/topics/foobar/g1?limit=1")).status == 200
        observing = gateway.service.http.observing
        assert observing is not None
        await observing.looking.look_at_objects()
        port = gateway.service.ports[-1].getHost().port
        server = await deferToThread(prometheus, f"127.0.0.1:{port}", token, hurried(tmp_path))
        lag = 'kateway_group_lag_records{group="g1"}'
        await seen(lambda: server.value(lag), lambda value: value in {2, 3})
        await gateway.service.parts.groups.let_go("default", "g1", "foobar")
        await observing._ask()
        firing = await seen(server.firing, lambda alerts: "KatewayGroupAbandoned" in alerts)
        assert firing["KatewayGroupAbandoned"]["annotations"]["summary"].startswith("g1 of default is behind in foobar")
        assert await deferToThread(server.value, lag) in {2, 3}
        assert (await gateway.request("GET", "/v1/topics/foobar/g1?limit=3")).status == 200
        await seen(server.firing, lambda alerts: "KatewayGroupAbandoned" not in alerts)
    finally:
        await gateway.stop()
