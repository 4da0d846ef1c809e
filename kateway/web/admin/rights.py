"""Tells the rights of roles, and the one that each call of the admin listener needs.

A tenant, whom a portal link lets in, has no role's rights: it may make those calls that name the part of their path
which has to be its own application. A call that is not in ``NEEDS`` is for administrators alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from kateway.errors import Denied
from kateway.registry.interface import Snapshot
from kateway.web.admin.actors import Actor, Role


class Right(StrEnum):
    """A right to a kind of calls."""

    SEE = "see"
    """Entries, figures and states; no record's contents."""
    OPERATE = "operate"
    """Changes that delete nothing and show no contents."""
    CONTENTS = "contents"
    """Records' keys and values, to read, write or transform."""
    CREDENTIALS = "credentials"
    """Secrets of keys, and portal links: with them contents can be had."""
    DELETE = "delete"


_VIEWER: Final = frozenset({Right.SEE})
OF_ROLES: Final[Mapping[Role, frozenset[Right]]] = {
    "admin": frozenset(Right),
    "operator": _VIEWER | {Right.OPERATE},
    "viewer": _VIEWER,
}
ANY: Final = "*"
"""Of ``Need.own``: the response is the tenant's own part, or nothing of any application."""


class Need(NamedTuple):
    """What a call needs of its caller."""

    right: Right | None
    """``None``: not even that it is signed in."""
    own: str = ""
    """The name in the path that is a tenant's application, or with a ``?`` the parameter whose value begins with it;
    empty: no tenant may call it.
    """


_SEE = Need(Right.SEE)
_OPERATE = Need(Right.OPERATE)
_DELETE = Need(Right.DELETE)
_CONTENTS = Need(Right.CONTENTS)
NEEDS: Final[Mapping[str, Need]] = {
    "session": Need(None, ANY),
    "sign_in": Need(None, ANY),
    "sign_out": Need(Right.SEE, ANY),
    "make_portal_link": Need(Right.CREDENTIALS),
    "status": _SEE,
    "reload": _OPERATE,
    "drain": _OPERATE,
    "upgrade": _OPERATE,
    "processes": _SEE,
    "openapi": Need(Right.SEE, ANY),
    "metrics": _SEE,
    "gateways": _SEE,
    "breakers": _SEE,
    "set_breaker": _OPERATE,
    "handoffs": _SEE,
    "refused": _CONTENTS,  # their keys
    "delete_refused": _DELETE,
    "retry_refused": _OPERATE,
    "applications": Need(Right.SEE, ANY),
    "application": Need(Right.SEE, "app"),
    "put_application": _OPERATE,
    "delete_application": _DELETE,
    "keys": Need(Right.SEE, "app"),
    "make_key": Need(Right.CREDENTIALS, "app"),
    "key": Need(Right.SEE, "app"),
    "set_key_quota": _OPERATE,
    "delete_key": Need(Right.DELETE, "app"),
    "rotate_key": Need(Right.CREDENTIALS, "app"),
    "topics": Need(Right.SEE, ANY),
    "topic": Need(Right.SEE, "app"),
    "put_topic": _OPERATE,
    "delete_topic": _DELETE,
    "bindings": Need(Right.SEE, ANY),
    "binding": Need(Right.SEE, "subscriber"),
    "put_binding": _OPERATE,
    "delete_binding": _DELETE,
    "transforms": _SEE,
    "topic_transforms": _SEE,
    "put_transforms": _CONTENTS,  # they change them, and a dry run tells of the last ones
    "delete_transforms": _DELETE,
    "try_transforms": _CONTENTS,
    "plugins": _SEE,
    "elastic": _SEE,
    "profile": _OPERATE,
    "stacks": _SEE,
    "memory": _SEE,
    "groups": Need(Right.SEE, ANY),
    "group": Need(Right.SEE, "reader"),
    "move_group": _OPERATE,
    "redriving": Need(Right.SEE, "reader"),
    "redrive": _OPERATE,
    "discarding": Need(Right.SEE, "reader"),
    "discard": _DELETE,
    "history": Need(Right.SEE, "?object"),
    "usage": Need(Right.SEE, "?application"),
    "producers": Need(Right.SEE, "?topic"),
    "live_rows": Need(Right.SEE, ANY),
    "errors": _SEE,
    "slow": _SEE,
    "events": _SEE,
    "audit": _SEE,
    "peek": Need(Right.CONTENTS, "app"),
    "tail": Need(Right.CONTENTS, "app"),
    "record": Need(Right.CONTENTS, "app"),
    "publish_records": Need(Right.CONTENTS, "app"),
}
"""By the routes' handlers."""
_UNKNOWN: Final = Need(Right.CREDENTIALS)


def may(actor: Actor, call: str) -> bool:
    """Whether a caller has the right to a call: of a tenant, on what is its own."""
    need = NEEDS.get(call, _UNKNOWN)
    if actor.application:
        return bool(need.own)
    return need.right is None or need.right in OF_ROLES.get(actor.role, ())


def check(actor: Actor, call: str, names: Mapping[str, str], query: Mapping[str, str], snapshot: Snapshot) -> None:
    """``Denied`` for a call that its caller has no right to, with these names in its path."""
    if not may(actor, call):
        if actor.application:
            raise Denied("this is not for an application's own session")
        raise Denied(f"this needs the right to {NEEDS.get(call, _UNKNOWN).right}, which the role {actor.role} has not")
    if actor.application and not _own(actor.application, NEEDS[call].own, names, query, snapshot):
        raise Denied(f"this session is for the application {actor.application} alone")


def _own(application: str, own: str, names: Mapping[str, str], query: Mapping[str, str], snapshot: Snapshot) -> bool:
    if own.startswith("?"):
        return query.get(own[1:], "").partition("/")[0] == application
    if own != ANY and names[own] != application:
        return False
    if own == "reader" and names["app"] != application:
        # without a binding the answer would tell whether there is such a topic
        topic = names["app"], names["topic"], names["version"]
        if (application, *topic) not in snapshot.bindings:
            return False
    return "group" not in query or query["group"].rpartition("/")[0] == application
