"""Every call of the admin listener has the right that it needs, and every role what the contract gives it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import pytest

from kateway.errors import Denied
from kateway.registry.documents import from_table
from kateway.registry.interface import Binding, Snapshot
from kateway.web.admin.actors import NOBODY, OPEN, Actor, tenant
from kateway.web.admin.api import ROUTES
from kateway.web.admin.rights import ANY, NEEDS, Right, check, may

OPERATOR, VIEWER, TENANT = Actor("o", "operator"), Actor("v", "viewer"), tenant("app1", b"")
NAMES = {"app": "app1", "reader": "app1", "subscriber": "app1", "topic": "foo", "version": "v1", "group": "g"}
CHANGES = {"POST", "PUT", "DELETE"}


def binding(name: str) -> Snapshot:
    entry = from_table("bindings", name, {"groups": ["*"]})
    assert isinstance(entry, Binding)
    return attrs.evolve(Snapshot(), bindings={entry.name: entry})


def allowed(
    actor: Actor, call: str, names: Mapping[str, str], query: Mapping[str, str], snapshot: Snapshot | None = None
) -> bool:
    try:
        check(actor, call, names, query, snapshot or Snapshot())
    except Denied:
        return False
    return True


def test_table_names_every_route_and_no_other() -> None:
    assert sorted(NEEDS) == sorted([*(route.handler for route in ROUTES), "metrics"])


def test_every_name_that_has_to_be_a_tenants_own_is_in_the_path_or_the_query() -> None:
    for route in ROUTES:
        own = NEEDS[route.handler].own
        assert own in {"", ANY} or f"{{{own}}}" in route.path or own.removeprefix("?") in route.query, route


@pytest.mark.parametrize("call", [call for call, need in NEEDS.items() if need.own.startswith("?")])
def test_tenant_is_kept_to_parameters_of_its_own_application(call: str) -> None:
    name = NEEDS[call].own[1:]
    for own in ("app1", "app1/foo/v1"):
        assert allowed(TENANT, call, {}, {name: own})
    for others in ({}, {name: ""}, {name: "app2"}, {name: "app2/app1/v1"}, {name: "app10/foo/v1"}):
        assert not allowed(TENANT, call, {}, others)


def test_nobody_may_only_sign_in_and_ask_for_its_role() -> None:
    assert {call for call in NEEDS if may(NOBODY, call)} == {"session", "sign_in"}


def test_administrator_may_everything_even_what_no_table_names() -> None:
    assert all(may(OPEN, call) for call in [*NEEDS, "of-tomorrow"])


@pytest.mark.parametrize("actor", [OPERATOR, VIEWER, TENANT, NOBODY])
def test_call_that_no_table_names_is_for_administrators_alone(actor: Actor) -> None:
    assert not may(actor, "of-tomorrow")


def test_viewer_may_change_nothing_but_its_session() -> None:
    changes = {route.handler for route in ROUTES if route.method in CHANGES and may(VIEWER, route.handler)}
    assert changes == {"sign_in", "sign_out"}


def test_operator_deletes_nothing_and_has_no_contents_nor_secrets_that_lead_to_them() -> None:
    refused = {call for call in NEEDS if not may(OPERATOR, call)}
    needed = {NEEDS[call].right for call in refused}
    assert needed == {Right.DELETE, Right.CONTENTS, Right.CREDENTIALS}
    deletes = {route.handler for route in ROUTES if route.method == "DELETE"} - {"sign_out"}
    assert deletes | {"peek", "record", "publish_records", "try_transforms", "make_key", "rotate_key"} <= refused
    assert {"put_topic", "move_group", "redrive", "reload", "set_breaker"} & refused == set()


def test_tenants_changes_are_its_own_keys_and_publishes() -> None:
    changes = {route.handler for route in ROUTES if route.method in CHANGES and may(TENANT, route.handler)}
    assert changes == {"sign_in", "sign_out", "make_key", "rotate_key", "delete_key", "publish_records"}


@pytest.mark.parametrize(
    "call", [call for call, need in NEEDS.items() if need.own not in {"", ANY} and need.own[0] != "?"]
)
def test_tenant_is_kept_to_paths_of_its_own_application(call: str) -> None:
    assert allowed(TENANT, call, NAMES, {})
    assert not allowed(TENANT, call, {**NAMES, NEEDS[call].own: "app2"}, {})


def test_tenants_group_of_anothers_topic_is_shown_where_it_may_read_that() -> None:
    theirs = {**NAMES, "app": "app2"}
    assert not allowed(TENANT, "group", theirs, {})
    assert allowed(TENANT, "group", theirs, {}, binding("app1/app2/foo/v1"))
    assert not allowed(TENANT, "group", theirs, {}, binding("app3/app2/foo/v1"))


@pytest.mark.parametrize(("group", "own"), [("app1/g", True), ("app2/g", False), ("g", False), ("app2/app1/g", False)])
def test_tenant_asks_for_states_of_its_own_groups_alone(group: str, own: bool) -> None:
    assert allowed(TENANT, "record", NAMES, {"group": group}) is own
