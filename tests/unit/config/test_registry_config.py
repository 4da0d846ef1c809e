"""The registry's options: what a driver cannot do without is a fault of the configuration."""

from __future__ import annotations

from typing import Any

import pytest

from kateway.config.file import from_table
from kateway.daemon.check import across
from kateway.errors import ConfigError


@pytest.mark.parametrize(
    ("registry", "path"),
    [
        ({"driver": "file"}, "registry.path"),
        ({"driver": "zookeeper"}, "registry.hosts"),
        ({"driver": "zookeeper", "hosts": "h:1", "access": "creator"}, "registry.access"),
        (
            {"driver": "zookeeper", "hosts": "h:1", "credentials_file": "f", "credentials_env": "E"},
            "registry.credentials_env",
        ),
        ({"driver": "zookeeper", "hosts": "h:1", "session_timeout_seconds": 0}, "registry.session_timeout_seconds"),
        ({"driver": "zookeeper", "hosts": "h:1", "write_timeout_seconds": -1}, "registry.write_timeout_seconds"),
        ({"driver": "zookeeper", "hosts": "h:1,h:x/root"}, "registry.hosts"),
        ({"driver": "zookeeper", "hosts": "h:1,"}, "registry.hosts"),
        ({"driver": "ldap"}, "registry.driver"),
    ],
)
def test_option_that_a_driver_needs_is_named(registry: dict[str, Any], path: str) -> None:
    try:
        problems = across(from_table({"registry": registry}))
    except ConfigError as error:
        problems = error.problems
    assert [problem.partition(":")[0] for problem in problems] == [path]


def test_sound_options_are_taken() -> None:
    config = from_table(
        {"registry": {"driver": "zookeeper", "hosts": "h:1/root", "credentials_env": "ZK", "access": "creator"}}
    )
    assert (config.registry.hosts, config.registry.access) == ("h:1/root", "creator")
    assert from_table({}).registry.driver == "open"
