"""The manager in Debian's chromium, before a gateway that is installed from its wheel."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from managed import Gateway, Watch
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from servers.daemon import Daemon, Installation

# what has to come comes within a second or two: the rest is for a machine with other things to do
expect.set_options(timeout=20_000)
REGISTRY = '[registry]\ndriver = "embedded"\n'


@pytest.fixture(scope="session")
def gateway(installed: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("managed")
    (folder / "kateway.toml").write_text(REGISTRY)
    daemon = Daemon(installed, folder, ["--config", str(folder / "kateway.toml"), "--data", str(folder / "data")])
    daemon.start()
    try:
        yield Gateway(daemon)
    finally:
        daemon.terminate()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    assert executable is not None, "these tests need Debian's chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 1280, "height": 900})
    made.set_default_timeout(20_000)
    yield made
    made.close()


@pytest.fixture
def watches() -> Iterator[list[Watch]]:
    """Of every page that a test opens; nothing may have gone wrong on any."""
    made: list[Watch] = []
    yield made
    for watch in made:
        assert not watch.wrong()


@pytest.fixture
def watch(watches: list[Watch], page: Page) -> Watch:
    return watches[-1]


@pytest.fixture
def page(context: BrowserContext, gateway: Gateway, watches: list[Watch]) -> Page:
    made = context.new_page()
    watches.append(Watch(made, gateway.daemon.admin))
    return made


@pytest.fixture
def go(page: Page, gateway: Gateway) -> Callable[[str], Page]:
    """Opens a page of the manager by what is behind the # of its address."""

    def opened(place: str) -> Page:
        page.goto("about:blank")
        page.goto(f"{gateway.url}#/{place}")
        page.locator("h1").wait_for()
        return page

    return opened
