from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from gateways import WAYS, RunningGateway, config
from twisted.internet.defer import Deferred


@pytest.fixture(params=WAYS)
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningGateway]:
    """A gateway on a fresh embedded store, by each way in."""
    running = RunningGateway(config(tmp_path / "data"), request.param)
    pytest_twisted.blockon(Deferred.fromCoroutine(running.start()))
    yield running
    pytest_twisted.blockon(Deferred.fromCoroutine(running.stop()))
