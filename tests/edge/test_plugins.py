"""The package of docs/plugins.rst, installed as pip installs it: each of its plugins at work in one gateway."""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from administered import Administered, prepared
from gateways import LOOPBACK, eventually

from kateway.cli.main import main
from kateway.config.file import load
from kateway.config.schema import Config, PluginStorageConfig
from kateway.daemon.check import check
from kateway.errors import ConfigError

PACKAGE = Path(__file__).parents[1] / "plugins_package"
here = pytest_twisted.ensureDeferred
TOKEN = {"Authorization": "Bearer abracadabra"}
STORES_LEFT = f"{tempfile.gettempdir()}/kateway-scratch-*"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ``sys.path`` with the package in it."""
    folder = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    for each in PACKAGE.rglob("*"):
        if each.is_file() and "__pycache__" not in each.parts:
            copy = source / each.relative_to(PACKAGE)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(each.read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*pip, "--target", str(folder), str(source)], check=False, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def settings(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Config]:
    """The configuration of the page, with ports of its own."""
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.chdir(tmp_path)
    found = load(PACKAGE / "gateway.toml")
    yield attrs.evolve(found, http=attrs.evolve(found.http, public=(LOOPBACK,), admin=(LOOPBACK,), drain_seconds=3))
    for name in [name for name in sys.modules if name.startswith("kateway_examples")]:
        del sys.modules[name]


@pytest_twisted.async_yield_fixture
async def plugged(settings: Config) -> AsyncIterator[Administered]:
    made = Administered(settings)
    yield await prepared(made)
    await made.stop()


def text(name: str) -> str:
    return Path(name).read_text()


def in_the_way(name: str) -> None:
    """Puts a directory where a file is that a thread may write at this moment, and so make anew."""
    while not Path(name).is_dir():
        Path(name).unlink(missing_ok=True)
        with suppress(FileExistsError):
            Path(name).mkdir()


def out_of_the_way(name: str) -> None:
    Path(name).rmdir()


async def states(gateway: Administered) -> dict[str, dict[str, Any]]:
    return {each.pop("name"): each for each in (await gateway.admin("GET", "/plugins")).json()["items"]}


@here
async def test_authenticator_names_the_caller_of_a_token(plugged: Administered) -> None:
    assert (await plugged.request("POST", "/v1/topics/foo", b"x", headers=TOKEN)).status == 201
    refused = await plugged.request("POST", "/v1/topics/foo", b"x", headers={"Authorization": "Bearer other"})
    assert (refused.status, refused.code) == (401, "unauthorized")
    assert "Bearer" in (refused.headers.getRawHeaders("www-authenticate") or [])
    assert (await plugged.publish("app1", "foo")).status == 201


@here
async def test_authorizer_refuses_publishes_of_a_frozen_application_and_lets_it_read(plugged: Administered) -> None:
    await plugged.topic("app2/own/v1")
    refused = await plugged.publish("app2", "own")
    assert (refused.status, refused.code) == (403, "denied")
    assert b"is being moved" in refused.body
    await plugged.publish("app1", "foo", b"hello")
    assert (await plugged.read("app2", "foo/g1")).body == b"hello"


@here
async def test_audit_sink_writes_its_lines_beside_the_gateways_own_file(plugged: Administered) -> None:
    await plugged.publish("app1", "foo", b"hello")
    await eventually(lambda: "app1/app1-pub publish app1/foo/v1 ok\n" in text("audit.txt"))
    assert "admin topic.put app1/foo/v1 ok\n" in text("audit.txt")
    await eventually(lambda: Path("data/audit.jsonl").exists())


@here
async def test_transforms_change_and_refuse_records_by_name_and_options(plugged: Administered) -> None:
    path = "/transforms/app1/foo/v1"
    steps = [{"plugin": "limited", "options": {"max_value_bytes": 5}}, {"plugin": "upper"}]
    await plugged.change("PUT", path, {"in": steps})
    assert (await plugged.publish("app1", "foo", b"hello")).status == 201
    refused = await plugged.publish("app1", "foo", b"hello!")
    assert (refused.status, refused.code) == (422, "rejected-by-transform")
    assert (await plugged.read("app2", "foo/g1")).body == b"HELLO"
    assert (await states(plugged))["transforms/upper"]["state"] == "loaded"


@here
@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ({"plugin": "lower"}, "/in/0/plugin: there is no such plugin (limited, upper)"),
        ({"plugin": "upper", "options": {"x": 1}}, "/in/0/options: x: there is no such option"),
        (
            {"plugin": "limited", "options": {"max_value_bytes": "5"}},
            "/in/0/options: max_value_bytes: must be a whole number, is '5'",
        ),
    ],
)
async def test_step_that_names_no_plugin_or_wrong_options_is_refused_with_its_place(
    plugged: Administered, step: dict[str, Any], fault: str
) -> None:
    refused = await plugged.admin("PUT", "/transforms/app1/foo/v1", {"in": [step]})
    assert (refused.status, refused.json()["detail"]) == (400, fault)


@here
async def test_store_keeps_records_until_it_stops(plugged: Administered) -> None:
    await plugged.publish("app1", "foo", b"kept")
    assert (await plugged.read("app2", "foo/g1")).body == b"kept"
    stores = (await plugged.admin("GET", "/status")).json()["stores"]
    assert (stores["default"]["driver"], stores["default"]["healthy"]) == ("scratch", True)
    folder = str(plugged.service.parts.storing.stores["default"]._folder)  # type: ignore[attr-defined]
    assert os.listdir(folder)
    await plugged.stop()
    assert folder not in glob.glob(STORES_LEFT)


@here
async def test_metrics_sink_gets_the_figures_each_interval(plugged: Administered) -> None:
    await eventually(Path("kateway.prom").exists)
    first = text("kateway.prom")
    assert "\nkateway_http_connections{" in first
    await eventually(lambda: text("kateway.prom") != first)


@here
async def test_every_plugin_is_listed_with_its_distribution_version_and_state(plugged: Administered) -> None:
    found = await states(plugged)
    ours = {name: each for name, each in found.items() if each["distribution"] == "kateway-examples"}
    assert {name: each["state"] for name, each in ours.items()} == {
        "authenticators/tokens": "loaded",
        "authorizers/frozen": "loaded",
        "audit_sinks/lines": "loaded",
        "transforms/limited": "not_loaded",
        "transforms/upper": "not_loaded",
        "stores/scratch": "loaded",
        "metrics_sinks/textfile": "loaded",
    }
    assert {each["version"] for each in ours.values()} == {"1.2"}
    own = {name: each["state"] for name, each in found.items() if each["distribution"] == "kateway"}
    assert own == {
        "authenticators/client-certificate": "not_loaded",
        "authenticators/jwt": "not_loaded",
        "authenticators/key-secret": "loaded",
        "authorizers/bindings": "not_loaded",
        "audit_sinks/file": "loaded",
        "audit_sinks/topic": "not_loaded",
        "stores/embedded": "not_loaded",
        "stores/kafka": "not_loaded",
    }


@here
async def test_sink_that_fails_is_taken_out_and_comes_back(plugged: Administered) -> None:
    await plugged.publish("app1", "foo")
    await eventually(Path("audit.txt").exists)
    in_the_way("audit.txt")
    state: dict[str, Any] = {"state": "loaded"}
    while state["state"] != "taken_out":
        await plugged.publish("app1", "foo")
        state = (await states(plugged))["audit_sinks/lines"]
    assert state["last_error"].startswith("IsADirectoryError")
    assert state["failures"] == 5
    await plugged.publish("app2", "foo")
    assert plugged.service.parts.audit.queued
    out_of_the_way("audit.txt")
    await plugged.stop()
    assert "app2/app2-pub publish app2/foo/v1 denied\n" in text("audit.txt")


def test_options_are_checked_by_the_plugins_own_class(settings: Config) -> None:
    wrong = attrs.evolve(
        settings,
        auth=attrs.evolve(settings.auth, options={"tokens": {"applications": {"t": 1}}, "frozen": {"aplications": []}}),
        audit=attrs.evolve(settings.audit, options={}),
        storage={"default": PluginStorageConfig(driver="scratch", options={"max_bytes": True})},
        metrics=attrs.evolve(settings.metrics, options={"textfile": {"path": "figures.txt"}}),
    )
    from twisted.internet import reactor

    with pytest.raises(ConfigError) as refused:
        check(wrong, reactor)
    assert sorted(refused.value.problems) == [
        "audit.options.lines.path: is needed",
        "auth.options.frozen.aplications: there is no such option",
        "auth.options.frozen.applications: is needed",
        "auth.options.tokens.applications: must be a table of texts, is {'t': 1}",
        "metrics.options.textfile.path: the collector reads *.prom only, not 'figures.txt'",
        "storage.default.options.max_bytes: must be a whole number, is True",
    ]
    check(settings, reactor)
    assert not glob.glob(STORES_LEFT)


@here
async def test_command_line_lists_them(plugged: Administered, capsys: pytest.CaptureFixture[str]) -> None:
    from twisted.internet import reactor
    from twisted.internet.threads import deferToThreadPool

    command = ["plugins", "--url", f"http://127.0.0.1:{plugged.admin_port}"]
    assert await deferToThreadPool(reactor, reactor.getThreadPool(), main, command) == 0  # type: ignore[attr-defined]
    assert "transforms/limited" in capsys.readouterr().out
