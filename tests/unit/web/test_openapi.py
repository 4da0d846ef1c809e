"""The OpenAPI document says what the routes are, no more and no less."""

from __future__ import annotations

import json
from typing import Any

import attrs
from openapi_spec_validator import validate

from kateway.registry.documents import from_table, to_table
from kateway.registry.interface import Application, Quota
from kateway.web.admin.api import PREFIX, ROUTES, openapi
from kateway.web.messages import queries

METHODS = {"get", "put", "post", "delete"}
DOCUMENT: dict[str, Any] = json.loads(openapi())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
TOPIC = "/{version}/topics/{topic}"


def operations(path: str) -> dict[str, Any]:
    return {method: operation for method, operation in DOCUMENT["paths"][path].items() if method in METHODS}


def resolved(entry: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in entry:
        found: Any = DOCUMENT
        for part in entry["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        entry = found
    return entry


def query_of(operation: dict[str, Any]) -> set[str]:
    given = map(resolved, operation.get("parameters", ()))
    return {entry["name"] for entry in given if entry["in"] == "query"}


def test_it_is_openapi_3_1() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")


def test_the_admin_routes_are_all_there_and_no_other() -> None:
    documented = {
        (method.upper(), path.removeprefix(PREFIX), operation["operationId"], frozenset(query_of(operation)))
        for path in DOCUMENT["paths"]
        if path.startswith(PREFIX)
        for method, operation in operations(path).items()
    }
    assert documented == {tuple(route[:4]) for route in ROUTES}


def test_every_name_in_a_path_is_declared() -> None:
    for path, item in DOCUMENT["paths"].items():
        declared = [resolved(entry)["name"] for entry in item.get("parameters", ())]
        assert declared == [part[1:-1] for part in path.split("/") if part.startswith("{")], path


def test_the_message_plane_takes_the_query_that_is_documented() -> None:
    def known(names: frozenset[bytes]) -> set[str]:
        return {name.decode() for name in names}

    assert query_of(operations(TOPIC)["post"]) == known(queries.PUBLISH)
    assert query_of(operations(TOPIC)["get"]) == known(queries._READ)
    assert query_of(operations(TOPIC + "/{group}")["get"]) == known(queries._SUBSCRIBE)
    public = {path: set(operations(path)) for path in DOCUMENT["paths"] if not path.startswith(PREFIX)}
    assert public == {
        TOPIC: {"get", "post"},
        TOPIC + "/{group}": {"get"},
        TOPIC + "/schema": {"get"},
        TOPIC + "/{group}/acks": {"post"},
        TOPIC + "/{group}/lag": {"get"},
        TOPIC + "/{group}/offsets": {"get", "put"},
        "/{version}/topics": {"get"},
        "/": {"get"},
        "/openapi.json": {"get"},
        "/live": {"get"},
        "/ready": {"get"},
        "/metrics": {"get"},  # of the admin listener, and so not in the public one's own document
    }


def test_the_entries_have_the_members_that_are_documented() -> None:
    digest = f"sha256${'0' * 32}${'0' * 64}"
    entries = {
        "Application": from_table("applications", "a", {}),
        "Topic": from_table(
            "topics",
            "a/t/v1",
            {"deprecated": "2027-01-01T00:00:00Z", "sunset": "2027-01-01T00:00:00Z", "elastic": {"max_partitions": 8}},
        ),
        "Binding": from_table("bindings", "b/a/t/v1", {"groups": ["*"], "filter": "true", "transforms": {"out": []}}),
        "Transforms": from_table("transforms", "a/t/v1", {}),
    }
    for name, entry in entries.items():
        # of a PUT's answer, and no member of the entry
        assert SCHEMAS[name]["properties"].keys() - {"dry_run"} == to_table(entry).keys()
        for member, schema in SCHEMAS[name]["properties"].items():
            if "default" in schema:
                assert to_table(entry)[member] == schema["default"], member
    assert SCHEMAS["Quota"]["properties"].keys() == attrs.fields_dict(Quota).keys()
    assert isinstance(entries["Application"], Application)
    key = from_table("keys", "k", {"application": "a", "kind": "pub", "secret_hash": digest})
    assert not {"secret_hash", "rotated_hash", "secret"} & SCHEMAS["Key"]["properties"].keys()
    assert {"kind", "made", "quota"} <= to_table(key).keys() & SCHEMAS["Key"]["properties"].keys()


def test_every_call_may_be_refused_with_a_problem() -> None:
    for path in DOCUMENT["paths"]:
        if path in {"/", "/openapi.json", "/live", "/ready"}:
            continue
        for operation in operations(path).values():
            refusals = [resolved(answer) for status, answer in operation["responses"].items() if status >= "400"]
            assert refusals
            assert all("application/problem+json" in refusal["content"] for refusal in refusals)
