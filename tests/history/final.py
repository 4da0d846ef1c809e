"""The state in the end: every record of a topic and a group's committed offsets, read without the group."""

from __future__ import annotations

import json
from collections.abc import Mapping

from servers.oracle import Oracle

from history.check import Final
from history.record import Place
from history.wire import Client, ask


def committed(port: int, topic: str, group: str) -> dict[int, int]:
    """What ``GET …/offsets`` says now; partitions without a commit are left out."""
    answer = ask(port, "GET", f"/v1/topics/{topic}/{group}/offsets")
    if answer.status != 200:
        raise RuntimeError(f"offsets of {group}: {answer}")
    listed = json.loads(answer.body)["partitions"]
    return {each["partition"]: each["committed"] for each in listed if each["committed"] is not None}


def from_gateway(port: int, topic: str, group: str = "", *, drained: bool = False) -> Final:
    """By reads without a group; for the embedded store, which no other program can read."""
    client = Client(port)
    partitions = json.loads(client.ask("GET", f"/v1/topics/{topic}").body)["partitions"]
    log: dict[int, list[tuple[int, bytes]]] = {}
    for each in partitions:
        partition, at, end = each["partition"], each["earliest"], each["end"]
        records = log[partition] = []
        while at < end:
            target = f"/v1/topics/{topic}?partition={partition}&offset={at}&limit={min(end - at, 1000)}&timeout=10"
            answer = client.ask("GET", target, Accept="application/x-ndjson")
            if answer.status != 200:
                raise RuntimeError(f"{target}: {answer}")
            for line in filter(None, answer.body.splitlines()):
                record = json.loads(line)
                records.append((record["offset"], record["value"].encode()))
            at = records[-1][0] + 1
    client.close()
    return Final(log, committed(port, topic, group) if group else {}, drained)


def from_oracle(oracle: Oracle, topic: str, group: str = "", *, drained: bool = False) -> Final:
    """By librdkafka."""
    log: dict[int, list[tuple[int, bytes]]] = {}
    for record in oracle.records(topic, timeout_seconds=60):
        log.setdefault(record.partition, []).append((record.offset, record.value or b""))
    held = oracle.committed_offsets(group, topic) if group else {}
    return Final(log, held, drained)


def ends(final: Final) -> Mapping[int, int]:
    """Partition → the offset after its last record, for those that have any."""
    return {partition: records[-1][0] + 1 for partition, records in final.log.items() if records}


def places(final: Final) -> set[Place]:
    return {Place(partition, offset) for partition, records in final.log.items() for offset, _ in records}
