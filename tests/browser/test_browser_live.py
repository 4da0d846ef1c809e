"""Figures on the pages follow what happens, say how old they are, and stay where they are under the pointer."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from managed import Gateway, Watch
from playwright.sync_api import Browser, Page, expect
from servers.daemon import Daemon, Installation

Go = Callable[[str], Page]


def publishes_on(gateway: Gateway, topic: str, headers: dict[str, str]) -> int:
    return gateway.ask("POST", f"/v1/topics/{topic}", b"x", headers, gateway.daemon.public_port)[0]


@contextmanager
def flood(gateway: Gateway, topic: str, headers: dict[str, str], per_second: float) -> Iterator[list[int]]:
    """Publishes so often until the block ends; gives the statuses so far."""
    ended, statuses = threading.Event(), list[int]()

    def run() -> None:
        due = time.monotonic()
        while not ended.is_set():
            statuses.append(publishes_on(gateway, topic, headers))
            due += 1 / per_second
            ended.wait(max(due - time.monotonic(), 0))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        thread.join()


def test_requests_beyond_a_quota_are_in_list_and_chart_as_the_client_counts_them(go: Go, gateway: Gateway) -> None:
    gateway.topic("greedy/t/v1")
    gateway.admin("PUT", "applications/greedy", {"quota": {"publish_records_per_second": 10}})
    page = go("applications?contains=greedy")
    row = page.get_by_role("table", name="Applications").get_by_role("row", name="greedy")
    row.wait_for()
    refused = row.get_by_role("cell").last
    with flood(gateway, "t", gateway.key("greedy", "pub"), 50) as statuses:
        expect(refused).to_have_text(re.compile(r"^[1-9]"))
        overview = go("")
        chart = overview.get_by_role(
            "img", name=re.compile(r"^Refused and failed a second: now .* and [1-9][\d.]*.s\.")
        )
        expect(chart).to_have_count(1)
        throttled = overview.get_by_role("region", name="Throttled applications")
        expect(throttled).to_contain_text("greedy")
    counted = statuses.count(429)
    page = go("applications?contains=greedy")
    expect(refused).to_have_text(re.compile(r"^[1-9]"))
    assert abs(int(refused.inner_text().replace(",", "")) - counted) <= counted * 0.1
    errors = go("errors?contains=quota-exceeded greedy").get_by_role("table", name="Errors").get_by_role("row")
    expect(errors.nth(1)).to_contain_text("quota-exceeded")
    assert abs(int(errors.nth(1).get_by_role("cell").nth(3).inner_text().replace(",", "")) - counted) <= counted * 0.1


def test_reader_that_stops_reading_is_blocked(go: Go, gateway: Gateway) -> None:
    gateway.topic("stuck/t/v1", partitions=1)
    for _ in range(12):
        gateway.publish("stuck/t/v1", *["x" * 100_000] * 8)
    headers = "".join(f"{name}: {value}\r\n" for name, value in gateway.key("stuck", "sub").items())
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", gateway.daemon.public_port))
        client.sendall(f"GET /v1/topics/t/g?limit=1000&idle=60 HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
        client.recv(1000)
        page = go("groups/stuck/stuck/t/v1/g")
        reader = page.get_by_role("table", name="Readers").get_by_role("row").nth(1)
        expect(reader).to_contain_text("blocked")
        # half of what is known of the last minute
        expect(page.locator(".verdictline")).to_contain_text("blocked", timeout=45_000)


def test_row_changes_where_it_is_while_the_pointer_is_over_the_table(go: Go, gateway: Gateway) -> None:
    gateway.topic("still/t/v1", partitions=1)
    gateway.publish("still/t/v1", "a", "b")
    key = gateway.key("still", "sub")
    for group in ("g1", "g2"):
        assert gateway.read(f"t/{group}?limit=1&idle=2", key)[0] == 200
    page = go("groups?contains=still&sort=lag&desc=1")
    rows = page.get_by_role("table", name="Groups").get_by_role("row")
    expect(rows).to_have_count(3)
    expect(rows.nth(2)).to_contain_text("g2")
    rows.nth(1).hover()
    # g1 has nothing left, so it would be the second
    assert gateway.read("t/g1?limit=1&idle=2", key)[0] == 200
    expect(rows.nth(1).get_by_role("cell").nth(2)).to_have_text("0")
    assert "g1" in rows.nth(1).inner_text()
    page.get_by_role("button", name="Lag").click()
    page.get_by_role("button", name="Lag").click()
    expect(rows.nth(1)).to_contain_text("g2")


def test_eight_tabs_are_alive_at_once(browser: Browser, gateway: Gateway, watches: list[Watch]) -> None:
    gateway.topic("tabbed/t/v1")
    key = gateway.key("tabbed", "pub")
    assert publishes_on(gateway, "t?nonsense=1", key) == 400
    context = browser.new_context()
    tabs = [context.new_page() for _ in range(8)]
    for tab in tabs:
        watches.append(Watch(tab, gateway.daemon.admin))
        tab.goto(f"{gateway.url}#/errors?contains=unknown-parameter tabbed")
        expect(tab.get_by_role("table", name="Errors").get_by_role("row")).to_have_count(2)
    count = tabs[0].get_by_role("table", name="Errors").get_by_role("row").nth(1).get_by_role("cell").nth(3)
    before = int(count.inner_text())
    assert publishes_on(gateway, "t?nonsense=1", key) == 400
    for tab in tabs:
        # by a stream within a second, or by the question that a page without one asks each five
        cell = tab.get_by_role("table", name="Errors").get_by_role("row").nth(1).get_by_role("cell").nth(3)
        expect(cell).to_have_text(str(before + 1))
    context.close()


def test_page_without_a_stream_asks_each_five_seconds(go: Go, gateway: Gateway, page: Page, watch: Watch) -> None:
    watch.refusals = {429}
    gateway.topic("polled/t/v1")
    key = gateway.key("polled", "pub")
    assert publishes_on(gateway, "t?nonsense=1", key) == 400

    def refuse(route: object) -> None:
        asks_for_a_stream = route.request.headers["accept"] == "text/event-stream"  # type: ignore[attr-defined]
        if asks_for_a_stream:
            route.fulfill(status=429, body="{}")  # type: ignore[attr-defined]
        else:
            route.continue_()  # type: ignore[attr-defined]

    page.route("**/admin/v1/live?**", refuse)
    go("errors?contains=unknown-parameter polled")
    cell = page.get_by_role("table", name="Errors").get_by_role("row").nth(1).get_by_role("cell").nth(3)
    expect(cell).to_have_text("1")
    assert publishes_on(gateway, "t?nonsense=1", key) == 400
    expect(cell).to_have_text("2")


def test_store_that_is_away_changes_words_and_marks_and_so_does_its_return(go: Go, gateway: Gateway) -> None:
    page = go("")
    words = page.get_by_role("status").filter(has_text=re.compile("All is well|Look at this|Trouble"))
    state = page.get_by_role("region", name="Stores and registry").get_by_role("listitem").first
    expect(state).to_contain_text("healthy")
    gateway.admin("POST", "breakers/default", {"state": "open"})
    try:
        expect(words).to_contain_text("The store default is away")
        expect(state).to_contain_text("away")
    finally:
        gateway.admin("POST", "breakers/default", {"state": "closed"})
    expect(state).to_contain_text("healthy")
    expect(words).not_to_contain_text("The store default is away")


@pytest.fixture
def own(installed: Installation, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that a test may stop."""
    (tmp_path / "kateway.toml").write_text('[registry]\ndriver = "embedded"\n')
    daemon = Daemon(installed, tmp_path, ["--config", "kateway.toml", "--data", "data"])
    daemon.start()
    yield Gateway(daemon)
    daemon.kill()


def test_gateway_that_says_nothing_leaves_stale_values_with_their_age(
    page: Page, own: Gateway, watches: list[Watch]
) -> None:
    watches.append(Watch(page, own.daemon.admin))
    watches.pop(0)
    page.goto(own.url)
    page.get_by_role("heading", name="Stores and registry").wait_for()
    own.daemon.freeze()
    try:
        expect(page.get_by_text("What is shown is stale since")).to_be_visible(timeout=30_000)
        assert "stale" in (page.locator("#page").get_attribute("class") or "")
    finally:
        own.daemon.thaw()
    expect(page.get_by_text("What is shown is stale since")).to_have_count(0, timeout=30_000)


def test_gateway_is_drained_by_its_typed_name(page: Page, own: Gateway, watches: list[Watch]) -> None:
    watches.pop(0)
    (row,) = own.admin("GET", "gateways")["items"]
    page.goto(f"{own.url}#/gateways")
    page.get_by_role("button", name=f"Drain {row['name']}").click()
    form = page.get_by_role("dialog")
    expect(form.get_by_role("button", name="Drain")).to_be_disabled()
    form.get_by_label("Name").fill(row["name"])
    form.get_by_role("button", name="Drain").click()
    assert own.daemon.process.wait(30) == 0
    assert own.audited("drain") == [row["name"]]
    assert "kateway has stopped" in own.daemon.log
