"""Signing in and out on the page, and what a role or a tenant finds there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from managed import Gateway, Watch
from playwright.sync_api import Browser, BrowserContext, Page, expect
from servers.daemon import Daemon, Installation

ADMIN, VIEWER = "the-administrators-token-1234", "the-viewers-token-12345678"
CONFIGURATION = """
[registry]
driver = "embedded"
[admin]
token_file = "admin.token"
[admin.tokens.watcher]
file = "viewer.token"
role = "viewer"
"""


@pytest.fixture(scope="module")
def guarded(installed: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("guarded")
    (folder / "admin.token").write_text(ADMIN)
    (folder / "viewer.token").write_text(VIEWER)
    (folder / "kateway.toml").write_text(CONFIGURATION)
    daemon = Daemon(installed, folder, ["--config", "kateway.toml", "--data", "data"])
    daemon.start()
    gateway = Gateway(daemon, {"Authorization": f"Bearer {ADMIN}"})
    gateway.topic("own/t/v1")
    gateway.topic("other/secret/v1")
    yield gateway
    daemon.terminate()


@pytest.fixture
def tab(context: BrowserContext, guarded: Gateway, watches: list[Watch]) -> Page:
    return opened(context, guarded, watches)


def opened(context: BrowserContext, guarded: Gateway, watches: list[Watch]) -> Page:
    page = context.new_page()
    watches.append(Watch(page, guarded.daemon.admin))
    return page


def sign_in(page: Page, gateway: Gateway, token: str) -> None:
    page.goto(gateway.url)
    page.get_by_label("Admin token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")


def test_wrong_token_is_an_alert_and_the_right_one_leaves_no_trace(
    tab: Page, guarded: Gateway, watches: list[Watch]
) -> None:
    watches[-1].refusals = {401}
    tab.goto(f"{guarded.url}#/topics")
    expect(tab.get_by_role("heading", level=1)).to_have_text("Sign in")
    # which gateway it is, and which version
    expect(tab.locator(".lead")).to_contain_text(re.compile(r"gateway-\w+ at 127\.0\.0\.1:\d+, kateway \d"))
    tab.get_by_label("Admin token").fill("wrong")
    tab.get_by_role("button", name="Sign in").click()
    expect(tab.get_by_role("alert")).to_contain_text("Request id")
    tab.get_by_label("Admin token").fill(ADMIN)
    tab.get_by_role("button", name="Sign in").click()
    # to where the link led
    expect(tab.get_by_role("heading", level=1)).to_have_text("Topics")
    (cookie,) = tab.context.cookies()
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    kept = tab.evaluate("JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + location.href")
    assert ADMIN not in kept
    tab.get_by_role("button", name="Sign out").click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert tab.evaluate("localStorage.length") == 0
    assert tab.context.cookies() == []


def test_viewer_finds_no_button_beyond_its_right(tab: Page, guarded: Gateway) -> None:
    sign_in(tab, guarded, VIEWER)
    for place in ("applications", "applications/own", "topics/own/t/v1?tab=settings", "gateways", "try"):
        tab.goto(f"{guarded.url}#/{place}")
        tab.get_by_role("button", name="Sign out").wait_for()
        tab.wait_for_timeout(500)
        for name in (
            "Create",
            "Register",
            "Delete",
            "Rotate",
            "Revoke",
            "Reload",
            "Profile",
            "Publish",
            "Start tail",
            "Drain",
        ):
            assert tab.get_by_role("button", name=name).count() == 0, (place, name)


def test_viewer_sees_no_part_of_a_topic_beyond_its_right(tab: Page, guarded: Gateway) -> None:
    sign_in(tab, guarded, VIEWER)
    for part in ("records", "publish", "nothing"):
        tab.goto("about:blank")
        tab.goto(f"{guarded.url}#/topics/own/t/v1?tab={part}")
        expect(tab.get_by_role("heading", level=1)).to_have_text("own/t/v1")
        expect(tab.locator(".notice")).to_contain_text("part of a topic")
        assert tab.get_by_role("link", name="Records").count() == 0
        assert tab.get_by_role("table").count() == 0
    tab.goto(f"{guarded.url}#/topics/own/t/v1?tab=transforms")
    expect(tab.locator("main")).to_contain_text("records pass as they are")
    assert tab.locator("main").get_by_role("textbox").count() == 0


def test_tabs_sign_in_and_out_together(
    tab: Page, context: BrowserContext, guarded: Gateway, watches: list[Watch]
) -> None:
    other = opened(context, guarded, watches)
    other.goto(f"{guarded.url}#/topics")
    expect(other.get_by_role("heading", level=1)).to_have_text("Sign in")
    sign_in(tab, guarded, VIEWER)
    expect(other.get_by_role("heading", level=1)).to_have_text("Topics")
    expect(other.locator("#whoami")).to_contain_text("watcher (viewer)")
    tab.get_by_role("button", name="Sign out").click()
    expect(other.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_failed_request_of_a_person_is_shown_with_the_tokens_name_and_leads_to_no_application(
    tab: Page, guarded: Gateway, watches: list[Watch]
) -> None:
    watches[-1].refusals = {404}
    sign_in(tab, guarded, VIEWER)
    tab.goto(f"{guarded.url}#/topics/own/gone/v1")
    expect(tab.get_by_role("heading", level=1)).to_have_text("own/gone/v1")
    tab.goto(f"{guarded.url}#/errors")
    row = tab.get_by_role("table", name="Errors").get_by_role("row").filter(has_text="watcher")
    expect(row.first).to_contain_text("not-found")
    assert row.get_by_role("link").count() == 0


def test_portal_link_works_once_and_shows_one_application(
    browser: Browser, tab: Page, guarded: Gateway, watches: list[Watch]
) -> None:
    sign_in(tab, guarded, ADMIN)
    tab.goto(f"{guarded.url}#/applications/own")
    tab.get_by_role("button", name="Portal link").click()
    link = tab.get_by_role("group", name="Portal link").inner_text()
    for works in (True, False):
        context = browser.new_context()
        page = opened(context, guarded, watches)
        watches[-1].refusals = {401}
        page.goto(link)
        if works:
            expect(page.get_by_role("heading", level=1)).to_have_text("My application")
            expect(page.get_by_role("table", name="Topics")).to_contain_text("own/t/v1")
            assert "other" not in page.locator("main").inner_text()
            assert "link=" not in page.url
            page.get_by_role("button", name="Create key").click()
            page.get_by_role("dialog").get_by_role("button", name="Create", exact=True).click()
            page.get_by_role("group", name="Secret").wait_for()
            for place, heading in (("topics/own/t/v1", "own/t/v1"), ("try", "Try it")):
                page.goto("about:blank")
                page.goto(f"{guarded.url}#/{place}")
                expect(page.get_by_role("heading", level=1)).to_have_text(heading)
                expect(page.get_by_role("alert")).to_have_count(0)
        else:
            page.get_by_role("alert").wait_for()
        context.close()


def test_changed_token_ends_the_session_on_the_page(tab: Page, guarded: Gateway, watches: list[Watch]) -> None:
    watches[-1].refusals = {401}
    sign_in(tab, guarded, ADMIN)
    file = guarded.daemon.folder / "admin.token"
    file.write_text("another-token-of-enough-length")
    guarded.daemon.hangup()
    try:
        expect(tab.get_by_role("heading", level=1)).to_have_text("Sign in")
    finally:
        file.write_text(ADMIN)
        guarded.daemon.hangup()
