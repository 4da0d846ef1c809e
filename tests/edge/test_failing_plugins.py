"""Plugins that raise or are slow, over HTTP: what their callers hear, and what the admin API shows."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from administered import Administered, guarded, prepared
from gateways import RunningGateway, config
from twisted.internet import reactor

from kateway.config.schema import AuditConfig, Config, PluginsConfig, RegistryConfig
from kateway.daemon.check import check
from kateway.errors import ConfigError

here = pytest_twisted.ensureDeferred
PATH = "/transforms/app1/foo/v1"
LIMITS = PluginsConfig(plugin_max_failures=3, plugin_max_seconds=0.05, plugin_probe_seconds=0.3)
MODULE = """
import time
from twisted.internet.defer import Deferred

def odd(record):
    if record.value.startswith(b"bad"):
        raise ValueError("it is bad")
    if record.value.startswith(b"slow"):
        time.sleep(0.06)
    return record._replace(value=record.value + b"!")

class Hung:
    def __init__(self, context):
        pass

    async def write(self, events):
        await Deferred()

    async def close(self):
        pass
"""
POINTS = """[kateway.transforms]
odd = odd_plugins:odd
broken = odd_plugins_broken:odd
missing = odd_plugins:nothing
[kateway.audit_sinks]
odd = odd_plugins:odd
hung = odd_plugins:Hung
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site"
    information = folder / "odd_plugins-0.3.dist-info"
    information.mkdir(parents=True)
    (folder / "odd_plugins.py").write_text(MODULE)
    (folder / "odd_plugins_broken.py").write_text("raise RuntimeError('no licence')\n")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-plugins\nVersion: 0.3\n")
    (information / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "odd_plugins", raising=False)


@pytest_twisted.async_yield_fixture
async def shop(tmp_path: Path, package: None) -> AsyncIterator[Administered]:
    made = Administered(guarded(tmp_path / "data", plugins=LIMITS))
    yield await prepared(made)
    await made.stop()


async def state(shop: RunningGateway, name: str = "transforms/odd") -> dict[str, Any]:
    assert isinstance(shop, Administered)
    (found,) = [each for each in (await shop.admin("GET", "/plugins")).json()["items"] if each["name"] == name]
    return dict(found)


@here
async def test_transform_that_keeps_raising_is_taken_out_and_tried_after_its_pause(shop: Administered) -> None:
    await shop.change("PUT", PATH, {"in": [{"plugin": "odd"}]})
    for _ in range(3):
        refused = await shop.publish("app1", "foo", b"bad")
        assert (refused.status, refused.code) == (422, "transform-failed")
        assert refused.json()["detail"] == "plugin odd: ValueError: it is bad"
    refused = await shop.publish("app1", "foo", b"good")
    assert (refused.status, refused.code) == (422, "transform-failed")
    assert "taken out after 3 failures in a row (ValueError: it is bad)" in refused.json()["detail"]
    shown = await state(shop)
    assert (shown["state"], shown["failures"], shown["version"]) == ("taken_out", 3, "0.3")
    answers = []
    while not answers or answers[-1].status != 201:
        answers.append(await shop.publish("app1", "foo", b"good"))
    assert (await state(shop))["state"] == "loaded"
    assert (await shop.read("app2", "foo/g1?limit=9&idle=0.2")).body == b"good!\n"


@here
async def test_slow_transform_is_taken_out_though_its_results_hold(shop: Administered) -> None:
    await shop.change("PUT", PATH, {"in": [{"plugin": "odd"}]})
    for _ in range(3):
        assert (await shop.publish("app1", "foo", b"slow")).status == 201
    assert (await shop.publish("app1", "foo", b"good")).status == 422
    assert "0.05 s are allowed" in (await state(shop))["last_error"]


@here
@pytest.mark.parametrize(("on_error", "seen"), [("pass", b"bad\ngood!\n"), ("dead", b"good!\n")])
async def test_record_that_a_plugin_fails_on_goes_the_way_of_on_error(
    shop: Administered, on_error: str, seen: bytes
) -> None:
    await shop.change("PUT", PATH, {"out": [{"plugin": "odd"}], "on_error": on_error})
    for value in (b"bad", b"good"):
        await shop.publish("app1", "foo", value)
    assert (await shop.read("app1", "foo/g1?limit=9&idle=0.3")).body == seen
    if on_error == "dead":
        await shop.change("DELETE", PATH)
        assert (await shop.read("app1", "foo/g1?queue=dead&limit=9&idle=0.3")).body == b"bad\n"


@here
async def test_steps_of_a_binding_and_of_a_try_go_through_plugins(shop: Administered) -> None:
    steps = [{"plugin": "odd"}]
    await shop.change("PUT", "/bindings/app2/app1/foo/v1", {"groups": ["*"], "transforms": {"out": steps}})
    await shop.publish("app1", "foo", b"good")
    assert (await shop.read("app2", "foo/g1?limit=9&idle=0.2")).body == b"good!\n"
    tried = await shop.admin(
        "POST", f"{PATH}/try", {"direction": "in", "steps": steps, "records": [{"value": "x"}, {"value": "bad"}]}
    )
    assert tried.status == 200
    assert b"x!" in tried.body
    assert b"it is bad" in tried.body


@here
@pytest.mark.parametrize(("name", "why"), [("broken", "no licence"), ("missing", "nothing")])
async def test_plugin_that_cannot_be_imported_is_refused_with_the_reason(
    shop: Administered, name: str, why: str
) -> None:
    refused = await shop.admin("PUT", PATH, {"in": [{"plugin": name}]})
    assert refused.status == 400
    assert f"{name!r} cannot be loaded" in refused.json()["detail"]
    assert why in refused.json()["detail"]
    shown = await state(shop, f"transforms/{name}")
    assert shown["state"] == "not_loaded"
    assert why in shown["last_error"]


@here
async def test_transform_of_the_configuration_file_names_its_plugin_in_open_mode(tmp_path: Path, package: None) -> None:
    running = RunningGateway(
        attrs.evolve(config(tmp_path / "data"), transforms={"default/foo/v1": {"in": [{"plugin": "odd"}]}}), "hot"
    )
    await running.start()
    try:
        assert (await running.request("POST", "/v1/topics/foo", b"x")).status == 201
        assert (await running.request("GET", "/v1/topics/foo/g1?limit=9&idle=0.2")).body == b"x!\n"
    finally:
        await running.stop()


def test_unknown_plugin_is_a_fault_of_the_configuration_and_of_the_registry_file(tmp_path: Path, package: None) -> None:
    (tmp_path / "registry.toml").write_text(
        '[applications.app1]\n[topics."app1/foo/v1"]\n[transforms."app1/foo/v1"]\nin = [{ plugin = "none" }]\n'
    )
    of_file: Config = attrs.evolve(
        config(tmp_path / "data"), registry=RegistryConfig(driver="file", path=str(tmp_path / "registry.toml"))
    )
    in_open_mode = attrs.evolve(config(tmp_path / "data"), transforms={"default/foo/v1": {"in": [{"plugin": "none"}]}})
    for wrong in (of_file, in_open_mode):
        with pytest.raises(ConfigError, match=r"/in/0/plugin: there is no such plugin .*odd"):
            check(wrong, reactor)


def test_factory_that_raises_is_a_fault_of_the_configuration(tmp_path: Path, package: None) -> None:
    settings = config(tmp_path / "data")
    settings = attrs.evolve(settings, audit=attrs.evolve(settings.audit, sinks=("odd",)))
    with pytest.raises(ConfigError, match=r"audit\.options\.odd: it cannot be made: AttributeError"):
        check(settings, reactor)


@here
async def test_gateway_stops_though_a_sink_never_ends_its_write(
    tmp_path: Path, package: None, logged_errors: list[dict[str, Any]]
) -> None:
    limits = PluginsConfig(plugin_max_write_seconds=0.2)
    shop = Administered(guarded(tmp_path / "data", plugins=limits, audit=AuditConfig(sinks=("hung",))))
    await prepared(shop)
    gc.collect()  # a write that only its own Deferred knows of must not be collected, and so look ended
    shown: dict[str, Any] = {"state": ""}
    while shown["state"] != "failing":
        shown = await state(shop, "audit_sinks/hung")
    assert shown["last_error"].startswith("a write has lasted for")
    began = time.monotonic()
    await shop.stop()
    assert time.monotonic() - began < 5
    (error,) = logged_errors
    assert error["doing"] == "stopping the audit"
    logged_errors.clear()


@here
async def test_list_of_plugins_comes_in_pages(shop: Administered) -> None:
    names: list[str] = []
    after = ""
    while True:
        page = (await shop.admin("GET", f"/plugins?limit=3{after}")).json()
        names += [each["name"] for each in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert names == sorted(names)
    assert {"transforms/odd", "stores/kafka", "authorizers/bindings"} <= set(names)
    assert (await shop.admin("GET", "/plugins?sort=x")).status == 400
