"""``/live`` and ``/ready``: whether the process runs, and whether it can do its work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from kateway.model import Health
from kateway.web.exchange import JSON, NO_STORE, Response

REGISTRY = "registry"
PROCESSES = "processes"
_ONLY_DEGRADE = frozenset({REGISTRY, PROCESSES})
"""Parts that are named where they ail, and leave the gateway ready."""


def live() -> Response:
    """200: that this runs is the answer."""
    return Response(200, (JSON, NO_STORE), b'{"live":true}')


def ready(parts: Mapping[str, Health], *, draining: bool) -> Response:
    """200 when every part is healthy and the gateway is not draining, else 503; each part has its reason.

    A registry that is away only degrades the gateway: its last snapshot stays in force. So does a process that is away:
    another one accepts in its place.
    """
    healthy = not draining and all(health.healthy for name, health in parts.items() if name not in _ONLY_DEGRADE)
    body: dict[str, Any] = {"ready": healthy, "draining": draining, "parts": {}}
    for name, health in parts.items():
        part: dict[str, Any] = {"healthy": health.healthy}
        if name in _ONLY_DEGRADE and not health.healthy:
            part["degraded"] = True
        if health.reason:
            part["reason"] = health.reason
        body["parts"][name] = part
    headers = (JSON, NO_STORE) if healthy else (JSON, NO_STORE, (b"Retry-After", b"1"))
    return Response(200 if healthy else 503, headers, orjson.dumps(body))
