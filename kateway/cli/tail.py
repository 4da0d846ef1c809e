"""Prints records as they are written, by looks that move no group: ``kateway-admin records tail``."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from kateway.cli.client import AdminClient
from kateway.cli.commands import TOPIC, Command
from kateway.cli.tables import printable

LOOK = 500
"""Records of one look; where more were written since the last one, the others are asked for."""
STEP_SECONDS = 1.0


def add_tail(records: Any, command: Command) -> None:
    """Adds the command."""
    tail = command(records, "tail", "print what is written from now on, until Ctrl-C; moves no group", _tail)
    tail.add_argument("name", metavar=TOPIC)
    tail.add_argument("--last", type=int, default=0, metavar="N", help="begin with the last N records, at most 500")
    tail.add_argument("--limit", type=int, metavar="N", help="end after so many")
    tail.add_argument("--full", action="store_const", const="1", help="whole values, not the first 4 kB")


def _tail(client: AdminClient, options: argparse.Namespace) -> Any:
    path = f"/records/{client.name(options.name, TOPIC)}"
    full = {} if options.full is None else {"full": options.full}

    def look(**query: int) -> dict[str, Any]:
        found: dict[str, Any] = client.call("GET", f"{path}?{urlencode({**query, **full})}").body
        return found

    printed = 0
    try:
        for record in new_records(look, min(options.last, LOOK), lambda: time.sleep(STEP_SECONDS)):
            print(json.dumps(record, ensure_ascii=False) if options.json else _line(record), flush=True)
            printed += 1
            if printed == options.limit:
                break
    except KeyboardInterrupt:
        pass
    return ""


def new_records(
    look: Callable[..., dict[str, Any]], last: int, pause: Callable[[], object]
) -> Iterator[Mapping[str, Any]]:
    """The ``last`` records, and then each new one, without end; ``look`` is a look at the topic by a query."""
    found = look(last=LOOK)
    ends = {each["partition"]: each["last"] for each in found["scanned"]["partitions"]}
    yield from found["records"][-last:] if last else []
    while True:
        pause()
        found = look(last=LOOK)
        for span in found["scanned"]["partitions"]:
            partition = span["partition"]
            # one that had none of the last records before has new ones only
            after = ends.get(partition, span["first"] - 1)
            while after + 1 < span["first"]:
                between = look(partition=partition, offset=after + 1, limit=LOOK)["records"]
                between = [record for record in between if record["offset"] < span["first"]]
                if not between:  # retention took them meanwhile
                    break
                yield from between
                after = between[-1]["offset"]
            yield from (
                record for record in found["records"] if record["partition"] == partition and record["offset"] > after
            )
            ends[partition] = max(after, span["last"])


def _line(record: Mapping[str, Any]) -> str:
    key = record.get("key", record.get("key_base64"))
    value = record.get("value", record.get("value_base64"))
    parts = [f"{record['partition']}:{record['offset']}", "-" if key is None else str(key)]
    return printable(" ".join([*parts, "(null)" if value is None else str(value)]))
