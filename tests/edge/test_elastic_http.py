"""Elastic topics over HTTP: set and taken away, where keys go, keys that go over, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from administered import IN_FILE, REGISTRY, Administered, events, guarded
from gateways import Answer
from twisted.internet import reactor
from twisted.internet.task import deferLater

from kateway.config.schema import DeliveryConfig, ElasticConfig, RegistryConfig
from kateway.storage.partitioner import by_jump, by_key

here = pytest_twisted.ensureDeferred
T = "/v1/topics/grows"
TOPIC = "/topics/app1/grows/v1"
QUICK = {"target_bytes_per_second": 10, "cooldown_seconds": 0, "handover_seconds": 20, "max_partitions": 8}


@pytest_twisted.async_yield_fixture
async def shop(tmp_path: Path) -> AsyncIterator[Administered]:
    """A gateway that samples often, with the application app1."""
    elastic = ElasticConfig(sustained_seconds=1, sample_seconds=0.5)
    running = Administered(guarded(tmp_path / "data", elastic=elastic, delivery=DeliveryConfig(linger_seconds=30)))
    await running.start()
    await running.application("app1")
    yield running
    await running.stop()


async def row(shop: Administered) -> Any:
    answer = await shop.admin("GET", "/elastic")
    assert answer.status == 200
    (found,) = answer.json()["items"]
    return found


async def publish(shop: Administered, key: str, query: str = "", **headers: str) -> Answer:
    given = {**shop.key("app1-pub"), **headers}
    return await shop.request("POST", f"{T}?key={key}{query}", b"x" * 100, headers=given)


@here
async def test_elastic_member_is_kept_by_a_put_that_leaves_it_out_and_goes_with_null(shop: Administered) -> None:
    made = await shop.change("PUT", TOPIC, {"partitions": 2, "elastic": {"max_partitions": 8}})
    assert made["elastic"] == {
        "max_partitions": 8,
        "target_bytes_per_second": 1048576,
        "target_readers_per_partition": 1,
        "cooldown_seconds": 600,
        "handover_seconds": 30,
        "dry_run": False,
    }
    kept = await shop.change("PUT", TOPIC, {"retention_hours": 1})
    assert kept["elastic"] == made["elastic"]
    assert "elastic" not in await shop.change("PUT", TOPIC, {"elastic": None})
    assert "elastic" not in (await shop.admin("GET", TOPIC)).json()


@here
@pytest.mark.parametrize(
    "elastic",
    [
        {"max_partitions": 0},
        {"max_partitions": 1.5},
        {"target_bytes_per_second": -1},
        {"target_readers_per_partition": "1"},
        {"cooldown_seconds": -1},
        {"handover_seconds": 1e9},
        {"dry_run": 1},
        {"unknown": 1},
        [],
        "yes",
    ],
)
async def test_elastic_member_that_cannot_be_is_refused(shop: Administered, elastic: Any) -> None:
    answer = await shop.admin("PUT", TOPIC, {"partitions": 2, "elastic": elastic})
    assert answer.status == 400, answer.body
    assert (await shop.admin("GET", TOPIC)).status == 404


@here
async def test_keys_of_an_elastic_topic_are_placed_by_jump_hash_and_of_others_as_by_kafkas_clients(
    shop: Administered,
) -> None:
    await shop.change("PUT", TOPIC, {"partitions": 4, "elastic": {}})
    await shop.topic("app1/plain/v1", partitions=4)
    keys = [f"key-{number}" for number in range(20)]
    for key in keys:
        assert (await publish(shop, key)).json()["partition"] == by_jump(key.encode(), 4)
        plain = await shop.request("POST", f"/v1/topics/plain?key={key}", b"x", headers=shop.key("app1-pub"))
        assert plain.json()["partition"] == by_key(key.encode(), 4)
    assert (await publish(shop, "k", "&partition=3")).json()["partition"] == 3
    body = json.dumps([{"key": key, "value": "v"} for key in keys])
    headers = {**shop.key("app1-pub"), "Content-Type": "application/json"}
    batch = await shop.request("POST", f"{T}?batch=1", body.encode(), headers=headers)
    assert [each["partition"] for each in batch.json()["results"]] == [by_jump(key.encode(), 4) for key in keys]
    found = await row(shop)
    assert found["partitions"] == {"in_force": 4, "store": 4}
    assert (found["state"], found["hash"], found["did"]) == ("settled", "jump", [])


@here
async def test_dry_run_only_says_what_it_would_do(shop: Administered) -> None:
    await shop.change("PUT", TOPIC, {"partitions": 2, "elastic": {**QUICK, "dry_run": True}})

    async def told() -> Any:
        await publish(shop, "k")
        found = await row(shop)
        return found if found["would"]["action"] == "grow" else None

    found = await until(shop, told)
    assert found["would"]["partitions"] == 4
    assert found["would"]["waits_for"] == "dry_run: it only says so"
    assert "are more than 10 for each of 2 partitions" in found["would"]["reason"]
    assert found["sees"]["bytes_per_second"] > 20
    assert found["partitions"] == {"in_force": 2, "store": 2}


async def until(shop: Administered, told: Callable[[], Awaitable[Any]]) -> Any:
    """Asks until the answer is a yes."""
    deadline = reactor.seconds() + 15
    while not (found := await told()):
        assert reactor.seconds() < deadline, await row(shop)
        await deferLater(reactor, 0.05)
    return found


@here
async def test_topic_under_load_grows_and_a_key_that_moves_waits_for_the_group_that_reads(shop: Administered) -> None:
    await shop.change("PUT", TOPIC, {"partitions": 1, "elastic": {**QUICK, "max_partitions": 2}})
    moves = next(f"k{n}" for n in range(100) if by_jump(f"k{n}".encode(), 2) == 1)
    assert (await publish(shop, moves)).json() == {"partition": 0, "offset": 0}
    # a group whose only record is leased and not acknowledged
    reading = shop.key("app1-sub")
    leased = await shop.request("GET", f"{T}/g1?ack=explicit&timeout=5", headers=reading)
    assert leased.status == 200

    async def held() -> bool:
        answer = await publish(shop, moves, "&timeout=0.6")
        if answer.status == 201:
            assert answer.json()["partition"] == 0
        elif answer.status != 504:  # released at the last moment
            assert (answer.status, answer.code, answer.header("retry-after")) == (503, "key-moving", "1")
            assert answer.json()["retriable"]
            assert not answer.json()["maybe_written"]
        return bool((await row(shop))["state"] == "reading")

    await until(shop, held)
    waits = shop.spawn(publish(shop, moves, "&timeout=20"))
    end = (await shop.request("GET", T, headers=reading)).json()["partitions"][0]["end"]
    assert (await row(shop))["would"]["waits_for"] in {"", "not read up to the fence yet: group app1.g1, partition 0"}
    more = await shop.request("GET", f"{T}/g1?ack=explicit&limit=1000&timeout=1&idle=0.2", headers=reading)
    assert more.status in {200, 204}
    acks = [{"partition": 0, "upto": end - 1}]
    done = await shop.request("POST", f"{T}/g1/acks?sync=1", json.dumps(acks).encode(), headers=reading)
    assert done.json()["results"][0]["status"] == 200
    answer = await waits
    assert (answer.status, answer.json()["partition"]) == (201, 1)
    await until(shop, lambda: settled(shop, 2))
    (growth,) = (await row(shop))["did"]
    assert (growth["was"], growth["now"], growth["bound_hit"]) == (1, 2, False)
    assert (await shop.admin("GET", TOPIC)).json()["partitions"] == 2
    (event,) = events(shop, "topic.grow")
    assert (event["actor"], event["object"], event["outcome"]) == ("gateway", "app1/grows/v1", "ok")
    assert (event["before"], event["after"]) == ({"partitions": 1}, {"partitions": 2})
    metrics = (await shop.ask_admin("GET", "/metrics")).body.decode()
    assert "kateway_elastic_growths_total 1" in metrics
    assert "kateway_elastic_held 0" in metrics


async def settled(shop: Administered, partitions: int) -> bool:
    found = await row(shop)
    return bool(found["state"] == "settled" and found["partitions"]["in_force"] == partitions)


@here
async def test_idempotency_key_is_found_again_where_it_lay_before_a_growth_by_hand(shop: Administered) -> None:
    await shop.change("PUT", TOPIC, {"partitions": 2, "elastic": {"cooldown_seconds": 0}})
    keys = [f"order-{number}" for number in range(12)]
    sent = {key: (await publish(shop, key, **{"Idempotency-Key": f"i-{key}"})).json() for key in keys}
    without = [
        await shop.request("POST", T, b"v", headers={**shop.key("app1-pub"), "Idempotency-Key": f"plain-{number}"})
        for number in range(12)
    ]
    assert [each.json()["partition"] for each in without] == [by_jump(b"plain-%d" % n, 2) for n in range(12)]
    await shop.change("PUT", TOPIC, {"partitions": 8})
    await until(shop, lambda: settled(shop, 8))
    assert any(by_jump(key.encode(), 8) != by_jump(key.encode(), 2) for key in keys)
    # as a gateway that has just begun: its table is empty, only the records tell
    shop.service.parts.edges.publishes._gateway._idempotency._entries.clear()
    for key in keys:
        again = await publish(shop, key, **{"Idempotency-Key": f"i-{key}"})
        assert (again.status, again.json(), again.header("idempotency-replayed")) == (201, sent[key], "true")
    for number, first in enumerate(without):
        headers = {**shop.key("app1-pub"), "Idempotency-Key": f"plain-{number}"}
        again = await shop.request("POST", T, b"v", headers=headers)
        assert (again.json(), again.header("idempotency-replayed")) == (first.json(), "true")
    new = await publish(shop, keys[0], **{"Idempotency-Key": "new"})
    assert new.json()["partition"] == by_jump(keys[0].encode(), 8)
    assert (await shop.admin("PUT", TOPIC, {"partitions": 4})).status == 409


@here
async def test_entry_may_be_put_as_it_was_read_while_the_store_has_more_partitions_than_are_in_force(
    shop: Administered,
) -> None:
    await shop.change("PUT", TOPIC, {"partitions": 2, "elastic": {}})
    # as by a growth that was announced and given up
    await shop.service.parts.storing.stores["default"].add_partitions("app1.grows.v1", 4)
    read = (await shop.admin("GET", TOPIC)).json()
    assert read["partitions"] == 2
    again = await shop.admin("PUT", TOPIC, {name: read[name] for name in ("partitions", "elastic", "retention_hours")})
    assert (again.status, again.json()["partitions"]) == (200, 2)
    # and one without the number makes nothing grow
    assert (await shop.change("PUT", TOPIC, {"retention_hours": 1}))["partitions"] == 2
    assert (await row(shop))["partitions"] == {"in_force": 2, "store": 4}
    # one by hand that waits for its turn is not taken back either
    assert (await shop.change("PUT", TOPIC, {"partitions": 8}))["partitions"] == 8
    assert (await shop.change("PUT", TOPIC, {"retention_hours": 2}))["partitions"] == 8
    assert (await shop.admin("PUT", TOPIC, {"partitions": 1})).status == 409


@here
async def test_topic_that_the_store_has_becomes_elastic_in_steps_though_it_has_no_record(shop: Administered) -> None:
    await shop.service.parts.storing.stores["default"].create_topic("app1.grows.v1", partitions=2)
    await shop.change("PUT", TOPIC, {"elastic": {}})
    assert not shop.service.parts.registry.snapshot.placements
    found = await until(shop, lambda: settled(shop, 2))
    assert found
    assert [(each["was"], each["now"], each["why"]) for each in (await row(shop))["did"]] == [
        (2, 2, "it is elastic now")
    ]


@here
async def test_only_so_many_topics_are_elastic_as_a_gateways_entry_has_room_for(tmp_path: Path) -> None:
    shop = Administered(guarded(tmp_path / "data", elastic=ElasticConfig(max_topics=1)))
    await shop.start()
    await shop.application("app1")
    await shop.change("PUT", TOPIC, {"partitions": 2, "elastic": {}})
    answer = await shop.admin("PUT", "/topics/app1/another/v1", {"partitions": 2, "elastic": {}})
    assert answer.status == 409
    assert "elastic.max_topics" in answer.json()["detail"]
    assert (await shop.admin("GET", "/topics/app1/another/v1")).status == 404
    # the one there is may be changed
    await shop.change("PUT", TOPIC, {"elastic": {"max_partitions": 8}})
    await shop.stop()


@here
async def test_partitions_in_force_outlast_a_restart_with_a_registry_file(tmp_path: Path) -> None:
    file = tmp_path / "registry.toml"
    file.write_text(REGISTRY.replace("partitions = 4", "partitions = 2\nelastic = { cooldown_seconds = 0 }"))
    settings = guarded(tmp_path / "data", registry=RegistryConfig(driver="file", path=str(file)))

    async def started() -> Administered:
        running = Administered(settings)
        running.secrets = dict(IN_FILE)
        await running.start()
        return running

    shop = await started()
    await until(shop, lambda: settled(shop, 2))
    file.write_text(file.read_text().replace("partitions = 2", "partitions = 4"))
    await shop.change("POST", "/reload")
    await until(shop, lambda: settled(shop, 4))
    await shop.stop()
    # fewer than there are, as in a file that was never changed
    file.write_text(file.read_text().replace("partitions = 4", "partitions = 2"))
    shop = await started()
    assert await settled(shop, 4)
    answer = await shop.publish("app1", "foo?key=k", b"v")
    assert answer.json()["partition"] == by_jump(b"k", 4)
    await shop.stop()


@here
async def test_gateway_without_elastic_topics_says_so(shop: Administered) -> None:
    assert (await shop.admin("GET", "/elastic")).json() == {"gateway": None, "items": [], "next": None}
