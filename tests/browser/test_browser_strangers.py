"""What other origins and lost rights can do: nothing."""

from __future__ import annotations

import http.client
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from managed import Gateway, Watch
from playwright.sync_api import Page, expect

Go = Callable[[str], Page]


@pytest.fixture
def stranger(gateway: Gateway) -> Iterator[int]:
    """The port of a server whose page has a form that makes a key of the gateway's."""
    page = f"""<!doctype html><title>stranger</title>
    <form method="post" enctype="text/plain" action="{gateway.daemon.admin}/admin/v1/applications/prey/keys">
    <input name='{{"kind":"pub","key":"stolen","x' value='":""}}'><button>Win</button></form>""".encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_arguments: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["another port", "another site"])
def test_form_of_another_origin_changes_nothing(
    page: Page, gateway: Gateway, watches: list[Watch], stranger: int, host: str
) -> None:
    watches.clear()
    gateway.admin("PUT", "applications/prey", {})
    page.goto(f"http://{host}:{stranger}/")
    with page.expect_response("**/admin/v1/applications/prey/keys") as answered:
        page.get_by_role("button", name="Win").click()
    assert answered.value.status == 403
    assert gateway.admin("GET", "applications/prey/keys")["items"] == []
    # the same from the manager's own origin is a change
    assert gateway.admin("POST", "applications/prey/keys", {"kind": "pub", "key": "own"})["key"] == "own"
    gateway.admin("DELETE", "applications/prey/keys/own")


def test_stream_of_a_key_ends_when_the_key_is_revoked_on_the_page(go: Go, gateway: Gateway) -> None:
    gateway.topic("leaky/t/v1", partitions=1)
    gateway.publish("leaky/t/v1", "first")
    key = gateway.key("leaky", "sub")
    stream = http.client.HTTPConnection("127.0.0.1", gateway.daemon.public_port, timeout=30)
    stream.request("GET", "/v1/topics/t/g?limit=9&idle=60", headers={**key, "Accept": "application/x-ndjson"})
    response = stream.getresponse()
    assert b'"first"' in response.readline()
    ended: list[float] = []

    def read() -> None:
        with suppress(ConnectionError, http.client.HTTPException):  # it may be cut
            response.read()
        ended.append(time.monotonic())

    reading = threading.Thread(target=read)
    reading.start()
    page = go("applications/leaky")
    page.get_by_role("button", name=f"Revoke {key['Subkey']}").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name").fill(key["Subkey"])
    with page.expect_response(lambda response: response.request.method == "DELETE"):
        form.get_by_role("button", name="Revoke").click()
    revoked = time.monotonic()
    expect(page.get_by_role("status").first).to_contain_text("is revoked")
    reading.join(30)
    assert ended
    # a second is promised; the rest is for a machine with other things to do
    assert ended[0] - revoked < 1 + 4
    stream.close()
    assert gateway.read("t/g", key)[0] == 401
