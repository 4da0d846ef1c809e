"""Looks at a topic's records, and publishes some: ``kateway-admin records``."""

from __future__ import annotations

import argparse
import sys
from typing import Any
from urllib.parse import quote, urlencode

import shtab

from kateway.cli.client import AdminClient
from kateway.cli.commands import TOPIC, Command


def add_records(records: Any, command: Command) -> None:
    """Adds the commands."""
    peek = command(records, "peek", "look at records; moves no group", _peek)
    peek.add_argument("name", metavar=TOPIC)
    peek.add_argument("--partition", type=int, help="without, all of them")
    start = peek.add_mutually_exclusive_group()
    start.add_argument("--offset", help="from this offset of the partition on; or earliest")
    start.add_argument("--timestamp", type=int, metavar="MS", help="from this time on, in ms since the epoch")
    start.add_argument("--last", type=int, metavar="N", help="the last N records (default: 100)")
    peek.add_argument("--contains", metavar="TEXT", help="only those with this text in value, key or a header")
    peek.add_argument("--limit", type=int, metavar="N", help="at most so many (default: 100)")
    peek.add_argument("--full", action="store_const", const="1", help="whole values, not the first 4 kB")
    peek.add_argument("--dead", metavar="READER/GROUP", help="the dead letters of this group instead")
    state = command(records, "show", "show one record, and its state for a group", _show)
    state.add_argument("name", metavar=TOPIC)
    state.add_argument("partition", type=int, metavar="PARTITION")
    state.add_argument("offset", type=int, metavar="OFFSET")
    state.add_argument("--group", metavar="READER/GROUP", help="its state for this group")
    state.add_argument("--full", action="store_const", const="1", help="the whole value, not the first 4 kB")
    publish = command(records, "publish", "publish a record, or with --batch many", _publish)
    publish.add_argument("name", metavar=TOPIC)
    given = publish.add_mutually_exclusive_group()
    given.add_argument("--value", metavar="TEXT", help="else it is read from --file or standard input")
    given.add_argument("--file", metavar="FILE", help="holds the value, or the batch").complete = shtab.FILE  # type: ignore[attr-defined]
    given.add_argument("--tombstone", action="store_true", help="no value: deletes the key of a compacted topic")
    publish.add_argument("--batch", choices=("json", "ndjson"), help="an array of records, or a value a line")
    publish.add_argument("--key", help="the record's key")
    publish.add_argument("--partition", type=int, help="into this partition")
    publish.add_argument("--timestamp", type=int, metavar="MS", help="the record's time, in ms since the epoch")
    publish.add_argument("--content-type", metavar="TYPE", help="kept with the record")
    publish.add_argument(
        "--header", action="append", dest="headers", type=_header, metavar="NAME=VALUE", help="may be repeated"
    )


def query_of(**values: Any) -> str:
    """A query with those values that are given, or nothing."""
    given = {name: value for name, value in values.items() if value is not None}
    return f"?{urlencode(given, quote_via=quote)}" if given else ""


def _peek(client: AdminClient, options: argparse.Namespace) -> Any:
    names = ("partition", "offset", "timestamp", "last", "contains", "limit", "full")
    query = query_of(
        **{name: getattr(options, name) for name in names},
        group=options.dead,
        queue=None if options.dead is None else "dead",
    )
    found = client.call("GET", f"/records/{client.name(options.name, TOPIC)}{query}").body
    return found if options.json else {**found, "records": [_brief(record) for record in found["records"]]}


def _brief(record: dict[str, Any]) -> dict[str, Any]:
    """A record with its headers by name, for a table."""
    headers = {header["name"]: header.get("value", header.get("value_base64")) for header in record["headers"]}
    return {**record, "headers": headers}


def _show(client: AdminClient, options: argparse.Namespace) -> Any:
    path = f"/records/{client.name(options.name, TOPIC)}/{options.partition}/{options.offset}"
    found = client.call("GET", path + query_of(group=options.group, full=options.full)).body
    return found if options.json else {**found, "record": _brief(found["record"])}


def _publish(client: AdminClient, options: argparse.Namespace) -> Any:
    query = query_of(
        key=options.key,
        partition=options.partition,
        timestamp=options.timestamp,
        tombstone="1" if options.tombstone else None,
        batch="1" if options.batch else None,
    )
    value = b"" if options.tombstone else _value(options)
    types = {None: "application/octet-stream", "json": "application/json", "ndjson": "application/x-ndjson"}
    headers = {"Content-Type": options.content_type or types[options.batch]}
    headers |= {f"Kateway-Header-{name}": text for name, text in options.headers or ()}
    return client.call("POST", f"/records/{client.name(options.name, TOPIC)}{query}", value, headers).body


def _value(options: argparse.Namespace) -> bytes:
    if options.value is not None:
        return str(options.value).encode()
    if options.file is None:
        return sys.stdin.buffer.read()
    with open(options.file, "rb") as file:
        return file.read()


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
