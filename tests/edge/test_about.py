"""``/`` and ``/openapi.json`` on the public listener."""

from __future__ import annotations

import pytest
import pytest_twisted
from gateways import RunningGateway
from openapi_spec_validator import validate

from kateway import __version__

here = pytest_twisted.ensureDeferred


@here
async def test_root_tells_name_version_and_links_as_json(gateway: RunningGateway) -> None:
    found = await gateway.request("GET", "/")
    assert found.status == 200
    assert found.header("content-type") == "application/json"
    assert found.json()["name"] == "kateway"
    assert found.json()["version"] == __version__
    for link in ("openapi", "live", "ready"):
        assert (await gateway.request("GET", found.json()["links"][link])).status == 200


@here
@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("text/html;q=0.1, application/json", "application/json"),
        ("text/html;q=x", "application/json"),
    ],
)
async def test_root_is_a_page_where_html_is_preferred(gateway: RunningGateway, accept: str, content_type: str) -> None:
    found = await gateway.request("GET", "/", headers={"Accept": accept})
    assert found.header("content-type") == content_type
    assert found.header("vary") == "Accept"


@here
async def test_openapi_document_describes_the_message_plane_alone(gateway: RunningGateway) -> None:
    found = await gateway.request("GET", "/openapi.json")
    document = found.json()
    validate(document)
    assert "/{version}/topics/{topic}" in document["paths"]
    assert not [path for path in document["paths"] if path.startswith("/admin/")]
    assert (await gateway.request("POST", "/", b"")).status == 405
    assert (await gateway.request("HEAD", "/")).body == b""
