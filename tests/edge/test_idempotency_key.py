"""Idempotency keys over HTTP: the answers of a repeat, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from gateways import RunningGateway, config
from twisted.internet.defer import Deferred, gatherResults

from kateway.config.schema import PublishConfig

here = pytest_twisted.ensureDeferred
T = "/v1/topics/t"


async def send(gateway: RunningGateway, key: str, body: bytes = b"a", query: str = "", kind: str = "text/plain") -> Any:
    headers = {"Idempotency-Key": key, "Content-Type": kind}
    return await gateway.request("POST", f"{T}{query}", body, headers=headers)


async def records(gateway: RunningGateway) -> list[dict[str, Any]]:
    found = await gateway.request("GET", f"{T}?last=1000&timeout=0", headers={"Accept": "application/json"})
    return list(found.json()) if found.status == 200 else []


@here
async def test_repeat_gets_the_first_answer_again_and_writes_nothing(gateway: RunningGateway) -> None:
    first = await send(gateway, "k1")
    again = await send(gateway, '"k1"')
    assert (first.status, again.status) == (201, 201)
    assert first.body == again.body
    assert first.header("location") == again.header("location")
    assert (first.header("idempotency-replayed"), again.header("idempotency-replayed")) == (None, "true")
    (record,) = await records(gateway)
    assert {"name": "idempotency-key", "value": "k1"} in record["headers"]


@here
@pytest.mark.parametrize("other", [{"body": b"b"}, {"query": "?key=x"}, {"query": "?partition=0"}, {"query": "?ack=1"}])
async def test_key_with_another_body_or_other_parameters_is_refused(
    gateway: RunningGateway, other: dict[str, Any]
) -> None:
    assert (await send(gateway, "k1")).status == 201
    refused = await send(gateway, "k1", **other)
    assert (refused.status, refused.code) == (422, "idempotency-key-reused")
    assert len(await records(gateway)) == 1


@here
async def test_patience_may_differ_in_a_repeat(gateway: RunningGateway) -> None:
    assert (await send(gateway, "k1", query="?timeout=3")).status == 201
    assert (await send(gateway, "k1", query="?timeout=9&retry=1")).header("idempotency-replayed") == "true"


@here
async def test_keys_are_of_one_topic_and_version(gateway: RunningGateway) -> None:
    for path in ("/v1/topics/t", "/v1/topics/u", "/v2/topics/t"):
        answer = await gateway.request("POST", path, b"a", headers={"Idempotency-Key": "k"})
        assert answer.header("idempotency-replayed") is None


@here
async def test_batch_is_covered_as_a_whole(gateway: RunningGateway) -> None:
    body = json.dumps([{"value": "a"}, {"value": "b", "key": "x"}, {"value": "a"}]).encode()
    first = await send(gateway, "k1", body, "?batch=1", "application/json")
    again = await send(gateway, "k1", body, "?batch=1", "application/json")
    assert (first.status, first.json()) == (201, again.json())
    assert again.header("idempotency-replayed") == "true"
    assert len(await records(gateway)) == 3


@here
async def test_refused_publish_leaves_the_key_free(gateway: RunningGateway) -> None:
    assert (await send(gateway, "other")).status == 201
    assert (await send(gateway, "k1", query="?partition=99")).status == 404
    assert (await send(gateway, "k1", b"b")).status == 201


@here
async def test_two_at_once_write_one_record(gateway: RunningGateway) -> None:
    answers = await gatherResults([gateway.spawn(send(gateway, "k1")) for _ in range(20)])
    assert {answer.status for answer in answers} == {201}
    assert sum(answer.header("idempotency-replayed") == "true" for answer in answers) == 19
    assert len(await records(gateway)) == 1


@here
async def test_repeat_of_one_under_way_is_409_when_its_timeout_is_over(gateway: RunningGateway) -> None:
    assert (await send(gateway, "other")).status == 201
    store = gateway.service.parts.storing.stores["default"]
    publish, gate = store.publish, Deferred[None]()

    def held(*arguments: Any) -> Any:
        return publish(*arguments).addCallback(lambda outcomes: gate.addCallback(lambda _: outcomes))

    store.publish = held  # type: ignore[method-assign]
    first = gateway.spawn(send(gateway, "k1"))
    second = await send(gateway, "k1", query="?timeout=0.2")
    assert (second.status, second.code) == (409, "idempotency-key-in-use")
    gate.callback(None)
    assert (await first).status == 201


@here
@pytest.mark.parametrize("key", ["", '"', "a b", "ü", "x" * 256, '""', '"a', "a,b"])
async def test_key_that_is_no_token_and_no_quoted_string_is_400(gateway: RunningGateway, key: str) -> None:
    assert (await send(gateway, key)).status == 400


@here
async def test_key_without_acknowledgement_is_400(gateway: RunningGateway) -> None:
    assert (await send(gateway, "k1", query="?ack=0")).status == 400


@here
async def test_gateway_that_was_restarted_knows_the_key(tmp_path: Path) -> None:
    options = attrs.evolve(config(tmp_path / "data"), publish=PublishConfig(idempotency_max_entries=2))
    answers = []
    for _ in range(2):
        gateway = RunningGateway(options, "hot")
        await gateway.start()
        answers.append([await send(gateway, f"k{number}", b"%d" % number) for number in range(10)])
        found = await records(gateway)
        await gateway.stop()
    assert [each.body for each in answers[0]] == [each.body for each in answers[1]]
    assert {each.header("idempotency-replayed") for each in answers[1]} == {"true"}
    assert len(found) == 10
