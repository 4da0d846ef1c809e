"""Transforms, filters and schemas over HTTP: publishes, subscriptions in every form, reads, the admin API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from administered import REGISTRY, Administered, Make, events
from gateways import Answer, RunningGateway, config, eventually
from test_access_streams import websocket
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater
from wsproto.events import TextMessage

from kateway.config.schema import DeliveryConfig, RegistryConfig
from kateway.errors import ConfigError
from kateway.web.formats import frames

reactor: Any = _reactor
FOO = "/transforms/app1/foo/v1"
POSITIVE = {"require": "record.json.amount > 0", "message": "amount must be positive"}
MASK = {"mask": ["/card"]}
SECRET = b"4242424242424242"


async def put(shop: Administered, path: str = FOO, expect: int = 201, **members: Any) -> Any:
    answer = await shop.admin("PUT", path, members)
    assert answer.status == expect, answer.body
    return answer.json()


def order(amount: int = 1, **members: Any) -> bytes:
    return json.dumps({"amount": amount, "card": SECRET.decode(), **members}).encode()


async def stored(shop: Administered, query: str = "?last=100") -> list[Any]:
    """The records as they are in the store: an operator's look goes through no transforms."""
    answer = await shop.admin("GET", f"/records/app1/foo/v1{query}")
    records: list[Any] = answer.json()["records"]
    return records


# --- publishing ------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_publish_that_a_step_refuses_is_422_with_its_message_and_writes_nothing(hot: Administered) -> None:
    await put(hot, **{"in": [POSITIVE]})
    refused = await hot.publish("app1", "foo", order(0))
    assert (refused.status, refused.code) == (422, "rejected-by-transform")
    assert refused.json()["detail"] == "amount must be positive"
    assert refused.json()["maybe_written"] is False
    failed = await hot.publish("app1", "foo", b"no JSON")
    assert (failed.status, failed.code) == (422, "transform-failed")
    assert (await hot.publish("app1", "foo", order(1))).status == 201
    assert len(await stored(hot)) == 1


@pytest_twisted.ensureDeferred
async def test_publish_is_stored_as_the_steps_have_made_it(hot: Administered) -> None:
    step = {
        "set": {
            "value": "{'total': record.json.amount * 2}",
            "key": "record.json.user",
            "headers": {"region": "'eu'", "content-type": None},
        }
    }
    await put(hot, **{"in": [step]})
    assert (await hot.publish("app1", "foo", order(4, user="u7"))).status == 201
    (record,) = await stored(hot)
    assert (record["key"], record["value"]) == ("u7", '{"total":8}')
    headers = {each["name"]: each["value"] for each in record["headers"]}
    assert headers["region"] == "eu"
    assert headers["kateway-transformed"] == "1"
    assert "content-type" not in headers


@pytest_twisted.ensureDeferred
async def test_batch_is_answered_record_by_record(hot: Administered) -> None:
    await put(hot, **{"in": [POSITIVE, MASK]})
    body = b"\n".join([order(1), order(0), b"no JSON", order(2)])
    headers = {**hot.key("app1-pub"), "Content-Type": "application/x-ndjson"}
    answer = await hot.request("POST", "/v1/topics/foo?batch=1", body, headers=headers)
    assert answer.status == 422
    results = answer.json()["results"]
    assert [each.get("type", "").rpartition(":")[2] for each in results] == [
        "",
        "rejected-by-transform",
        "transform-failed",
        "",
    ]
    assert [results[0]["offset"], results[3]["offset"]] == [0, 1]
    assert [json.loads(each["value"])["card"] for each in await stored(hot)] == ["****"] * 2


@pytest_twisted.ensureDeferred
async def test_batch_under_an_idempotency_key_is_refused_as_a_whole(hot: Administered) -> None:
    await put(hot, **{"in": [POSITIVE, {"set": {"key": "string(record.json.amount)"}}]})
    headers = {**hot.key("app1-pub"), "Content-Type": "application/x-ndjson", "Idempotency-Key": "k1"}
    bad = await hot.request("POST", "/v1/topics/foo?batch=1", order(1) + b"\n" + order(0), headers=headers)
    assert (bad.status, bad.code) == (422, "rejected-by-transform")
    assert await stored(hot) == []
    good = order(1) + b"\n" + order(2)
    first = await hot.request("POST", "/v1/topics/foo?batch=1", good, headers=headers)
    again = await hot.request("POST", "/v1/topics/foo?batch=1", good, headers=headers)
    assert (first.status, again.status, again.header("Idempotency-Replayed")) == (201, 201, "true")
    assert sorted(each["key"] for each in await stored(hot)) == ["1", "2"]


@pytest_twisted.ensureDeferred
async def test_websocket_message_is_transformed_or_answered_with_a_problem(hot: Administered) -> None:
    await put(hot, **{"in": [POSITIVE, MASK]})
    socket = await websocket(hot, "/v1/topics/foo", "app1-pub")
    for amount in (1, 0, 2):
        socket.send(TextMessage(json.dumps({"value_json": json.loads(order(amount))})))
    await eventually(lambda: len(socket.messages()) == 3)
    answers = [json.loads(message) for message in socket.messages()]
    assert [answer.get("status", 201) for answer in answers] == [201, 422, 201]
    assert [json.loads(each["value"])["card"] for each in await stored(hot)] == ["****"] * 2
    socket.client.close()


@pytest_twisted.ensureDeferred
async def test_operators_publish_goes_through_the_transforms_too(hot: Administered) -> None:
    await put(hot, **{"in": [POSITIVE]})
    answer = await hot.ask_admin("POST", "/admin/v1/records/app1/foo/v1", data=order(0))
    assert (answer.status, answer.code) == (422, "rejected-by-transform")


# --- reading ----------------------------------------------------------------------------------------------------------

FORMS = {
    "raw alone": ("*/*", "limit=1"),
    "raw": ("*/*", "limit=9"),
    "ndjson": ("application/x-ndjson", "limit=9"),
    "json": ("application/json", "limit=9"),
    "sse": ("text/event-stream", "limit=9"),
    "frames": ("application/vnd.kateway.frames", "limit=9"),
}


async def filled(shop: Administered) -> None:
    for amount in range(6):
        assert (await shop.publish("app1", "foo", order(amount))).status == 201


def amounts(form: str, answer: Answer) -> list[int]:
    body = answer.body
    if form == "json":
        values = [each["value"] for each in json.loads(body)]
    elif form == "sse":
        lines = [line for line in body.splitlines() if line.startswith(b"data:")]
        values = [json.loads(line[5:])["value"] for line in lines]
    elif form == "frames":
        values = [each.value for each in frames.parse(body, None, None, ())]
    elif form == "ndjson":
        values = [json.loads(line)["value"] for line in body.splitlines()]
    else:
        values = body.splitlines()
    return [json.loads(value)["amount"] for value in values]


@pytest.mark.parametrize("ack", ["auto", "explicit"])
@pytest.mark.parametrize("form", FORMS)
@pytest_twisted.ensureDeferred
async def test_subscription_shows_what_is_left_masked(hot: Administered, form: str, ack: str) -> None:
    await filled(hot)
    await put(hot, out=[{"drop": "record.json.amount % 2 == 0"}, MASK])
    accept, query = FORMS[form]
    headers = {**hot.key("app2-sub"), "Accept": accept}
    answer = await hot.request("GET", f"/v1/topics/app1.foo/g1?{query}&idle=0.3&ack={ack}", headers=headers)
    assert answer.status == 200
    assert SECRET not in answer.body
    assert amounts(form, answer) == ([1] if "alone" in form else [1, 3, 5])


@pytest.mark.parametrize("query", ["partition=0&offset=0", "last=6", "timestamp=0"])
@pytest_twisted.ensureDeferred
async def test_read_without_a_group_shows_the_same(hot: Administered, query: str) -> None:
    await filled(hot)
    await put(hot, out=[{"drop": "record.json.amount % 2 == 0"}, MASK])
    path = f"app1.foo?{query}&limit=9&timeout=0&filter=record.json.amount%20%3E%201"
    answer = await hot.read("app2", path)
    assert answer.status == 200
    assert SECRET not in answer.body
    assert amounts("raw", answer) == [3, 5]
    nothing = await hot.read("app2", f"app1.foo?{query}&limit=9&timeout=0&filter=false")
    assert nothing.status == 204


@pytest_twisted.ensureDeferred
async def test_dropped_records_leave_no_lag(hot: Administered) -> None:
    await filled(hot)
    await put(hot, out=[{"drop": "record.json.amount != 3"}])
    assert (await hot.read("app2", "app1.foo/g1?limit=9&idle=0.3")).status == 200
    assert (await hot.read("app2", "app1.foo/g1?timeout=0")).status == 204

    async def lag() -> int:
        found: int = (await hot.read("app2", "app1.foo/g1/lag")).json()["lag"]
        return found

    for _ in range(100):
        if await lag() == 0:
            break
        assert (await hot.read("app2", "app1.foo/g1?timeout=0.1")).status == 204
    assert await lag() == 0


@pytest_twisted.ensureDeferred
async def test_failing_record_is_among_the_dead_letters_as_it_was_and_readable_when_the_steps_are_mended(
    hot: Administered,
) -> None:
    for value in (order(1), b"no JSON", order(2)):
        await hot.publish("app1", "foo", value)
    await put(hot, out=[MASK])
    answer = await hot.read("app2", "app1.foo/g1?limit=9&idle=0.5")
    assert amounts("raw", answer) == [1, 2]
    stopped = await hot.read("app2", "app1.foo/g1?queue=dead")
    assert (stopped.status, stopped.code) == (422, "transform-failed")
    await put(hot, expect=200, out=[])
    dead = await hot.read("app2", "app1.foo/g1?queue=dead")
    assert (dead.status, dead.body) == (200, b"no JSON")
    assert "transform-failed" in str(dead.header("Kateway-Header-kateway-dead-reason"))


@pytest_twisted.ensureDeferred
async def test_binding_narrows_what_its_subscriber_sees_and_the_request_cannot_widen_it(hot: Administered) -> None:
    await filled(hot)
    binding = {"groups": ["*"], "filter": "record.json.amount < 4", "transforms": {"out": [MASK]}}
    changed = await hot.admin("PUT", "/bindings/app2/app1/foo/v1", binding)
    assert changed.status == 200
    assert changed.json()["filter"] == binding["filter"]
    query = "filter=record.json.amount%20%3E%201"
    answer = await hot.read("app2", f"app1.foo/g1?limit=9&idle=0.3&{query}")
    assert amounts("raw", answer) == [2, 3]
    assert SECRET not in answer.body
    own = await hot.read("app1", "foo/g1?limit=9&idle=0.3")
    assert amounts("raw", own) == list(range(6))
    await eventually(lambda: len(events(hot, "binding.put")) == 2)
    event = events(hot, "binding.put")[-1]
    assert event["before"]["groups"] == ["g1", "g2"]
    assert event["after"]["filter"] == binding["filter"]
    kept = await hot.admin("PUT", "/bindings/app2/app1/foo/v1", {"max_deliveries": 3})
    assert kept.json() == {**changed.json(), "max_deliveries": 3}
    wrong = await hot.admin("PUT", "/bindings/app2/app1/foo/v1", {"groups": ["*"], "filter": "record."})
    assert (wrong.status, wrong.code) == (400, "invalid-expression")


@pytest_twisted.ensureDeferred
async def test_second_reader_of_a_group_with_another_filter_is_409(hot: Administered) -> None:
    hot.spawn(hot.read("app2", "app1.foo/g1?timeout=20&filter=true"))
    await eventually(lambda: hot.service.parts.groups.readers == 1)
    other = await hot.read("app2", "app1.foo/g1?timeout=0&filter=false")
    assert (other.status, other.code) == (409, "conflict")
    assert "filter" in other.json()["detail"]
    await hot.publish("app1", "foo")


@pytest.mark.parametrize(
    ("query", "place"), [("record.json.a%20%3E", "1:16"), ("%2B", "1:1"), ("nothing(1)", "1:1"), ("a" * 1025, "1:1")]
)
@pytest_twisted.ensureDeferred
async def test_filter_that_cannot_be_used_is_400_with_its_place(hot: Administered, query: str, place: str) -> None:
    for path in ("app1.foo/g1", "app1.foo?last=1"):
        answer = await hot.read("app2", f"{path}{'&' if '?' in path else '?'}filter={query}")
        assert (answer.status, answer.code) == (400, "invalid-expression")
        assert answer.json()["detail"].startswith(place)


@pytest_twisted.ensureDeferred
async def test_follower_goes_over_to_changed_transforms_between_two_records(hot: Administered) -> None:
    await put(hot, out=[MASK])
    socket = await websocket(hot, "/v1/topics/app1.foo/g1", "app2-sub")
    values: list[Any] = []

    async def next_card(amount: int) -> str:
        await hot.publish("app1", "foo", order(amount))
        await eventually(lambda: len(socket.messages()) > len(values))
        values.append(json.loads(json.loads(socket.messages()[len(values)])["value"]))
        card: str = values[-1]["card"]
        return card

    assert await next_card(1) == "****"
    await put(hot, expect=200, out=[{"mask": ["/card"], "with": "gone"}])
    assert await next_card(2) == "gone"
    assert (await hot.admin("DELETE", FOO)).status == 204
    assert await next_card(3) == SECRET.decode()
    assert [each["amount"] for each in values] == [1, 2, 3]
    socket.client.close()


@pytest.mark.parametrize(
    "value",
    [
        b'{"card":"%s","card":"x"}' % SECRET,
        b'{"card":"%s","card":"\\u003a"}' % SECRET,
        b'{"a":{"card":"%s","card":1}}' % SECRET,
        b'{"card":"%s","x":%s}' % (SECRET, b"[" * 300 + b"]" * 300),
    ],
)
@pytest_twisted.ensureDeferred
async def test_value_that_programs_read_differently_is_not_shown_and_holds_up_none_behind_it(
    hot: Administered, value: bytes
) -> None:
    await put(hot, out=[{"mask": ["/card", "/a/card"]}])
    for each in (order(1), value, order(2)):
        await hot.publish("app1", "foo", each)
    answer = await hot.read("app2", "app1.foo/g1?limit=9&idle=0.5")
    assert amounts("raw", answer) == [1, 2]
    assert SECRET not in answer.body
    alone = await hot.read("app2", "app1.foo?last=9&timeout=0")
    assert amounts("raw", alone) == [1, 2]
    tried = await hot.admin("POST", f"{FOO}/try", {"direction": "out", "last": 3})
    assert [each["outcome"] for each in tried.json()["records"]] == ["changed", "refused", "changed"]


@pytest_twisted.ensureDeferred
async def test_reason_of_a_failure_says_nothing_of_the_record(hot: Administered) -> None:
    await put(hot, out=[{"drop": "record.headers[record.json.card] == 'a'"}, MASK])
    await hot.publish("app1", "foo", order(1))
    assert (await hot.read("app2", "app1.foo/g1?limit=9&timeout=0.5")).status == 204
    await put(hot, expect=200, out=[MASK])
    letter = await hot.read("app2", "app1.foo/g1?queue=dead&timeout=5")
    assert letter.status == 200
    assert SECRET.decode() not in str(letter.headers) + str(letter.body)
    assert "step 0 (drop)" in str(letter.header("Kateway-Header-kateway-dead-reason"))


@pytest_twisted.ensureDeferred
async def test_on_error_pass_skips_the_failing_step_alone(hot: Administered) -> None:
    await put(hot, out=[MASK, {"drop": "record.json.none == 1"}], on_error="pass")
    await hot.publish("app1", "foo", order(1))
    answer = await hot.read("app2", "app1.foo/g1")
    assert answer.status == 200
    assert SECRET not in answer.body


@pytest_twisted.ensureDeferred
async def test_on_error_stop_ends_a_stream_whole_so_that_what_was_read_is_done_with(hot: Administered) -> None:
    await put(hot, out=[MASK], on_error="stop")
    for value in (order(1), b"no JSON", order(2)):
        await hot.publish("app1", "foo", value)
    assert amounts("raw", await hot.read("app2", "app1.foo/g1?limit=9")) == [1]
    stopped = await hot.read("app2", "app1.foo/g1?limit=9")
    assert (stopped.status, stopped.code) == (422, "transform-failed")
    for _ in range(100):
        offsets = (await hot.read("app2", "app1.foo/g1/offsets")).json()
        if offsets["partitions"][0]["committed"] == 1:
            break
        await deferLater(reactor, 0.1)
    assert offsets["partitions"][0]["committed"] == 1


@pytest_twisted.ensureDeferred
async def test_subscriber_without_dead_letters_is_stopped_instead(hot: Administered) -> None:
    await hot.change("PUT", "/bindings/app2/app1/foo/v1", {"groups": ["*"], "dead_letter": False})
    await put(hot, out=[MASK])
    await hot.publish("app1", "foo", b"no JSON")
    assert (await hot.read("app2", "app1.foo/g1")).status == 422


@pytest_twisted.ensureDeferred
async def test_read_without_a_group_waits_for_a_record_that_its_filter_is_true_of(hot: Administered) -> None:
    waiting = hot.spawn(
        hot.read("app2", "app1.foo?partition=0&offset=latest&timeout=20&filter=record.json.amount%20%3D%3D%202")
    )
    await eventually(lambda: bool(hot.service.parts.edges.topics._waiting))
    for amount in (1, 2):
        await hot.publish("app1", "foo", order(amount))
    answer = await waiting
    assert amounts("raw", answer) == [2]


@pytest_twisted.ensureDeferred
async def test_read_that_waits_when_transforms_come_into_force_goes_through_them(hot: Administered) -> None:
    waiting = hot.spawn(hot.read("app2", "app1.foo?partition=0&offset=latest&timeout=20"))
    await eventually(lambda: bool(hot.service.parts.edges.topics._waiting))
    await put(hot, out=[MASK])
    await hot.publish("app1", "foo", order(1))
    assert SECRET not in (await waiting).body


@pytest_twisted.ensureDeferred
async def test_filter_of_a_caller_that_is_not_known_is_not_looked_at(hot: Administered) -> None:
    answer = await hot.request("GET", "/v1/topics/app1.foo/g1?filter=record.")
    assert answer.status == 401


@pytest_twisted.ensureDeferred
async def test_partition_that_a_step_chooses_and_there_is_not_fails_that_record_alone(hot: Administered) -> None:
    await put(hot, **{"in": [{"set": {"topic_partition": "record.json.amount"}}]})
    headers = {**hot.key("app1-pub"), "Content-Type": "application/x-ndjson"}
    answer = await hot.request("POST", "/v1/topics/foo?batch=1&timeout=2", order(0) + b"\n" + order(7), headers=headers)
    assert answer.status == 404
    assert [each.get("status", 201) for each in answer.json()["results"]] == [201, 404]


@pytest_twisted.ensureDeferred
async def test_map_that_a_step_makes_is_the_same_text_each_time(hot: Administered) -> None:
    await put(hot, **{"in": [{"set": {"key": "record.json"}}]})
    for _ in range(8):
        await hot.publish("app1", "foo", order(1, b=1, a=2, z=3))
    assert len({each["key"] for each in await stored(hot)}) == 1


# --- the admin API ----------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_transforms_are_made_read_changed_listed_and_removed_with_etags_and_audit(hot: Administered) -> None:
    made = await hot.admin("PUT", FOO, {"in": [POSITIVE]})
    assert made.status == 201
    assert made.json() == {"in": [POSITIVE], "out": [], "on_error": "dead", "generation": 1}
    etag = made.header("ETag")
    same = await hot.admin("PUT", FOO, {"in": [POSITIVE]})
    assert (same.status, same.header("ETag")) == (200, etag)
    stale = await hot.admin("PUT", FOO, {"out": [MASK]}, headers={"If-Match": '"old"'})
    assert stale.status == 412
    changed = await hot.admin("PUT", FOO, {"out": [MASK], "on_error": "stop"}, headers={"If-Match": str(etag)})
    assert changed.json() == {"in": [POSITIVE], "out": [MASK], "on_error": "stop", "generation": 2}
    assert (await hot.admin("GET", FOO)).json() == changed.json()
    listed = (await hot.admin("GET", "/transforms")).json()
    assert [each["name"] for each in listed["items"]] == ["app1/foo/v1"]
    assert (await hot.admin("DELETE", FOO)).status == 204
    assert (await hot.admin("GET", FOO)).status == 404
    await eventually(lambda: len(events(hot, "transforms.delete")) == 1)
    told = [*events(hot, "transforms.put"), *events(hot, "transforms.delete")]
    first, _, last, gone = [(event.get("before"), event.get("after")) for event in told]
    assert first == (None, made.json())
    assert last == (made.json(), changed.json())
    assert gone == (changed.json(), None)


@pytest.mark.parametrize(
    ("body", "code", "place"),
    [
        ({"in": [{"require": "record.json."}]}, "invalid-expression", "/in/0/require"),
        ({"out": [{"drop": "nobody(record)"}]}, "invalid-expression", "/out/0/drop"),
        ({"in": [{"schema": {"type": "wrong"}}]}, "bad-request", "/in/0/schema"),
        ({"in": [{"plugin": "none"}]}, "bad-request", "/in/0/plugin"),
        ({"in": {}}, "invalid-parameter", "in must be"),
        ({"out": [{"mask": [""]}]}, "bad-request", "/out/0/mask/0"),
        ({"in": [{"schema": {"multipleOf": 1e-300}}]}, "bad-request", "/multipleOf"),
        ({"steps": []}, "invalid-parameter", "steps"),
        ({"on_error": "other"}, "invalid-parameter", "on_error"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_transforms_that_do_not_compile_are_refused_with_their_place(
    hot: Administered, body: Any, code: str, place: str
) -> None:
    answer = await hot.admin("PUT", FOO, body)
    assert (answer.status, answer.code) == (400, code)
    assert place in answer.json()["detail"]
    assert (await hot.admin("GET", FOO)).status == 404


@pytest_twisted.ensureDeferred
async def test_transforms_need_their_topic_and_go_with_it(hot: Administered) -> None:
    assert (await hot.admin("PUT", "/transforms/app1/none/v1", {"in": [POSITIVE]})).status == 404
    await hot.topic("app1/bar/v1")
    await put(hot, "/transforms/app1/bar/v1", **{"in": [POSITIVE]})
    assert (await hot.admin("DELETE", "/topics/app1/bar/v1")).status == 204
    assert (await hot.admin("GET", "/transforms/app1/bar/v1")).status == 404
    await hot.topic("app1/bar/v1")
    assert (await hot.publish("app1", "bar", b"no JSON")).status == 201


@pytest_twisted.ensureDeferred
async def test_schema_is_checked_against_the_last_records_and_readable_by_those_who_may_use_the_topic(
    hot: Administered,
) -> None:
    for value in (order(1), b'{"amount":"many"}', b"no JSON"):
        await hot.publish("app1", "foo", value)
    schema = {"type": "object", "properties": {"amount": {"type": "integer"}}}
    only_told = await hot.admin("PUT", f"{FOO}?dry_run=1", {"in": [{"schema": schema}]})
    assert only_told.status == 200
    assert (await hot.admin("GET", FOO)).status == 404
    told = (await put(hot, **{"in": [{"schema": schema}]}))["dry_run"]
    assert told == only_told.json()["dry_run"]
    assert (told["records"], told["refused"]) == (3, 2)
    assert [(each["offset"], each["code"]) for each in told["failures"]] == [
        (1, "invalid-against-schema"),
        (2, "invalid-against-schema"),
    ]
    refused = await hot.publish("app1", "foo", b'{"amount":"many"}')
    assert (refused.status, refused.code) == (422, "invalid-against-schema")
    assert "/amount" in refused.json()["detail"]
    for application, topic in (("app1", "foo"), ("app2", "app1.foo")):
        answer = await hot.read(application, f"{topic}/schema")
        assert (answer.status, answer.json()) == (200, schema)
    assert (await hot.request("GET", "/v1/topics/foo/schema")).status == 401
    await hot.topic("app1/bar/v1")
    assert (await hot.read("app1", "bar/schema")).status == 404


@pytest_twisted.ensureDeferred
async def test_steps_are_tried_on_given_and_on_last_records_and_change_nothing(hot: Administered) -> None:
    await hot.publish("app1", "foo", order(7))
    steps = [POSITIVE, MASK]
    given = [{"value_json": {"amount": 1, "card": "1"}}, {"value": "no JSON"}, {"value_json": {"amount": 0}}]
    tried = await hot.admin("POST", f"{FOO}/try", {"direction": "in", "steps": steps, "records": given})
    assert tried.status == 200
    records = tried.json()["records"]
    assert [each["outcome"] for each in records] == ["changed", "refused", "refused"]
    assert records[0]["after"]["value"] == '{"amount":1,"card":"****"}'
    assert [step["step"] for step in records[0]["steps"]] == ["require", "mask"]
    assert records[1]["steps"][0]["error"]["type"] == "urn:kateway:error:transform-failed"
    assert all(step["seconds"] >= 0 for each in records for step in each["steps"])
    last = await hot.admin("POST", f"{FOO}/try", {"direction": "out", "steps": [MASK], "last": 5})
    (record,) = last.json()["records"]
    assert (record["offset"], json.loads(record["after"]["value"])["card"]) == (0, "****")
    dropped = await hot.admin("POST", f"{FOO}/try", {"direction": "out", "steps": [{"drop": "true"}], "last": 1})
    assert dropped.json()["records"][0]["outcome"] == "dropped"
    assert (await hot.admin("POST", f"{FOO}/try", {"last": 1})).status == 404
    assert (await hot.admin("POST", f"{FOO}/try", {"steps": [], "last": 0})).status == 400
    assert (await hot.admin("POST", f"{FOO}/try", {"steps": [], "records": [1]})).status == 400
    assert len(await stored(hot)) == 1


# --- where they live --------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_registry_file_has_transforms_and_its_faults_are_named(administered: Make, tmp_path: Path) -> None:
    file = tmp_path / "registry.toml"
    table = '\n[transforms."app1/foo/v1"]\nin = [{ require = "record.json.amount > 0" }]\n'
    file.write_text(REGISTRY + table)
    shop = administered(registry=RegistryConfig(driver="file", path=str(file)))
    shop.secrets = {"app1-pub": "first-secret", "app1-sub": "second-secret"}
    await shop.start()
    assert (await shop.publish("app1", "foo", order(0))).status == 422
    file.write_text(REGISTRY + table.replace("> 0", ">"))
    refused = await shop.admin("POST", "/reload")
    assert refused.status == 422
    assert "transforms.app1/foo/v1: /in/0/require: 1:" in refused.body.decode()
    assert (await shop.publish("app1", "foo", order(0))).status == 422
    file.write_text(REGISTRY + table.replace("> 0", ">= 0"))
    assert (await shop.admin("POST", "/reload")).status == 200
    assert (await shop.publish("app1", "foo", order(0))).status == 201
    assert (await shop.admin("GET", FOO)).json()["generation"] == 2


@pytest_twisted.ensureDeferred
async def test_open_mode_has_transforms_in_its_configuration_and_a_reload_changes_them(tmp_path: Path) -> None:
    settings = attrs.evolve(config(tmp_path / "data"), transforms={"default/foo.bar/v1": {"in": [POSITIVE]}})
    gateway = RunningGateway(settings, "hot")
    await gateway.start()
    try:
        assert (await gateway.request("POST", "/v1/topics/foo.bar", order(0))).status == 422
        assert (await gateway.request("POST", "/v1/topics/other", order(0))).status == 201
        # the same topics of the store by other names
        assert (await gateway.request("POST", "/v2/topics/foo", order(0))).status == 201
        gateway.service.reloading.reread = lambda: attrs.evolve(
            settings, transforms={"default/foo.bar/v1": {"in": [{"require": "record.json."}]}}
        )
        with pytest.raises(ConfigError, match=r"transforms\.default/foo\.bar/v1: /in/0/require: 1:"):
            await gateway.service.reload()
        assert (await gateway.request("POST", "/v1/topics/foo.bar", order(0))).status == 422
        gateway.service.reloading.reread = lambda: attrs.evolve(settings, transforms={})
        await gateway.service.reload()
        assert (await gateway.request("POST", "/v1/topics/foo.bar", order(0))).status == 201
    finally:
        await gateway.stop()


@pytest_twisted.ensureDeferred
async def test_other_names_of_a_topic_in_open_mode_go_through_its_transforms(tmp_path: Path) -> None:
    transforms = {"default/foo/v2": {"in": [POSITIVE], "out": [MASK]}}
    settings = attrs.evolve(config(tmp_path / "data"), transforms=transforms)
    gateway = RunningGateway(settings, "hot")
    await gateway.start()
    try:
        assert (await gateway.request("POST", "/v1/topics/foo.v2", order(0))).status == 422
        assert (await gateway.request("POST", "/v1/topics/foo.v2", order(1))).status == 201
        for path in ("/v1/topics/foo.v2/g", "/v1/topics/foo.v2?last=1", "/v2/topics/foo/h?ack=explicit"):
            answer = await gateway.request("GET", path)
            assert (answer.status, SECRET in answer.body) == (200, False)
        dead = json.dumps([{"partition": int(str(answer.header("X-Partition"))), "offset": 0, "outcome": "dead"}])
        await gateway.request("POST", "/v2/topics/foo/h/acks?sync=1", dead.encode())
        for path in ("/v1/topics/foo.v2.h.dead/x", "/v1/topics/foo.v2.h.dead?last=1", "/v2/topics/foo/h?queue=dead"):
            answer = await gateway.request("GET", path)
            assert (answer.status, SECRET in answer.body) == (200, False), path
    finally:
        await gateway.stop()


@pytest_twisted.ensureDeferred
async def test_leases_that_come_back_are_masked_too(administered: Make) -> None:
    shop = administered(delivery=DeliveryConfig(max_deliveries=0))
    await shop.start()
    await shop.application("app1")
    await shop.topic("app1/foo/v1")
    await put(shop, out=[MASK])
    await shop.publish("app1", "foo", order(1))
    path = "foo/g1?ack=explicit&ack_timeout=1&timeout=10"
    for attempt in ("1", "2"):
        answer = await shop.read("app1", path)
        assert answer.header("X-Attempt") == attempt
        assert SECRET not in answer.body
