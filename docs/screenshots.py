"""Takes the pictures of docs/manager.rst: starts a gateway with something to see, and looks at it in chromium.

``python docs/screenshots.py``, with kateway and playwright installed (``pip install --group browser .``) and Debian's
chromium.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent / "images"
SHOTS = (
    ("overview", "", "light"),
    ("application", "applications/shop", "light"),
    ("records", "topics/shop/orders/v1?tab=records", "dark"),
    ("group", "groups/billing/shop/orders/v1/books", "light"),
    ("try", "try?topic=shop/orders/v1", "light"),
    ("gateways", "gateways", "dark"),
)
TRAFFIC_SECONDS = 60
"""So long something flows before the first picture, so that the charts have lines."""


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return int(asked.getsockname()[1])


def ask(url: str, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None) -> Any:
    """A request's JSON, or its status where it was refused."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers or {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read()
    except urllib.error.HTTPError as error:
        return error.code
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


class Shop:
    """A gateway with three applications: one publishes, one keeps up, one is behind and has dead letters."""

    def __init__(self, public: str, admin: str) -> None:
        self.public, self.admin = public, f"{admin}/admin/v1"
        self.ended = threading.Event()
        self._keys: dict[str, dict[str, str]] = {}

    def fill(self) -> None:
        put = self._put
        put(
            "applications/shop",
            {"description": "The web shop", "quota": {"publish_records_per_second": 500, "readers": 20}},
        )
        put("applications/billing", {"description": "Invoices"})
        put("applications/search", {"description": "The index of products"})
        for topic in ("orders", "payments", "stock"):
            put(f"topics/shop/{topic}/v1", {"partitions": 4})
        put("bindings/billing/shop/orders/v1", {"groups": ["*"], "max_deliveries": 1})
        put("bindings/search/shop/orders/v1", {"groups": ["index"]})
        for name in ("shop-pub", "shop-sub", "billing-sub", "search-sub"):
            application, kind = name.split("-")
            made = ask(f"{self.admin}/applications/{application}/keys", "POST", {"kind": kind, "key": name})
            self._keys[name] = {"Pubkey" if kind == "pub" else "Subkey": name, "Secret": made["secret"]}
        for number in range(40):
            self._publish(number)
        for _ in range(2):
            self._read("shop.orders/books?limit=3&ack=explicit&ack_timeout=1", "billing-sub")
            time.sleep(1.5)

    def flow(self) -> None:
        """Publishes and reads until ``ended``."""
        number = 40
        while not self.ended.wait(0.2):
            number += 1
            for _ in range(1 + number // 10 % 4):
                self._publish(number)
            self._read("shop.orders/index?limit=50&idle=0.1", "search-sub")

    def _put(self, path: str, body: Any) -> None:
        answer = ask(f"{self.admin}/{path}", "PUT", body)
        assert isinstance(answer, dict), (path, answer)

    def _publish(self, number: int) -> None:
        value = json.dumps({"order": number, "amount": number * 7 % 90 + 5, "currency": "EUR"}).encode()
        headers = {
            **self._keys["shop-pub"],
            "Content-Type": "application/json",
            "Kateway-Key": f"customer-{number % 17}",
        }
        ask(f"{self.public}/v1/topics/orders?key=customer-{number % 17}", "POST", value, headers)

    def _read(self, path: str, key: str) -> None:
        ask(f"{self.public}/v1/topics/{path}", headers=self._keys[key])


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[str, str]]:
    twistd = shutil.which("twistd")
    assert twistd is not None, "kateway is not installed"
    public, admin = free_port(), free_port()
    (folder / "kateway.toml").write_text('[registry]\ndriver = "embedded"\n')
    command = [twistd, "-n", "--pidfile=", "kateway", "--config", "kateway.toml", "--data", "data"]
    command += ["--public", f"tcp:{public}:interface=127.0.0.1", "--admin", f"tcp:{admin}:interface=127.0.0.1"]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        for _ in range(150):
            time.sleep(0.2)
            try:
                ask(f"http://127.0.0.1:{admin}/live")
                break
            except OSError:
                continue
        yield f"http://127.0.0.1:{public}", f"http://127.0.0.1:{admin}"
    finally:
        running.terminate()
        running.wait(30)


def prepare(page: Page, name: str) -> None:
    """Does on a page what its picture shows."""
    if name == "try":
        page.get_by_role("button", name="Start tail").click()
        page.wait_for_timeout(3000)
        page.get_by_label("Value", exact=True).fill('{"order": 1000, "amount": 42, "currency": "EUR"}')
        page.get_by_label("Key").fill("customer-3")
        page.get_by_role("button", name="Publish", exact=True).click()
    if name == "group":
        page.get_by_role("button", name="Look", exact=True).click()
        page.wait_for_timeout(1000)
        page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(2000)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        gateway(Path(folder)) as (public, admin),
        sync_playwright() as playwright,
    ):
        shop = Shop(public, admin)
        shop.fill()
        flowing = threading.Thread(target=shop.flow)
        flowing.start()
        time.sleep(TRAFFIC_SECONDS)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            for name, place, scheme in SHOTS:
                page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme=scheme)
                page.goto(f"{admin}/ui/#/{place}")
                page.locator("h1").wait_for()
                prepare(page, name)
                page.screenshot(path=FOLDER / f"manager-{name}.png")
                page.close()
        finally:
            browser.close()
            shop.ended.set()
            flowing.join()


if __name__ == "__main__":
    main()
