"""A gateway with a registry, administered over its own admin listener, and its applications' requests."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from gateways import Answer, RunningGateway, config

from kateway.config.schema import AuditConfig, Config, RegistryConfig
from kateway.registry.secrets import hash_secret


def guarded(data: Path, **tables: Any) -> Config:
    """The tests' configuration with an embedded registry, or whatever ``registry`` says."""
    given = {"registry": RegistryConfig(driver="embedded")} | tables
    return attrs.evolve(config(data), **given)


REGISTRY = f"""
[applications.app1]
[[applications.app1.keys]]
key = "app1-pub"
kind = "pub"
secret_hash = "{hash_secret("first-secret")}"
[[applications.app1.keys]]
key = "app1-sub"
kind = "sub"
secret_hash = "{hash_secret("second-secret")}"
[topics."app1/foo/v1"]
partitions = 4
"""
"""A registry file: app1 with two keys and the topic foo."""

IN_FILE = {"app1-pub": "first-secret", "app1-sub": "second-secret"}
"""The keys of ``REGISTRY`` with their secrets."""

ALL_AUDITED = AuditConfig(publishes=True, subscribes=True, acknowledgements=True)


class Administered(RunningGateway):
    """A gateway whose registry is written through its admin API."""

    def __init__(self, settings: Config, way: str = "hot") -> None:
        super().__init__(settings, way)
        self.secrets: dict[str, str] = {}

    @property
    def admin_port(self) -> int:
        return int(self.service.ports[-1].getHost().port)

    async def ask_admin(self, method: str, path: str, **kwargs: Any) -> Answer:
        url = f"http://127.0.0.1:{self.admin_port}{path}"
        response = await self.client.request(method, url, unbuffered=False, timeout=20, **kwargs)
        return Answer(response.code, response.headers, await response.content())

    async def admin(self, method: str, path: str, body: Any = None, **kwargs: Any) -> Answer:
        """A call below ``/admin/v1``."""
        if body is not None:
            kwargs["json"] = body
        return await self.ask_admin(method, f"/admin/v1{path}", **kwargs)

    async def change(self, method: str, path: str, body: Any = None) -> Any:
        """A change that must succeed."""
        answer = await self.admin(method, path, body)
        assert answer.status in {200, 201, 204}, (path, answer.status, answer.body)
        return answer.json() if answer.body else None

    async def application(self, name: str) -> None:
        """An application with a key to publish (``NAME-pub``) and one to subscribe (``NAME-sub``)."""
        await self.change("PUT", f"/applications/{name}", {})
        for kind in ("pub", "sub"):
            made = await self.change("POST", f"/applications/{name}/keys", {"kind": kind, "key": f"{name}-{kind}"})
            self.secrets[made["key"]] = made["secret"]

    async def quota(self, name: str, **quota: float) -> None:
        await self.change("PUT", f"/applications/{name}", {"quota": quota})

    async def topic(self, path: str, **members: Any) -> None:
        await self.change("PUT", f"/topics/{path}", {"partitions": 1, **members})

    async def binding(self, path: str, *groups: str) -> None:
        await self.change("PUT", f"/bindings/{path}", {"groups": list(groups) or ["*"]})

    def key(self, key: str) -> dict[str, str]:
        """A key's headers."""
        return {"Pubkey" if key.endswith("pub") else "Subkey": key, "Secret": self.secrets[key]}

    def basic(self, key: str) -> dict[str, str]:
        pair = f"{key}:{self.secrets[key]}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}

    def head(self, key: str) -> str:
        """A key's headers as they stand on the wire."""
        return "".join(f"{name}: {value}\r\n" for name, value in self.key(key).items())

    async def publish(self, app: str, topic: str, value: bytes = b"x", **kwargs: Any) -> Answer:
        return await self.request("POST", f"/v1/topics/{topic}", value, headers=self.key(f"{app}-pub"), **kwargs)

    async def read(self, app: str, path: str, **kwargs: Any) -> Answer:
        """A GET below ``/v1/topics/`` with the application's subscribing key."""
        return await self.request("GET", f"/v1/topics/{path}", headers=self.key(f"{app}-sub"), **kwargs)


Make = Callable[..., Administered]
"""Makes gateways, not started yet, of ``guarded``'s tables; they end with the test."""


def events(shop: Administered, action: str) -> list[dict[str, Any]]:
    """The events of an action that the audit has."""
    file = Path(shop.service.settings.storage["default"].path) / "audit.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [event for event in map(json.loads, lines) if event["action"] == action]


async def prepared(shop: Administered) -> Administered:
    """Started; app1 owns foo, app2 may read it with the groups g1 and g2."""
    await shop.start()
    await shop.application("app1")
    await shop.application("app2")
    await shop.topic("app1/foo/v1")
    await shop.binding("app2/app1/foo/v1", "g1", "g2")
    return shop
