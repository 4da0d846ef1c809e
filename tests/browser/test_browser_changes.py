"""What is changed on the pages is changed in the gateway; conflicts and deletions are said before they hurt."""

from __future__ import annotations

import json
from collections.abc import Callable

from managed import Gateway, Watch
from playwright.sync_api import Browser, Page, Route, expect

Go = Callable[[str], Page]


def test_application_topic_and_binding_are_made_by_forms_and_audited(go: Go, gateway: Gateway) -> None:
    page = go("applications")
    page.get_by_role("button", name="Create application").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name").fill("formed")
    form.get_by_label("Description").fill("made by a form")
    form.get_by_label("Records published a second").fill("10")
    form.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("formed")
    expect(page.get_by_role("status").first).to_contain_text("formed is made")
    assert gateway.admin("GET", "applications/formed") == {
        "description": "made by a form",
        "quota": {"publish_records_per_second": 10},
    }

    go("topics").get_by_role("button", name="Register topic").click()
    form.get_by_label("Application").select_option("formed")
    form.get_by_label("Topic").fill("news")
    form.get_by_label("Partitions").fill("3")
    form.get_by_role("button", name="Register").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("formed/news/v1")
    assert gateway.admin("GET", "topics/formed/news/v1")["partitions"] == 3

    gateway.admin("PUT", "applications/subscriber", {})
    go("topics/formed/news/v1?tab=settings").get_by_role("button", name="Create binding").click()
    form.get_by_label("Application that reads").fill("subscriber")
    form.get_by_label("Groups").fill("g1, g2")
    form.get_by_role("button", name="Save").click()
    expect(page.get_by_role("table", name="Bindings")).to_contain_text("subscriber")
    assert gateway.admin("GET", "bindings/subscriber/formed/news/v1")["groups"] == ["g1", "g2"]
    assert "formed" in gateway.audited("application.put")
    assert "formed/news/v1" in gateway.audited("topic.put")
    assert "subscriber/formed/news/v1" in gateway.audited("binding.put")


def test_key_shows_its_secret_once_and_is_rotated_and_revoked(go: Go, gateway: Gateway) -> None:
    gateway.topic("keyed/t/v1")
    page = go("applications/keyed")
    page.get_by_role("button", name="Create key").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name").fill("k1")
    form.get_by_role("button", name="Create", exact=True).click()
    secret = form.get_by_role("group", name="Secret").inner_text()
    form.get_by_role("button", name="I have it").click()

    def publishes(with_secret: str) -> int:
        headers = {"Pubkey": "k1", "Secret": with_secret}
        return gateway.ask("POST", "/v1/topics/t", b"x", headers, gateway.daemon.public_port)[0]

    assert publishes(secret) == 201
    page.reload()
    row = page.get_by_role("table", name="Keys").get_by_role("row", name="k1")
    row.wait_for()
    assert secret not in page.content()
    row.get_by_role("button", name="Rotate k1").click()
    form.get_by_role("button", name="Rotate").click()
    second = form.get_by_role("group", name="Secret").inner_text()
    form.get_by_role("button", name="I have it").click()
    assert (publishes(secret), publishes(second)) == (201, 201)
    row.get_by_role("button", name="Revoke k1").click()
    form.get_by_label("Name").fill("k1")
    form.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("status").first).to_contain_text("k1 is revoked")
    assert publishes(second) == 401


def test_second_of_two_browsers_that_change_a_quota_sees_both_versions(
    browser: Browser, go: Go, gateway: Gateway, watch: Watch, watches: list[Watch]
) -> None:
    gateway.admin("PUT", "applications/edited", {"description": "old"})
    watch.refusals = {412}
    context = browser.new_context()
    other = context.new_page()
    watches.append(Watch(other, gateway.daemon.admin))
    page = go("applications/edited")
    other.goto(f"{gateway.url}#/applications/edited")
    for each, description, limit in ((other, "theirs", "20"), (page, "mine", "30")):
        each.get_by_role("button", name="Change limits").click()
        form = each.get_by_role("dialog", name="Limits of edited")
        form.get_by_label("Description").fill(description)
        form.get_by_label("Records published a second").fill(limit)
    other.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(other.get_by_role("status").first).to_contain_text("are in force")
    context.close()
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    both = page.get_by_role("dialog", name="edited was changed meanwhile")
    row = both.get_by_role("row", name="description")
    expect(row).to_contain_text("theirs")
    expect(row).to_contain_text("mine")
    quota = both.get_by_role("row", name="quota")
    expect(quota).to_contain_text("20")
    expect(quota).to_contain_text("30")
    both.get_by_role("button", name="Put mine in its place").click()
    expect(page.get_by_role("status").first).to_contain_text("are in force")
    assert gateway.admin("GET", "applications/edited")["description"] == "mine"


def test_deletion_asks_for_the_name_and_names_the_referrers(go: Go, gateway: Gateway, watch: Watch) -> None:
    gateway.topic("held/topic/v1")
    gateway.admin("PUT", "applications/holder", {})
    gateway.admin("PUT", "bindings/holder/held/topic/v1", {"groups": ["*"]})
    watch.refusals = {409}
    page = go("topics/held/topic/v1?tab=settings")
    opener = page.get_by_role("button", name="Delete", exact=True)
    opener.click()
    form = page.get_by_role("dialog")
    expect(form.get_by_role("button", name="Delete")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(form).to_have_count(0)
    expect(opener).to_be_focused()
    opener.click()
    form.get_by_label("Name").fill("held/topic/v1")
    form.get_by_role("button", name="Delete").click()
    alert = form.get_by_role("alert")
    expect(alert).to_contain_text("Other entries refer to it")
    expect(alert).to_contain_text("Request id")
    alert.get_by_role("link", name="holder/held/topic/v1").wait_for()
    gateway.admin("DELETE", "bindings/holder/held/topic/v1")
    form.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Topics")
    assert gateway.ask("GET", "/admin/v1/topics/held/topic/v1")[0] == 404


def test_application_is_made_and_a_record_published_by_keyboard_alone(go: Go, gateway: Gateway) -> None:
    gateway.topic("typed/words/v1")
    page = go("applications")
    page.get_by_role("button", name="Create application").focus()
    page.keyboard.press("Enter")
    page.keyboard.type("bykeys")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("bykeys")
    page.keyboard.press("g")
    page.keyboard.press("t")
    expect(page.get_by_role("heading", level=1)).to_have_text("Topics")
    page.keyboard.press("/")
    page.keyboard.type("typed/words")
    row = page.get_by_role("table", name="Topics").get_by_role("row")
    # what was listed before has to have gone
    expect(row).to_have_count(2)
    expect(row.nth(1)).to_contain_text("typed/words")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("typed/words/v1")
    page.get_by_role("link", name="Publish").focus()
    page.keyboard.press("Enter")
    page.get_by_label("Value", exact=True).focus()
    page.keyboard.type("!")
    page.get_by_role("button", name="Publish", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Written at")).to_have_count(1)
    records = gateway.admin("GET", "records/typed/words/v1")["records"]
    assert [record["value"] for record in records] in (["hello!"], ["!hello"])
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keys").get_by_role("button", name="Close").click()


def test_focus_that_was_moved_while_a_page_was_loading_stays_there(go: Go, gateway: Gateway) -> None:
    gateway.topic("slow/words/v1")
    page = go("topics")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/admin/v1/producers?**", hold)
    page.goto(f"{gateway.url}#/topics/slow/words/v1")
    expect(page.get_by_role("heading", level=1)).to_have_text("slow/words/v1")
    publish = page.get_by_role("link", name="Publish")
    publish.focus()
    expect(page.get_by_role("table", name="Partitions")).to_be_visible()
    page.wait_for_timeout(100)
    for route in held:
        route.continue_()
    expect(page.get_by_role("table", name="Producers")).to_be_visible()
    expect(publish).to_be_focused()
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(page.get_by_role("heading", name="Groups", level=1)).to_be_focused()


def test_topic_is_deprecated_retired_and_given_partitions(go: Go, gateway: Gateway) -> None:
    gateway.topic("aging/t/v1", partitions=1)
    page = go("topics/aging/t/v1?tab=settings")
    form = page.get_by_role("dialog")
    page.get_by_role("button", name="Add partitions").click()
    form.get_by_label("Partitions").fill("4")
    form.get_by_role("button", name="Add partitions").click()
    expect(page.get_by_role("status").first).to_contain_text("has its new partitions")
    page.get_by_role("button", name="Deprecate").click()
    form.get_by_role("button", name="Deprecate").click()
    expect(page.get_by_role("status").first).to_contain_text("is deprecated")
    page.get_by_role("button", name="Retire").click()
    form.get_by_role("button", name="Retire").click()
    expect(page.get_by_role("status").first).to_contain_text("is retired")
    found = gateway.admin("GET", "topics/aging/t/v1")
    assert (found["partitions"], found["state"]) == (4, "retired")


def test_transforms_are_tried_before_they_are_put_in_force(go: Go, gateway: Gateway) -> None:
    gateway.topic("shaped/t/v1")
    gateway.publish("shaped/t/v1", json.dumps({"amount": -1}))
    page = go("topics/shaped/t/v1?tab=transforms")
    steps = {"in": [{"require": "record.json.amount > 0", "message": "amount must be positive"}], "out": []}
    page.get_by_label("Steps").fill(json.dumps(steps))
    page.get_by_role("button", name="Try").click()
    expect(page.get_by_role("table", name="Tried records")).to_contain_text("amount must be positive")
    page.get_by_role("button", name="Put in force").click()
    expect(page.get_by_role("status").first).to_contain_text("in force")
    assert gateway.admin("GET", "transforms/shaped/t/v1")["in"] == steps["in"]


def test_reload_says_its_problems(go: Go, gateway: Gateway, watch: Watch) -> None:
    watch.refusals = {422}
    file = gateway.daemon.folder / "kateway.toml"
    kept = file.read_text()
    page = go("gateways")
    file.write_text(kept + "\n[http]\nnonsense = 1\n")
    try:
        page.get_by_role("button", name="Reload").click()
        expect(page.get_by_role("alert").first).to_contain_text("nonsense")
    finally:
        file.write_text(kept)
    page.get_by_role("button", name="Reload").click()
    expect(page.get_by_role("status").first).to_contain_text("read again")
