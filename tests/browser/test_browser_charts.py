"""Charts have a cursor, marks of what changed, holes, and their figures as a table, by curl and as PromQL."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from managed import Gateway
from playwright.sync_api import Page, expect

Go = Callable[[str], Page]
STEP_SECONDS = 5
FIGURES = [1.0, 2.0, None, 4.0] * 5


def charted(page: Page) -> None:
    """Answers the history with figures that are known, with a reload in the midst of them."""
    began = datetime(2026, 1, 1, tzinfo=UTC)

    def history(route: object) -> None:
        names = re.findall(r"series=([^&]*)", route.request.url)[0].split("%2C")  # type: ignore[attr-defined]
        answer = {
            "step_seconds": STEP_SECONDS,
            "from": began.isoformat(),
            "series": dict.fromkeys(names, FIGURES),
        }
        route.fulfill(json=answer)  # type: ignore[attr-defined]

    def events(route: object) -> None:
        at = (began + timedelta(seconds=4 * STEP_SECONDS)).isoformat()
        items = [{"at": at, "kind": "reload", "object": "configuration", "outcome": "ok"}]
        route.fulfill(json={"items": items})  # type: ignore[attr-defined]

    page.route("**/admin/v1/history?**", history)
    page.route("**/admin/v1/events?**", events)


def test_cursor_moves_by_keys_and_tells_figures_holes_and_changes(go: Go, page: Page) -> None:
    charted(page)
    go("")
    chart = page.locator("figure").filter(has_text="Records a second")
    picture = chart.get_by_role("img")
    expect(picture).to_have_accessible_name(re.compile("now 4/s and 4/s"))
    # a hole lifts the pen
    path = chart.locator("path.line0").get_attribute("d") or ""
    assert path.count("M") == FIGURES.count(None) + 1
    assert chart.locator(".event text").all_text_contents() == ["reload"]
    picture.focus()
    page.keyboard.press("Home")
    readout = chart.locator("output")
    expect(readout).to_contain_text("published 1/s, read 1/s")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(readout).to_contain_text("published unknown, read unknown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(readout).to_contain_text("reload configuration ok")


def test_figures_of_a_chart_are_a_table_behind_it_with_curl_and_promql(go: Go, page: Page, gateway: Gateway) -> None:
    charted(page)
    go("")
    chart = page.locator("figure").filter(has_text="Records a second")
    chart.get_by_text("As a table").click()
    rows = chart.get_by_role("table", name="Records a second").get_by_role("row")
    expect(rows).to_have_count(len(FIGURES) + 1)
    expect(rows.nth(3)).to_contain_text("unknown")
    promql = chart.get_by_role("group", name="As PromQL", exact=True).first.inner_text()
    assert promql == "sum(rate(kateway_publish_records_total{}[1m]))"
    line = chart.get_by_role("group", name="By curl", exact=True).inner_text()
    done = subprocess.run(["bash", "-c", line], check=True, capture_output=True, timeout=30)
    assert {"in_records", "out_records"} == set(json.loads(done.stdout)["series"])
    families = gateway.ask("GET", "/metrics")[1].decode()
    assert "# TYPE kateway_publish_records_total counter" in families


def test_list_says_as_of_when_it_is_and_gives_the_same_by_curl(go: Go, gateway: Gateway) -> None:
    gateway.topic("dated/t/v1")
    page = go("topics?contains=dated")
    expect(page.get_by_role("table", name="Topics").get_by_role("row")).to_have_count(2)
    summary = page.get_by_text(re.compile(r"As of \d\d:\d\d:\d\d"))
    summary.click()
    line = page.get_by_role("group", name="By curl", exact=True).inner_text()
    done = subprocess.run(["bash", "-c", line], check=True, capture_output=True, timeout=30)
    assert [row["name"] for row in json.loads(done.stdout)["items"]] == ["dated/t/v1"]
