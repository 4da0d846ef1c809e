"""The admin API's routes on a whole gateway: all are there, and those that change no registry need none to write to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytest_twisted
from administered import REGISTRY, Administered, Make

from kateway.config.schema import RegistryConfig
from kateway.web.admin.api import ROUTES


@pytest_twisted.ensureDeferred
async def test_every_route_has_its_handler_on_a_gateway(hot: Administered) -> None:
    missing = []
    for route in ROUTES:
        answer = await hot.admin("OPTIONS", re.sub(r"\{[a-z]+\}", "x", route.path))
        if route.method not in (answer.header("allow") or ""):
            missing.append(route[:2])
    assert missing == []


GROUP = "/groups/app1/app1/foo/v1/g"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/records/app1/foo/v1", {}, 201),
        ("PUT", f"{GROUP}/offsets", {"to": "latest"}, 200),
        ("POST", f"{GROUP}/redrive", {"all": True}, 404),
        ("POST", "/profile", {"seconds": 0.1}, 200),
        ("PUT", "/applications/app2", {}, 409),
    ],
)
@pytest_twisted.ensureDeferred
async def test_registry_file_that_is_read_only_keeps_no_operator_from_records_and_groups(
    administered: Make, tmp_path: Path, method: str, path: str, body: object, status: int
) -> None:
    file = tmp_path / "registry.toml"
    file.write_text(REGISTRY)
    shop = administered(registry=RegistryConfig(driver="file", path=str(file)))
    await shop.start()
    assert (await shop.admin(method, path, body)).status == status
