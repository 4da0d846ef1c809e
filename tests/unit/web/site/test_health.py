"""``/live`` and ``/ready``."""

from __future__ import annotations

import json
from typing import Any

from kateway.model import Health
from kateway.web.site.health import live, ready

WELL = Health(True)
ILL = Health(False, "no broker answers")


def asked(parts: dict[str, Health], draining: bool = False) -> tuple[int, dict[bytes, bytes], Any]:
    response = ready(parts, draining=draining)
    return response.status, dict(response.headers), json.loads(response.body)


def test_a_process_that_answers_lives() -> None:
    assert (live().status, live().body) == (200, b'{"live":true}')


def test_ready_when_every_part_is_well() -> None:
    status, headers, body = asked({"storage.default": WELL, "registry": WELL})
    assert status == 200
    assert headers[b"Cache-Control"] == b"no-store"
    assert body["ready"] is True
    assert body["parts"] == {"storage.default": {"healthy": True}, "registry": {"healthy": True}}


def test_a_store_that_ails_makes_it_unready_and_is_named() -> None:
    status, headers, body = asked({"storage.default": WELL, "storage.far": ILL})
    assert (status, headers[b"Retry-After"]) == (503, b"1")
    assert body["parts"]["storage.far"] == {"healthy": False, "reason": "no broker answers"}


def test_a_registry_that_is_away_degrades_only() -> None:
    status, _, body = asked({"storage.default": WELL, "registry": ILL})
    assert status == 200
    assert body["parts"]["registry"]["degraded"] is True


def test_a_gateway_that_drains_is_unready() -> None:
    status, _, body = asked({"storage.default": WELL}, draining=True)
    assert (status, body["draining"]) == (503, True)
