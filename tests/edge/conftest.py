from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from administered import Administered, Make, guarded, prepared
from gateways import RunningGateway, config
from twisted.internet.defer import Deferred


@pytest.fixture
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningGateway]:
    """A gateway on a fresh embedded store; its way in is "hot" unless the test names another as its parameter."""
    running = RunningGateway(config(tmp_path / "data"), getattr(request, "param", "hot"))
    pytest_twisted.blockon(Deferred.fromCoroutine(running.start()))
    yield running
    pytest_twisted.blockon(Deferred.fromCoroutine(running.stop()))


@pytest_twisted.async_yield_fixture
async def administered(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes gateways with a registry."""
    made: list[Administered] = []

    def make(**tables: Any) -> Administered:
        made.append(Administered(guarded(tmp_path / "data", **tables)))
        return made[-1]

    yield make
    for each in made:
        await each.stop()


@pytest_twisted.async_yield_fixture
async def hot(administered: Make) -> AsyncIterator[Administered]:
    """A gateway with an embedded registry, two applications, a topic and a binding."""
    yield await prepared(administered())
