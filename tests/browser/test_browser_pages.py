"""Every page of the manager opens without an error, is accessible in both themes, and fits a narrow screen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from managed import Gateway, Watch
from playwright.sync_api import Browser, Page, expect
from prefixing import PrefixingProxy

HOSTILE = '<img src=x onerror="document.title=1"></script><script>document.title=2</script>'
PAGES = {
    "": "Overview",
    "applications": "Applications",
    "applications/shop": "shop",
    "topics": "Topics",
    "topics/shop/orders/v1": "shop/orders/v1",
    "topics/shop/orders/v1?tab=records": "shop/orders/v1",
    "topics/shop/orders/v1?tab=publish": "shop/orders/v1",
    "topics/shop/orders/v1?tab=groups": "shop/orders/v1",
    "topics/shop/orders/v1?tab=settings": "shop/orders/v1",
    "topics/shop/orders/v1?tab=transforms": "shop/orders/v1",
    "groups": "Groups",
    "groups/shop/shop/orders/v1/mail": "shop/mail",
    "try": "Try it",
    "gateways": "Gateways and stores",
    "errors": "Errors",
    "audit": "Audit",
    "own": "My application",
    "signin": "Sign in",
    "nowhere": "There is no such page",
}


@pytest.fixture(scope="session")
def shop(gateway: Gateway) -> Gateway:
    """A gateway with something on every page, some of it hostile."""
    gateway.topic("shop/orders/v1")
    gateway.admin("PUT", "applications/shop", {"description": HOSTILE})
    gateway.topic("billing/invoices/v1")
    gateway.admin("PUT", "bindings/billing/shop/orders/v1", {"groups": ["*"]})
    gateway.publish("shop/orders/v1", HOSTILE, key=HOSTILE, headers=[{"name": "note", "value": HOSTILE}])
    assert gateway.read("orders/mail?limit=1&idle=2", gateway.key("shop", "sub"))[0] == 200
    gateway.publish("shop/orders/v1", "behind")
    return gateway


@pytest.fixture(params=["light", "dark"])
def themed(request: pytest.FixtureRequest, browser: Browser, shop: Gateway, watches: list[Watch]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=request.param)
    page = context.new_page()
    watches.append(Watch(page, shop.daemon.admin))
    yield page
    context.close()


@pytest.mark.parametrize("place", PAGES)
def test_page_has_its_heading_and_no_violation_of_axe(themed: Page, shop: Gateway, place: str) -> None:
    # axe is put into the page by evaluation, which its own policy would not have
    themed.context.new_cdp_session(themed).send("Page.setBypassCSP", {"enabled": True})
    themed.goto(f"{shop.url}#/{place}")
    themed.locator("h1").wait_for()
    themed.wait_for_timeout(300)
    assert themed.locator("h1").all_inner_texts() == [PAGES[place]]
    found = Axe().run(themed).response["violations"]
    assert [(each["id"], [node["target"] for node in each["nodes"]]) for each in found] == []


@pytest.mark.parametrize("place", PAGES)
def test_narrow_page_does_not_scroll_sideways(page: Page, shop: Gateway, place: str) -> None:
    page.set_viewport_size({"width": 320, "height": 800})
    page.goto(f"{shop.url}#/{place}")
    page.locator("h1").wait_for()
    page.wait_for_timeout(300)
    for width in (320, 640):
        # 640 is 1280 at 200 %
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


@pytest.mark.parametrize(
    ("place", "heading"),
    [
        ("applications/gone", "gone"),
        ("topics/gone/t/v1", "gone/t/v1"),
        ("groups/gone/gone/t/v1/g", "gone/g"),
        ("nowhere", "There is no such page"),
    ],
)
def test_page_of_what_is_not_there_has_its_heading(
    page: Page, shop: Gateway, watch: Watch, place: str, heading: str
) -> None:
    watch.refusals = {404}
    page.goto(f"{shop.url}#/{place}")
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)
    if place != "nowhere":
        expect(page.get_by_role("alert").first).to_contain_text("Request id")


def test_hostile_texts_are_shown_as_they_are(page: Page, shop: Gateway) -> None:
    page.goto(f"{shop.url}#/applications/shop")
    page.get_by_text(HOSTILE).first.wait_for()
    page.goto(f"{shop.url}#/topics/shop/orders/v1?tab=records")
    row = page.get_by_role("table", name="Records").get_by_role("row").nth(1)
    expect(row.get_by_text(HOSTILE[:40])).to_have_count(3)
    page.get_by_role("button", name="Record ").first.click()
    assert HOSTILE in page.get_by_role("dialog").inner_text()
    assert page.title() == "shop/orders/v1 · kateway"


def test_group_behind_without_a_reader_is_named_on_the_overview(page: Page, gateway: Gateway) -> None:
    gateway.topic("late/jobs/v1", partitions=1)
    gateway.publish("late/jobs/v1", "first")
    assert gateway.read("jobs/slow?limit=1&idle=2", gateway.key("late", "sub"))[0] == 200
    gateway.publish("late/jobs/v1", *["x"] * 500)
    page.goto(gateway.url)
    first = page.get_by_role("table", name="Groups").get_by_role("row").nth(1)
    first.get_by_text("500", exact=True).wait_for()
    assert "late/late/jobs/v1/slow" in first.inner_text()
    page.get_by_role("status").filter(has_text="late/late/jobs").get_by_text("500 records behind").wait_for()


@pytest.mark.parametrize("holds_back", [False, True], ids=["streams", "holds streams back"])
def test_manager_works_behind_a_path_prefix(
    browser: Browser, shop: Gateway, watches: list[Watch], holds_back: bool
) -> None:
    proxy = PrefixingProxy(shop.daemon.admin_port, holds_back=holds_back)
    context = browser.new_context()
    try:
        page = context.new_page()
        watches.append(Watch(page, proxy.url))
        # "/" of the listener leads on
        page.goto(f"{proxy.url}/")
        page.get_by_role("heading", name="Stores and registry").wait_for()
        assert page.url.startswith(f"{proxy.url}/ui/")
        page.goto(f"{proxy.url}/ui/#/applications")
        page.get_by_role("button", name="Create application").click()
        name = f"prefixed{holds_back:d}"
        page.get_by_role("dialog").get_by_label("Name").fill(name)
        page.get_by_role("dialog").get_by_role("button", name="Create", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
    finally:
        context.close()
        proxy.close()


def test_gateway_that_refuses_is_said_and_so_is_its_return(page: Page, shop: Gateway, watch: Watch) -> None:
    watch.refusals = {503}
    page.goto(f"{shop.url}#/audit")
    page.get_by_role("table", name="Audit").get_by_role("row").nth(1).wait_for()
    page.route("**/admin/v1/audit?**", lambda route: route.fulfill(status=503, body="away"))
    expect(page.get_by_role("alert")).to_contain_text("away")
    page.unroute("**/admin/v1/audit?**")
    expect(page.get_by_role("alert")).to_have_count(0)
