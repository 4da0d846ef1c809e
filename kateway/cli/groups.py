"""Shows how far groups are, and moves them: ``kateway-admin groups``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from kateway.cli.client import AdminClient, Misused
from kateway.cli.commands import Command
from kateway.observe.verdicts import STATES as VERDICTS

GROUP = "READER/APP/TOPIC/VERSION/GROUP"
_LISTED = (
    "name",
    "state",
    "lag",
    "oldest_seconds",
    "unacknowledged_records",
    "oldest_unacknowledged_seconds",
    "readers",
    "last_error",
)
STATES = ("reading", "lingering", "not-read-here", *VERDICTS)


def add_groups(groups: Any, command: Command) -> None:
    """Adds the commands."""
    listing = command(
        groups, "list", "list the groups that are read through this gateway, or were within the last day", _list
    )
    listing.add_argument("--contains", metavar="TEXT", help="only those with this text in their name")
    listing.add_argument("--state", choices=STATES, help="only those, or of this verdict")
    listing.add_argument("--sort", metavar="COLUMN", help="by this figure of theirs: severity, lag, readers …")
    listing.add_argument("--desc", action="store_true", help="the largest first")
    _named(command(groups, "show", "show one with its partitions and readers", _show))
    _named(command(groups, "lag", "how far one is behind in each partition", _lag))
    move = _named(command(groups, "move", "move one that has no readers; --dry-run says what would change", _move))
    where = move.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", choices=("earliest", "latest"), help="to an end of every partition")
    where.add_argument("--timestamp", type=int, metavar="MS", help="to this time, in ms since the epoch")
    where.add_argument(
        "--offset", action="append", dest="offsets", type=_offset, metavar="PARTITION=OFFSET", help="may be repeated"
    )
    move.add_argument("--dry-run", action="store_true", help="change nothing")

    redrive = _named(
        command(groups, "redrive", "publish its dead letters to their topic; without options: how far it is", _redrive),
        dead=False,
    )
    _letters(redrive)
    redrive.add_argument("--per-second", type=float, metavar="N", help="at most so many a second")
    discard = command(groups, "discard", "acknowledge its dead letters; without options: how far it is", _discard)
    _letters(_named(discard, dead=False))


def _letters(parser: argparse.ArgumentParser) -> None:
    letters = parser.add_mutually_exclusive_group()
    letters.add_argument("--all", action="store_true", help="all that are there now")
    letters.add_argument(
        "--record",
        action="append",
        dest="records",
        type=_offset,
        metavar="PARTITION=OFFSET",
        help="one of the queue; may be repeated",
    )


def _named(parser: argparse.ArgumentParser, *, dead: bool = True) -> argparse.ArgumentParser:
    parser.add_argument("name", metavar=GROUP, help="in open mode default/TOPIC/VERSION/GROUP")
    if dead:
        parser.add_argument("--dead", action="store_true", help="its dead letters instead")
    else:
        parser.set_defaults(dead=False)
    return parser


def path_of(options: argparse.Namespace, below: str = "", **query: str | None) -> str:
    """The path of the group that the options name."""
    segments = str(options.name).split("/")
    if not all(segments) or not (len(segments) == 5 or (len(segments) == 4 and segments[0] == "default")):
        raise Misused(f"{options.name!r} is not {GROUP}, or in open mode default/TOPIC/VERSION/GROUP")
    given = {name: text for name, text in query.items() if text is not None}
    if options.dead:
        given["queue"] = "dead"
    asked = "&".join(f"{name}={quote(text)}" for name, text in given.items())
    return f"/groups/{quote(options.name, safe='/')}{below}" + (f"?{asked}" if asked else "")


def _list(client: AdminClient, options: argparse.Namespace) -> Any:
    query = {name: getattr(options, name) for name in ("contains", "state", "sort") if getattr(options, name)}
    found = client.list("/groups", **query, **({"desc": "1"} if options.desc else {}))
    if options.json:
        return found
    return {"items": [_row(row) for row in found["items"]]}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    verdict = row["verdict"]
    return {**{name: _said(row, name) for name in _LISTED}, "verdict": verdict["state"], "why": verdict["reason"]}


def _show(client: AdminClient, options: argparse.Namespace) -> Any:
    found = client.call("GET", path_of(options)).body
    return found if options.json else {name: _said(found, name) for name in found if name != "unknown"}


def _lag(client: AdminClient, options: argparse.Namespace) -> Any:
    found = client.call("GET", path_of(options)).body
    return {"lag": found["lag"], "oldest_seconds": found["oldest_seconds"], "partitions": found["partitions"]}


def _move(client: AdminClient, options: argparse.Namespace) -> Any:
    if options.to is not None:
        body: dict[str, Any] = {"to": options.to}
    elif options.timestamp is not None:
        body = {"timestamp": options.timestamp}
    else:
        body = {"offsets": dict(options.offsets)}
    return client.call("PUT", path_of(options, "/offsets", dry_run="1" if options.dry_run else None), body).body


def _offset(text: str) -> tuple[str, int]:
    partition, _, offset = text.partition("=")
    if not partition.isdigit() or not offset.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not PARTITION=OFFSET")
    return partition, int(offset)


def _redrive(client: AdminClient, options: argparse.Namespace) -> Any:
    return _of_letters(client, options, "/redrive", {"per_second": options.per_second})


def _discard(client: AdminClient, options: argparse.Namespace) -> Any:
    return _of_letters(client, options, "/discard", {})


def _of_letters(client: AdminClient, options: argparse.Namespace, below: str, members: Mapping[str, Any]) -> Any:
    """Begins what is to be done with dead letters, or says how far it is."""
    path = path_of(options, below)
    if not options.all and not options.records:
        return client.call("GET", path).body
    body: dict[str, Any] = {name: member for name, member in members.items() if member is not None}
    if options.records:
        body["records"] = [{"partition": int(partition), "offset": offset} for partition, offset in options.records]
    else:
        body["all"] = True
    return client.call("POST", path, body).body


def _said(row: Mapping[str, Any], name: str) -> Any:
    """A figure, or that it is unknown."""
    return "unknown" if row[name] is None and name in row["unknown"] else row[name]
