"""The figures of a gateway in a real InfluxDB: written values, a server that is away, the end, a reload."""

from __future__ import annotations

import calendar
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest_twisted
from servers.influxdb import PASSWORD, USER, InfluxServer
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

sys.path.append(str(Path(__file__).parents[1] / "edge"))

from gateways import RunningGateway, config
from metrics import metrics

from kateway.config.schema import Config, InfluxConfig, MetricsConfig
from kateway.daemon.service import GatewayService

here = pytest_twisted.ensureDeferred
DATABASE = "gateways"
TOPIC = {"application": "default", "topic": "foobar", "version": "v1"}
Make = Callable[..., RunningGateway]


@pytest_twisted.async_yield_fixture
async def gateway(influxdb: InfluxServer, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes gateways that push four times a second; options of ``[metrics.influx]`` are its arguments."""
    made: list[RunningGateway] = []
    (tmp_path / "password").write_text(f"{PASSWORD}\n")

    def make(**changes: Any) -> RunningGateway:
        given = {"interval_seconds": 0.25, "database": DATABASE, "tags": {"site": "east, 1"}, "max_request_lines": 5}
        push = InfluxConfig(
            url=influxdb.url, user=USER, password_file=str(tmp_path / "password"), **{**given, **changes}
        )
        made.append(RunningGateway(pushing(tmp_path, push), "hot"))
        return made[-1]

    await deferToThread(influxdb.query, f"CREATE DATABASE {DATABASE}")
    yield make
    for each in made:
        await each.stop()


def pushing(folder: Path, push: InfluxConfig) -> Config:
    return attrs.evolve(config(folder / "data"), metrics=MetricsConfig(influx=push))


async def written(
    influxdb: InfluxServer, measurement: str, wanted: Callable[[dict[str, Any]], bool], **tags: str
) -> Any:
    """The newest point, once it is as it should be."""
    deadline = time.monotonic() + 20
    while True:
        found = await deferToThread(influxdb.last, measurement, DATABASE, **tags)
        if wanted(found):
            return found
        assert time.monotonic() < deadline, found
        await deferLater(reactor, 0.1)


@here
async def test_published_counts_are_found_with_their_tags_and_every_measurement_is_taken(
    influxdb: InfluxServer, gateway: Make
) -> None:
    running = gateway()
    await running.start()
    for number in range(7):
        assert (await running.request("POST", "/v1/topics/foobar", b"%03d" % number)).status == 201
    found = await written(influxdb, "kateway_publish", lambda point: point.get("records") == 7, **TOPIC)
    assert found["bytes"] == 21
    assert found["site"] == "east, 1"
    assert found["gateway"].startswith("gateway-")
    written_at = calendar.timegm(time.strptime(found["time"], "%Y-%m-%dT%H:%M:%SZ"))
    assert 0 <= time.time() - written_at < 30
    durations = await written(
        influxdb, "kateway_http", lambda point: point.get("request_duration_seconds_count") == 7, operation="publish"
    )
    assert durations["request_duration_seconds_sum"] > 0
    assert (await written(influxdb, "kateway", bool))["draining"] == 0
    assert (await written(influxdb, "process", bool))["resident_memory_bytes"] > 1000000
    shown = await metrics(running)
    assert shown.get("metrics_push_dropped_total", reason="refused") == 0
    assert shown.get("metrics_push_dropped_total", reason="full") == 0


@here
async def test_server_that_was_away_gets_the_figures_of_that_time(influxdb: InfluxServer, gateway: Make) -> None:
    running = gateway(interval_seconds=1.0, timeout_seconds=2.0)
    await running.start()
    await written(influxdb, "kateway", bool)
    await deferToThread(influxdb.kill)
    await deferLater(reactor, 1.2)
    began = int(time.time())
    for _ in range(3):
        assert (await running.request("POST", "/v1/topics/foobar", b"x")).status == 201
    await deferLater(reactor, 2.5)
    back = int(time.time())
    await deferToThread(influxdb.start)
    await written(influxdb, "kateway_publish", lambda point: point.get("records") == 3, **TOPIC)
    missed = f"SELECT records FROM kateway_publish WHERE topic = 'foobar' AND time >= {began}s AND time < {back}s"
    deadline = time.monotonic() + 20
    while not (found := await deferToThread(influxdb.query, missed, DATABASE)):
        assert time.monotonic() < deadline
        await deferLater(reactor, 0.2)
    assert {values[1] for values in found[0]["values"]} == {3}


@here
async def test_database_that_is_made_later_gets_what_waited(influxdb: InfluxServer, gateway: Make) -> None:
    await deferToThread(influxdb.query, f"DROP DATABASE {DATABASE}")
    running = gateway()
    await running.start()
    await deferLater(reactor, 0.5)
    await deferToThread(influxdb.query, f"CREATE DATABASE {DATABASE}")
    await written(influxdb, "kateway", bool)
    assert (await metrics(running)).get("metrics_push_dropped_total", reason="refused") == 0


@here
async def test_last_figures_are_there_after_the_end(influxdb: InfluxServer, gateway: Make) -> None:
    running = gateway(interval_seconds=3600.0)
    await running.start()
    assert (await running.request("POST", "/v1/topics/foobar", b"abc")).status == 201
    await running.stop()
    found = await deferToThread(influxdb.last, "kateway_publish", DATABASE, **TOPIC)
    assert (found["records"], found["bytes"]) == (1, 3)
    assert (await deferToThread(influxdb.last, "kateway", DATABASE))["draining"] == 1


@here
async def test_reload_begins_changes_and_ends_the_push(influxdb: InfluxServer, gateway: Make) -> None:
    running = gateway()
    full = running.service.settings
    now = [attrs.evolve(full, metrics=MetricsConfig())]
    running.service = GatewayService(now[0], reactor, lambda: now[0])
    await running.start()
    await deferLater(reactor, 0.5)
    assert await deferToThread(influxdb.last, "kateway", DATABASE) == {}
    now[0] = full
    await running.service.reload()
    await written(influxdb, "kateway_configuration", lambda point: point.get("generation") == 2)
    elsewhere = attrs.evolve(full.metrics.influx, tags={"site": "west"})
    now[0] = attrs.evolve(full, metrics=MetricsConfig(influx=elsewhere))
    await running.service.reload()
    await written(influxdb, "kateway_configuration", lambda point: point.get("generation") == 3, site="west")
    now[0] = attrs.evolve(full, metrics=MetricsConfig())
    await running.service.reload()
    await deferLater(reactor, 0.6)
    last = await deferToThread(influxdb.last, "kateway_configuration", DATABASE)
    assert last["generation"] == 3
