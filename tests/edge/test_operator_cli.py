"""``kateway-admin`` for records and groups, against a whole gateway."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_twisted
from administered import Administered
from gateways import eventually
from twisted.internet.threads import deferToThread

from kateway.cli.main import main


class Told(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Awaitable[Told]]


@pytest.fixture
def run(hot: Administered, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command against the gateway."""

    async def command(*arguments: str) -> Told:
        url = f"http://127.0.0.1:{hot.admin_port}"
        status = await deferToThread(main, ["--url", url, *arguments])
        return Told(status, *capsys.readouterr())

    return command


@pytest_twisted.ensureDeferred
async def test_records_peek_prints_records_and_how_far_it_looked(hot: Administered, run: Run) -> None:
    for value in (b"a1", b"b2", b"c3"):
        await hot.publish("app1", "foo", value)
    told = await run("records", "peek", "app1/foo/v1", "--last", "2")
    assert told.status == 0, told.err
    assert "c3" in told.out
    assert "a1" not in told.out
    assert "stopped: limit" in told.out
    found = (await run("records", "peek", "app1/foo/v1", "--partition", "0", "--offset", "1", "--json")).json
    assert [record["value"] for record in found["records"]] == ["b2", "c3"]
    found = (await run("records", "peek", "app1/foo/v1", "--contains", "b", "--full", "--json")).json
    assert [record["value"] for record in found["records"]] == ["b2"]
    assert (await run("records", "peek", "app1/foo")).status == 2
    assert (await run("records", "peek", "app1/none/v1")).status == 1
    assert (await run("records", "peek", "app1/foo/v1", "--dead", "app2/g1")).status == 1


@pytest_twisted.ensureDeferred
async def test_records_publish_writes_a_value_a_batch_and_a_tombstone(
    hot: Administered, run: Run, tmp_path: Path
) -> None:
    told = await run("records", "publish", "app1/foo/v1", "--value", "hello", "--key", "k", "--header", "my_name=x=y")
    assert told.out == "partition: 0\noffset: 0\n", told.err
    file = tmp_path / "values"
    file.write_bytes(b"one\ntwo\n")
    told = await run("records", "publish", "app1/foo/v1", "--batch", "ndjson", "--file", str(file), "--json")
    assert [result["offset"] for result in told.json["results"]] == [1, 2]
    assert (await run("records", "publish", "app1/foo/v1", "--tombstone", "--key", "k")).status == 0
    records = (await run("records", "peek", "app1/foo/v1", "--json")).json["records"]
    assert [record["value"] for record in records] == ["hello", "one", "two", None]
    assert {"name": "my_name", "value": "x=y"} in records[0]["headers"]
    file.write_bytes(b'["a",{"partition":9,"value":"b"}]')
    told = await run("records", "publish", "app1/foo/v1", "--batch", "json", "--file", str(file))
    assert (told.status, "partition 9" in told.err) == (1, True)


async def leased(hot: Administered, *values: bytes) -> None:
    """Publishes values, and leases them to g1 of app2."""
    for value in values:
        await hot.publish("app1", "foo", value)
    answer = await hot.read("app2", f"app1.foo/g1?ack=explicit&limit={len(values)}&idle=0.1")
    assert answer.status == 200


@pytest_twisted.ensureDeferred
async def test_groups_list_show_and_lag_say_how_far_a_group_is(hot: Administered, run: Run) -> None:
    await leased(hot, b"a", b"b")
    told = await run("groups", "list", "--sort", "lag", "--desc")
    assert told.status == 0, told.err
    name, state, lag = told.out.splitlines()[1].split()[:3]
    assert (name, state, lag) == ("app2/app1/foo/v1/g1", "lingering", "2")
    assert "unknown" in told.out
    assert "no look at it was taken yet" in told.out
    told = await run("history", name, "--window", "15m")
    assert "oldest_seconds      unknown" in told.out
    told = await run("groups", "show", name)
    assert "unacknowledged_records: 2" in told.out
    assert "drain_seconds: unknown" in told.out
    assert (await run("groups", "lag", name, "--json")).json["partitions"][0]["leased"] == 2
    assert (await run("groups", "list", "--contains", "zzz")).out == "none\n"
    assert (await run("groups", "show", "app2/app1/foo/g1")).status == 2
    assert (await run("groups", "show", name, "--dead")).status == 1


@pytest_twisted.ensureDeferred
async def test_groups_move_is_tried_dry_first(hot: Administered, run: Run) -> None:
    await leased(hot, b"a", b"b")
    name = "app2/app1/foo/v1/g1"
    dry = await run("groups", "move", name, "--to", "latest", "--dry-run", "--json")
    assert dry.json["partitions"] == [{"partition": 0, "committed": None, "to": 2, "again": 0, "skipped": 2}]
    assert (await run("groups", "move", name, "--offset", "0=1", "--json")).json == {
        "partitions": [{"partition": 0, "committed": 1}]
    }
    assert (await run("groups", "move", name, "--timestamp", "0")).status == 0
    assert (await run("groups", "lag", name, "--json")).json["lag"] == 2
    assert (await run("groups", "move", name, "--offset", "0=9")).status == 1


@pytest_twisted.ensureDeferred
async def test_groups_redrive_begins_and_says_how_far_it_is(hot: Administered, run: Run) -> None:
    await leased(hot, b"a", b"b")
    items = [{"partition": 0, "offset": offset, "outcome": "dead"} for offset in (0, 1)]
    await hot.request("POST", "/v1/topics/app1.foo/g1/acks?sync=1", headers=hot.key("app2-sub"), json=items)
    name = "app2/app1/foo/v1/g1"
    told = await run("records", "peek", "app1/foo/v1", "--dead", "app2/g1", "--json")
    assert [record["value"] for record in told.json["records"]] == ["a", "b"]
    assert (await run("groups", "redrive", name)).status == 1
    assert (await run("groups", "redrive", name, "--record", "0=1", "--per-second", "100")).status == 0
    await eventually(lambda: not hot.service.http.operating.redrives._running)
    told = await run("groups", "redrive", name)
    assert told.out.startswith("state: done\n")
    assert "redriven: 1\n" in told.out
    assert (await run("groups", "redrive", name, "--all", "--json")).json["total"] == 1
    await eventually(lambda: not hot.service.http.operating.redrives._running)


@pytest_twisted.ensureDeferred
async def test_records_show_says_what_has_become_of_one(hot: Administered, run: Run) -> None:
    await leased(hot, b"a")
    told = await run("records", "show", "app1/foo/v1", "0", "0", "--group", "app2/g1")
    assert "state: leased" in told.out, told.err
    assert "client: caller=app2/app2-sub address=127.0.0.1" in told.out
    assert (await run("records", "show", "app1/foo/v1", "0", "0", "--json")).json["record"]["value"] == "a"
    assert (await run("records", "show", "app1/foo/v1", "0", "5")).status == 1


@pytest_twisted.ensureDeferred
async def test_profile_stacks_and_memory_look_into_the_process(hot: Administered, run: Run) -> None:
    told = await run("profile", "--seconds", "0.1")
    assert "MainThread;" in told.out, told.err
    assert (await run("profile", "--seconds", "0.1", "--json")).json["profiles"]
    assert "MainThread\n" in (await run("stacks")).out
    assert (await run("stacks", "--json")).json["threads"]
    told = await run("memory")
    assert (told.status, "trace_memory_frames" in told.err) == (1, True)


@pytest_twisted.ensureDeferred
async def test_transforms_are_tried_put_shown_and_deleted(hot: Administered, run: Run, tmp_path: Path) -> None:
    await hot.publish("app1", "foo", b'{"amount":1,"card":"4242"}')
    file = tmp_path / "transforms.json"
    steps = {"in": [{"require": "record.json.amount > 0", "message": "more"}], "out": [{"mask": ["/card"]}]}
    file.write_text(json.dumps(steps))
    told = await run("transforms", "try", "app1/foo/v1", "--file", str(file), "--value", '{"amount":0}')
    assert told.status == 0, told.err
    assert "refused: more" in told.out
    told = await run("transforms", "try", "app1/foo/v1", "--file", str(file), "--direction", "out", "--last", "1")
    assert '{"amount":1,"card":"4242"}' in told.out
    assert '{"amount":1,"card":"****"}' in told.out
    assert "MICROSECONDS" in told.out
    assert (await run("transforms", "put", "app1/foo/v1", "--file", str(file), "--dry-run", "--json")).json["dry_run"]
    assert (await run("transforms", "show", "app1/foo/v1")).status == 1
    assert (await run("transforms", "put", "app1/foo/v1", "--file", str(file))).status == 0
    assert (await run("transforms", "show", "app1/foo/v1", "--json")).json["in"] == steps["in"]
    assert "app1/foo/v1" in (await run("transforms", "list")).out
    assert (await run("transforms", "try", "app1/foo/v1", "--value", '{"amount":1}', "--json")).json["records"]
    assert (await run("transforms", "delete", "app1/foo/v1")).status == 0
    file.write_text("[]")
    assert (await run("transforms", "put", "app1/foo/v1", "--file", str(file))).status == 2
    assert (await run("bindings", "put", "app2/app1/foo/v1", "--filter", "record.json.amount > 0")).status == 0
    assert (await run("bindings", "show", "app2/app1/foo/v1", "--json")).json["filter"] == "record.json.amount > 0"


@pytest_twisted.ensureDeferred
async def test_what_flows_fails_and_changes_is_told(hot: Administered, run: Run) -> None:
    await hot.publish("app1", "foo")
    await hot.request("POST", "/v1/topics/foo?partition=99", b"x", headers=hot.key("app1-pub"))
    assert hot.service.http.observing is not None
    await hot.service.http.observing.looking.look_at_objects()
    told = await run("errors", "--application", "app1")
    assert told.status == 0, told.err
    assert "partition-not-found" in told.out
    assert (await run("errors", "--reason", "too-large", "--json")).json["items"] == []
    assert (await run("errors", "--reason", "none")).status == 1
    assert (await run("slow", "--limit", "5")).status == 0
    assert "start" in (await run("events")).out
    told = await run("audit", "--action", "topic.put", "--json")
    assert [event["object"] for event in told.json["items"]] == ["app1/foo/v1"]
    assert "app1/app1-pub" in (await run("producers", "app1/foo/v1")).out
    assert (await run("producers", "app1/foo")).status == 2
    assert [row["in_records"] for row in (await run("usage", "--json")).json["items"]] == [1]
    assert (await run("usage", "--to", "2020-01-01")).status == 0


@pytest_twisted.ensureDeferred
async def test_elastic_topics_are_made_shown_and_ended(hot: Administered, run: Run) -> None:
    told = await run("topics", "put", "app1/grows/v1", "--partitions", "2", "--elastic", '{"max_partitions":4}')
    assert told.status == 0, told.err
    told = await run("elastic")
    assert told.status == 0, told.err
    assert told.out.splitlines()[1].split()[:3] == ["app1/grows/v1", "settled", "2"]
    (row,) = (await run("elastic", "--json")).json["items"]
    assert row["elastic"]["max_partitions"] == 4
    assert (await run("topics", "put", "app1/grows/v1", "--elastic", "none")).status == 0
    assert "elastic" not in (await run("topics", "show", "app1/grows/v1", "--json")).json
    with pytest.raises(SystemExit):
        await run("topics", "put", "app1/grows/v1", "--elastic", "[1]")
