"""Records on the pages: published, looked at, tailed, redriven; groups moved."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from datetime import datetime

import pytest
from managed import Gateway, Watch
from playwright.sync_api import Page, expect

Go = Callable[[str], Page]


def test_record_published_from_the_page_has_key_headers_and_value(go: Go, gateway: Gateway) -> None:
    gateway.topic("told/t/v1", partitions=1)
    page = go("try?topic=told/t/v1")
    page.get_by_label("Value", exact=True).fill('{"a":"it\'s"}')
    page.get_by_label("Key").fill("k")
    page.get_by_label("Headers").fill("region: eu\nkind: test")
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="partition 0, offset 0")).to_have_count(1)
    line = page.get_by_role("group", name="The same by curl").inner_text()
    page.get_by_label("A tombstone").check()
    page.get_by_role("button", name="Publish", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="partition 0, offset 1")).to_have_count(1)
    done = subprocess.run(["bash", "-c", line], check=True, capture_output=True, timeout=30)
    assert json.loads(done.stdout) == {"results": [{"partition": 0, "offset": 2}]}
    first, second, third = gateway.admin("GET", "records/told/t/v1")["records"]
    assert (first["key"], first["value"]) == ("k", '{"a":"it\'s"}')
    assert {"name": "region", "value": "eu"} in first["headers"]
    assert second["value"] is None
    assert (third["key"], third["value"], third["headers"]) == (first["key"], first["value"], first["headers"])


def test_tail_counts_a_burst_and_ends_with_its_connection(go: Go, gateway: Gateway) -> None:
    gateway.topic("burst/t/v1")
    gateway.publish("burst/t/v1", "before")
    page = go("try?topic=burst/t/v1")
    page.get_by_role("button", name="Start tail").click()
    counts = page.get_by_text(re.compile("^The tail "))
    expect(counts).to_have_text("The tail runs: 0 seen, 0 dropped.")
    in_flight = 'kateway_http_requests_in_flight{operation="admin"}'
    assert gateway.metric(in_flight) == 1
    gateway.publish("burst/t/v1", *[f"value {number}" for number in range(200)])
    expect(counts).not_to_have_text("The tail runs: 0 seen, 0 dropped.")
    gateway.publish("burst/t/v1", "last")
    expect(page.get_by_role("cell", name="last", exact=True)).to_be_visible()
    seen, dropped = (int(each) for each in re.findall(r"(\d+) (?:seen|dropped)", counts.inner_text()))
    assert seen + dropped == 201
    assert 0 < seen <= 50 * 4
    assert page.get_by_role("table", name="Records").get_by_role("row").count() == seen + 1
    page.get_by_role("button", name="Stop").click()
    expect(counts).to_have_text(f"The tail is stopped: {seen} seen, {dropped} dropped.")
    gateway.daemon.process.wait_until(lambda: gateway.metric(in_flight) == 0, 30)
    assert gateway.admin("GET", "groups?contains=burst")["items"] == []
    page.get_by_role("button", name="Record ").nth(1).click()
    page.get_by_role("dialog").get_by_role("button", name="Repeat").click()
    expect(page.get_by_role("textbox", name="Value", exact=True)).to_have_value(re.compile("^value "))


def test_look_by_offset_shows_what_the_call_answers(go: Go, gateway: Gateway) -> None:
    gateway.topic("looked/t/v1", partitions=1)
    gateway.publish("looked/t/v1", *[f"v{number}" for number in range(10)])
    page = go("topics/looked/t/v1?tab=records&from=offset&at=3&partition=0&limit=4")
    rows = page.get_by_role("table", name="Records").get_by_role("row")
    expect(rows).to_have_count(5)
    shown = [rows.nth(place).get_by_role("cell").nth(3).inner_text() for place in range(1, 5)]
    answered = gateway.admin("GET", "records/looked/t/v1?offset=3&partition=0&limit=4")["records"]
    assert shown == [record["value"] for record in answered] == ["v3", "v4", "v5", "v6"]
    page.get_by_label("Contains").fill("v8")
    page.get_by_role("button", name="Look").click()
    expect(rows).to_have_count(2)


def test_group_is_moved_as_the_preview_says(go: Go, gateway: Gateway, watch: Watch) -> None:
    gateway.topic("moved/t/v1", partitions=1)
    gateway.publish("moved/t/v1", *["x"] * 5)
    key = gateway.key("moved", "sub")
    assert gateway.read("t/g?limit=3&idle=2", key)[0] == 200
    page = go("groups/moved/moved/t/v1/g")
    row = page.get_by_role("table", name="Partitions").get_by_role("row").nth(1)
    expect(row.get_by_role("cell").nth(2)).to_have_text("3")
    page.get_by_role("button", name="Move offsets").click()
    form = page.get_by_role("dialog")
    expect(form.get_by_role("button", name="Move offsets")).to_be_disabled()
    form.get_by_role("button", name="Preview").click()
    preview = form.get_by_role("table", name="Preview").get_by_role("row").nth(1)
    expect(preview).to_contain_text("3")
    form.get_by_role("button", name="Move offsets").click()
    expect(page.get_by_role("status").filter(has_text="The group is moved")).to_have_count(1)
    expect(row.get_by_role("cell").nth(2)).to_have_text("0")
    assert gateway.audited("group.offsets")[-1].endswith("to earliest")


@pytest.fixture
def letters(gateway: Gateway, request: pytest.FixtureRequest) -> str:
    """A group of an application of its own with four dead letters; the application's name."""
    owner = f"owner{abs(hash(request.node.name)) % 10**6}"
    gateway.topic(f"{owner}/t/v1", partitions=1)
    gateway.admin("PUT", "applications/weak", {})
    gateway.admin("PUT", f"bindings/weak/{owner}/t/v1", {"groups": ["*"], "max_deliveries": 1})
    gateway.die("weak", f"{owner}/t/v1", "g", "a", "b", "c", "d")
    return owner


def looked_at(go: Go, owner: str) -> Page:
    page = go(f"groups/weak/{owner}/t/v1/g")
    page.get_by_role("button", name="Look", exact=True).click()
    expect(page.get_by_role("table", name="Records").get_by_role("row")).to_have_count(5)
    return page


def values(gateway: Gateway, owner: str) -> list[str]:
    return [record["value"] for record in gateway.admin("GET", f"records/{owner}/t/v1")["records"]]


def lag_of_queue(gateway: Gateway, owner: str) -> int:
    lag: int = gateway.admin("GET", f"groups/weak/{owner}/t/v1/g?queue=dead")["lag"]
    return lag


def test_dead_letters_are_shown_and_one_is_redriven(go: Go, gateway: Gateway, letters: str) -> None:
    page = looked_at(go, letters)
    page.get_by_role("button", name="Redrive 0:0").click()
    expect(page.get_by_text("Redrive done: 1 redriven, 0 failed")).to_be_visible()
    assert values(gateway, letters) == ["a", "b", "c", "d", "a"]


def test_all_dead_letters_are_redriven_at_the_pace_that_is_asked_for(go: Go, gateway: Gateway, letters: str) -> None:
    page = looked_at(go, letters)
    page.get_by_role("button", name="Redrive all").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Records a second").fill("5")
    form.get_by_role("button", name="Redrive").click()
    expect(page.get_by_text("Redrive done: 4 of 4 redriven, 0 failed")).to_be_visible()
    began, ended = (
        datetime.fromisoformat(gateway.admin("GET", f"groups/weak/{letters}/t/v1/g/redrive")[each])
        for each in ("began", "ended")
    )
    assert (ended - began).total_seconds() >= 3 / 5
    assert values(gateway, letters) == ["a", "b", "c", "d"] * 2


def test_dead_letters_that_are_chosen_are_discarded_by_the_typed_name(go: Go, gateway: Gateway, letters: str) -> None:
    page = looked_at(go, letters)
    page.get_by_label("Choose 0:1").check()
    page.get_by_label("Choose 0:2").check()
    page.get_by_role("button", name="Discard 2 chosen").click()
    form = page.get_by_role("dialog")
    expect(form.get_by_role("button", name="Discard")).to_be_disabled()
    form.get_by_label("Name").fill("weak/g")
    form.get_by_role("button", name="Discard").click()
    expect(page.get_by_text("Discard done: 2 discarded, 0 failed")).to_be_visible()
    assert gateway.audited("group.discard")[-1] == f"weak/{letters}/t/v1/g 0:1 0:2"
    key = gateway.key("weak", "sub")
    left = gateway.read(f"{letters}.t/g?queue=dead&limit=4&idle=1&ack=explicit", key)
    assert left == (200, b"a\nd\n")


def test_all_dead_letters_are_discarded(go: Go, gateway: Gateway, letters: str) -> None:
    page = looked_at(go, letters)
    page.get_by_role("button", name="Discard all").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name").fill("weak/g")
    form.get_by_role("button", name="Discard").click()
    expect(page.get_by_text("Discard done: 4 of 4 discarded, 0 failed")).to_be_visible()
    assert lag_of_queue(gateway, letters) == 0
    assert values(gateway, letters) == ["a", "b", "c", "d"]
