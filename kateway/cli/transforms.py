"""Tries a topic's transforms, and puts them in force: ``kateway-admin transforms``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

import shtab

from kateway.cli.client import AdminClient, Misused
from kateway.cli.commands import TOPIC, Command

WIDEST = 60
"""Characters of a value in a table."""


def add_transforms(transforms: Any, command: Command) -> None:
    """Adds the commands."""
    command(transforms, "list", "list the topics that have some", lambda client, _: client.list("/transforms"))
    command(transforms, "show", "show a topic's", _show).add_argument("name", metavar=TOPIC)
    put = command(transforms, "put", "put a topic's in force", _put)
    put.add_argument("name", metavar=TOPIC)
    _file(put)
    put.add_argument("--dry-run", action="store_true", help="compile, check against the last 100 records, no more")
    command(transforms, "delete", "records go in and out as they are", _delete).add_argument("name", metavar=TOPIC)
    attempt = command(transforms, "try", "show records before and after each step; changes nothing", _try)
    attempt.add_argument("name", metavar=TOPIC)
    attempt.add_argument("--direction", choices=("in", "out"), default="in", help="of the steps (default: in)")
    _file(attempt, "without, those in force")
    source = attempt.add_mutually_exclusive_group(required=True)
    source.add_argument("--last", type=int, metavar="N", help="on the topic's last N records")
    source.add_argument("--value", action="append", metavar="TEXT", help="on a record of this value; may be repeated")


def _file(command: argparse.ArgumentParser, otherwise: str = "without, standard input") -> None:
    file = command.add_argument("--file", metavar="FILE", help=f"holds the transforms as JSON; {otherwise}")
    file.complete = shtab.FILE  # type: ignore[attr-defined]


def _show(client: AdminClient, options: argparse.Namespace) -> Any:
    return client.call("GET", f"/transforms/{client.name(options.name, TOPIC)}").body


def _put(client: AdminClient, options: argparse.Namespace) -> Any:
    path = f"/transforms/{client.name(options.name, TOPIC)}{'?dry_run=1' if options.dry_run else ''}"
    return client.call("PUT", path, _document(options.file)).body


def _delete(client: AdminClient, options: argparse.Namespace) -> Any:
    return client.call("DELETE", f"/transforms/{client.name(options.name, TOPIC)}").body


def _try(client: AdminClient, options: argparse.Namespace) -> Any:
    body: dict[str, Any] = {"direction": options.direction}
    if options.file is not None:
        body["steps"] = _document(options.file).get(options.direction, [])
    if options.last is not None:
        body["last"] = options.last
    else:
        body["records"] = [{"value": value} for value in options.value]
    found = client.call("POST", f"/transforms/{client.name(options.name, TOPIC)}/try", body).body
    if options.json:
        return found
    return {"items": [row for number, record in enumerate(found["records"]) for row in _rows(number, record)]}


def _rows(number: int, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A record's way through the steps, a row for each."""
    place = number if record["offset"] is None else f"{record['partition']}:{record['offset']}"
    rows: list[dict[str, Any]] = [
        {"record": place, "step": "", "key": record["before"].get("key"), "value": _value(record["before"])}
    ]
    for step in record["steps"]:
        after, error = step["after"], step["error"]
        if error is not None:
            shown = f"refused: {error['detail']}"
        elif after is None:
            shown = "dropped"
        else:
            shown = _value(after)
        rows.append(
            {
                "record": place,
                "step": step["step"],
                "key": None if after is None else after.get("key"),
                "value": shown,
                "microseconds": round(step["seconds"] * 1e6, 1),
            }
        )
    return rows


def _value(record: Mapping[str, Any]) -> str:
    value = record.get("value", record.get("value_base64"))
    text = "null" if value is None else str(value)
    return text if len(text) <= WIDEST else f"{text[:WIDEST]}…"


def _document(path: str | None) -> dict[str, Any]:
    try:
        if path is None:
            found = json.load(sys.stdin)
        else:
            with open(path, "rb") as file:
                found = json.load(file)
    except (OSError, ValueError) as error:
        raise Misused(f"{path or 'standard input'}: {error}") from error
    if not isinstance(found, dict):
        raise Misused(f"{path or 'standard input'} must hold an object with in, out and on_error")
    return found
