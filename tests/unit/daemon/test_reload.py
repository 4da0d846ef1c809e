"""The options that a reload may change while the gateway runs, and the report of the last one."""

from __future__ import annotations

from typing import Any

import pytest

from kateway.config.file import from_table
from kateway.config.schema import Config
from kateway.daemon.reload import FIXED, Reloads, cannot_change
from kateway.errors import ConfigError, RegistryUnavailable


def named(table: dict[str, Any]) -> list[str]:
    return [problem.partition(":")[0] for problem in cannot_change(Config(), from_table(table))]


def test_nothing_changed_is_fine() -> None:
    assert cannot_change(Config(), from_table({})) == []


@pytest.mark.parametrize(
    "table",
    [
        {"http": {"max_body_bytes": 5000, "cors_origins": ["https://app.example"]}},
        {"delivery": {"settle_seconds": 1.0}},
        {"auth": {"methods": ["jwt"], "jwt": {"audience": "kateway"}}},
        {"quotas": {"headers": False}},
        {"audit": {"publishes": True}},
        {"admin": {"hosts": ["kateway.example"]}},
        {"metrics": {"influx": {"url": "http://127.0.0.1:8086", "database": "d", "tags": {"site": "east"}}}},
    ],
)
def test_limits_and_rules_change_in_place(table: dict[str, Any]) -> None:
    assert named(table) == []


@pytest.mark.parametrize(
    ("table", "paths"),
    [
        ({"http": {"public": ["tcp:9999"], "max_body_bytes": 5000}}, ["http.public"]),
        ({"delivery": {"session_timeout_seconds": 20.0}}, ["delivery.session_timeout_seconds"]),
        ({"delivery": {"instance_name": "east-1"}}, ["delivery.instance_name"]),
        ({"registry": {"driver": "embedded"}}, ["registry.driver"]),
        ({"log": {"format": "json"}}, ["log.format"]),
        ({"storage": {"default": {"path": "elsewhere"}}}, ["storage.default.path"]),
        ({"storage": {"default": {}, "second": {"path": "b"}}}, ["storage.second"]),
        ({"metrics": {"enabled": False, "influx": {"interval_seconds": 5.0}}}, ["metrics.enabled"]),
        ({"audit": {"file": "a.jsonl", "max_files": 3}}, ["audit.file", "audit.max_files"]),
    ],
)
def test_option_that_needs_a_restart_is_named_by_its_path(table: dict[str, Any], paths: list[str]) -> None:
    assert sorted(named(table)) == paths


def test_every_fixed_path_is_an_option() -> None:
    for path in FIXED:
        table, _, option = path.partition(".")
        assert hasattr(getattr(Config(), table), option), path


def test_the_last_reload_is_told() -> None:
    reloads = Reloads(lambda: 1_767_225_600.0)
    assert reloads.status() == {"generation": 1, "last_reload": None}
    reloads.failed(ConfigError(["http.public: no", "log.format: no"]))
    assert reloads.status()["last_reload"] == {
        "at": "2026-01-01T00:00:00Z",
        "ok": False,
        "problems": ["http.public: no", "log.format: no"],
    }
    reloads.failed(RegistryUnavailable("away"))
    assert reloads.status()["generation"] == 1
    assert "away" in reloads.status()["last_reload"]["problems"][0]
    reloads.succeeded()
    assert reloads.status() == {
        "generation": 2,
        "last_reload": {"at": "2026-01-01T00:00:00Z", "ok": True, "problems": []},
    }
