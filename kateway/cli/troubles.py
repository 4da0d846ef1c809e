"""Shows traffic and failures: ``kateway-admin errors``, ``slow``, ``events``, ``audit``, ``producers``, ``usage``."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import urlencode

from kateway.cli.client import AdminClient
from kateway.cli.commands import TOPIC, Command


def add_troubles(commands: Any, command: Command) -> None:
    """Adds the commands."""
    errors = command(commands, "errors", "failed requests in groups, the one that failed last first", _errors)
    errors.add_argument("--application", metavar="APP", help="of this one alone")
    errors.add_argument("--reason", metavar="CODE", help="of this one alone")
    slow = command(commands, "slow", "the slowest requests of the last hour", _newest("/slow"))
    events = command(
        commands, "events", "starts, reloads and changes of breakers, the newest first", _newest("/events")
    )
    audit = command(commands, "audit", "the audit's newest events", _newest("/audit", "actor", "action", "object"))
    for member in ("actor", "action", "object"):
        audit.add_argument(f"--{member}", metavar="TEXT", help=f"with this in its {member}")
    for listing in (slow, events, audit):
        listing.add_argument("--limit", type=int, default=100, metavar="N", help="so many (default: 100)")
    producers = command(commands, "producers", "the keys that publish to a topic", _producers)
    producers.add_argument("topic", metavar=TOPIC)
    usage = command(commands, "usage", "what applications have used, by the hour", _usage)
    usage.add_argument("--application", metavar="APP", help="of this one alone")
    usage.add_argument("--from", dest="start", metavar="TIME", help="a day or a time (default: a day before the end)")
    usage.add_argument("--to", dest="end", metavar="TIME", help="a day or a time (default: now)")


def _errors(client: AdminClient, options: argparse.Namespace) -> Any:
    found = client.list(
        "/errors", sort="last", desc="1", **_given(application=options.application, reason=options.reason)
    )
    if options.json:
        return found
    return {"items": [_with_newest(row) for row in found["items"]]}


def _with_newest(row: dict[str, Any]) -> dict[str, Any]:
    """A group with its newest sample in the place of all."""
    newest = row["samples"][0]
    shown = {name: row[name] for name in ("reason", "application", "topic", "count", "first", "last")}
    return {**shown, "request_id": newest["request_id"], "detail": newest["detail"]}


def _newest(path: str, *filters: str) -> Any:
    def act(client: AdminClient, options: argparse.Namespace) -> Any:
        given = _given(limit=options.limit, **{name: getattr(options, name) for name in filters})
        return client.call("GET", f"{path}?{urlencode(given)}").body

    return act


def _producers(client: AdminClient, options: argparse.Namespace) -> Any:
    client.name(options.topic, TOPIC)
    return client.list("/producers", topic=options.topic)


def _usage(client: AdminClient, options: argparse.Namespace) -> Any:
    given = _given(**{"application": options.application, "from": options.start, "to": options.end})
    return client.call("GET", f"/usage?{urlencode(given)}").body


def _given(**members: Any) -> dict[str, str]:
    return {name: str(value) for name, value in members.items() if value is not None}
