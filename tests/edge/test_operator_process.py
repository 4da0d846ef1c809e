"""The running process looked into over the admin listener: profile, stacks, memory."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from administered import Administered, Make, events
from gateways import Answer, eventually
from twisted.internet.defer import Deferred

from kateway.config.schema import AdminConfig


async def post(shop: Administered, body: Any, accept: str | None = None) -> Answer:
    return await shop.admin("POST", "/profile", body, headers={} if accept is None else {"Accept": accept})


@pytest_twisted.ensureDeferred
async def test_profile_is_collapsed_stacks_with_the_reactor_in_them(hot: Administered) -> None:
    answer = await post(hot, {"seconds": 0.2})
    assert (answer.status, answer.header("content-type")) == (200, "text/plain; charset=utf-8")
    lines = answer.body.decode().splitlines()
    counts = [int(line.rpartition(" ")[2]) for line in lines]
    assert counts == sorted(counts, reverse=True)
    assert any(line.startswith("MainThread;") and "base.py:ReactorBase.run" in line for line in lines)


@pytest.mark.parametrize("accept", ["application/json", "application/vnd.speedscope+json", "application/*"])
@pytest_twisted.ensureDeferred
async def test_profile_is_for_speedscope_where_json_is_accepted(hot: Administered, accept: str) -> None:
    answer = await post(hot, {"seconds": 0.1}, accept)
    assert answer.header("content-type") in {"application/json", "application/vnd.speedscope+json"}
    found = answer.json()
    assert "MainThread" in [profile["name"] for profile in found["profiles"]]
    assert found["shared"]["frames"]


@pytest_twisted.ensureDeferred
async def test_second_profile_at_a_time_is_refused(hot: Administered) -> None:
    first = Deferred.fromCoroutine(post(hot, {"seconds": 0.5}))
    await eventually(lambda: hot.service.http.operating._profiler._running)
    second = await post(hot, {"seconds": 0.1})
    assert (second.status, second.code) == (409, "conflict")
    assert (await first).status == 200
    assert (await post(hot, {"seconds": 0.1})).status == 200


@pytest_twisted.ensureDeferred
async def test_gateway_that_drains_does_not_wait_for_a_profile(hot: Administered) -> None:
    profiling = Deferred.fromCoroutine(post(hot, {"seconds": 60}))
    await eventually(lambda: hot.service.http.operating._profiler._running)
    stopping = Deferred.fromCoroutine(hot.stop())
    assert (await profiling).status == 200
    await stopping


@pytest.mark.parametrize(
    ("body", "accept", "status"),
    [
        ({"seconds": 0}, None, 400),
        ({"seconds": 61}, None, 400),
        ({"seconds": True}, None, 400),
        ({"seconds": "1"}, None, 400),
        ({"other": 1}, None, 400),
        ({"seconds": 0.1}, "image/png", 406),
    ],
)
@pytest_twisted.ensureDeferred
async def test_profile_with_a_fault_is_refused(hot: Administered, body: Any, accept: str | None, status: int) -> None:
    assert (await post(hot, body, accept)).status == status


@pytest_twisted.ensureDeferred
async def test_profile_is_audited(hot: Administered) -> None:
    await post(hot, {"seconds": 0.1})
    await eventually(lambda: len(events(hot, "profile")) == 1)
    assert events(hot, "profile")[0]["object"] == "0.1 s"


@pytest_twisted.ensureDeferred
async def test_stacks_show_every_thread_as_text_or_json(hot: Administered) -> None:
    answer = await hot.admin("GET", "/stacks")
    assert answer.header("content-type") == "text/plain; charset=utf-8"
    assert answer.body.decode().startswith("MainThread\n  ") or "\nMainThread\n  " in answer.body.decode()
    found = (await hot.admin("GET", "/stacks", headers={"Accept": "application/json"})).json()
    (main,) = [each for each in found["threads"] if each["thread"] == "MainThread"]
    assert {"function", "file", "line"} == main["calls"][0].keys()


@pytest_twisted.ensureDeferred
async def test_memory_that_is_not_traced_is_refused_with_the_remedy(hot: Administered) -> None:
    answer = await hot.admin("GET", "/memory")
    assert (answer.status, answer.code) == (409, "conflict")
    assert "trace_memory_frames" in answer.json()["detail"]


@pytest_twisted.ensureDeferred
async def test_traced_memory_names_the_lines_that_hold_most(administered: Make) -> None:
    shop = administered(admin=AdminConfig(trace_memory_frames=1))
    await shop.start()
    kept = [bytes(1000) for _ in range(2000)]
    answer = await shop.admin("GET", "/memory?limit=5")
    assert answer.status == 200, answer.body
    found = answer.json()
    assert len(found["top"]) == 5
    assert any(place["file"].endswith("test_operator_process.py") for place in found["top"])
    sizes = [place["bytes"] for place in found["top"]]
    assert sizes == sorted(sizes, reverse=True)
    assert found["traced_bytes"] > len(kept) * 1000
    assert (await shop.admin("GET", "/memory?limit=0")).status == 400
