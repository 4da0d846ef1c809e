"""Costs of transforms, filters and schemas: ``python bench/transforms.py``; with ``--hostile`` the worst expressions.

CPU time of the thread on one core, best of five, so that other work on the machine does not count.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator
from types import MappingProxyType

import orjson

from kateway.core.transforms.expressions import Expression
from kateway.core.transforms.in_force import TransformsInForce
from kateway.core.transforms.pipeline import Pipeline
from kateway.core.transforms.record_view import RecordView
from kateway.core.transforms.schema import Schema
from kateway.errors import ExpressionInvalid, TransformFailed
from kateway.model import Message
from kateway.registry.interface import Snapshot, Transforms

ROUNDS = 5
RUNS = 4000
TOPICS = 10_000
NOW = 1_700_000_000.0
SMALL = orjson.dumps(
    {
        "id": 123456,
        "amount": 17,
        "user": {"name": "somebody", "email": "a@example.com"},
        "card": {"number": "4711 4711"},
        "x": 1,
    }
)


def seconds(work: Callable[[], object], runs: int) -> float:
    """The CPU time of a run, best of five."""
    taken = []
    for _ in range(ROUNDS):
        start = time.thread_time()
        for _ in range(runs):
            work()
        taken.append((time.thread_time() - start) / runs)
    return min(taken)


def small() -> None:
    message = Message(SMALL, b"key", (("env", b"live"),))
    steps = {
        "no steps": [],
        "require": [{"require": "record.json.amount > 0"}],
        "require + mask": [{"require": "record.json.amount > 0"}, {"mask": ["/card/number"], "with": "****"}],
        "set value and key": [{"set": {"value": "{'id': record.json.id}", "key": "record.json.user.name"}}],
        "schema": [{"schema": {"required": ["id"], "properties": {"amount": {"type": "integer", "minimum": 0}}}}],
    }
    for name, listed in steps.items():
        pipeline = Pipeline.compile({"in": listed}, "in", {})
        print(f"{name:32} {seconds(lambda p=pipeline: p.apply(message, NOW), RUNS) * 1e6:7.2f} µs")  # type: ignore[misc]
    for text in ("record.json.amount > 20", "record.headers['env'] == 'test'", "record.key == 'other'", "record == 1"):
        expression = Expression.compile(text)
        taken = seconds(lambda e=expression: e.evaluate(RecordView.of(message), NOW), RUNS)  # type: ignore[misc]
        print(f"filter {text:32} {taken * 1e6:7.2f} µs")
    schema = Schema.compile({"required": ["id"], "properties": {"amount": {"type": "integer"}}})
    print(f"{'schema alone':32} {seconds(lambda: schema.check(SMALL), RUNS) * 1e6:7.2f} µs")
    document = {"in": steps["require + mask"], "out": [{"drop": "record.headers['env'] == 'test'"}]}
    taken = seconds(lambda: Pipeline.compile(document, "in", {}), 50)
    print(f"{'compile require + mask + drop':32} {taken * 1e6:7.0f} µs")
    nothing()
    loading()


def in_force(topics: int) -> TransformsInForce:
    """Transforms of so many topics."""
    entries = {}
    for number in range(topics):
        name = ("app1", f"topic{number}", "v1")
        application, topic, version = name
        amount = {"require": f"record.json.amount > {number}"}
        steps = (amount, {"mask": ["/card/number"], "with": "****"})
        entries[name] = Transforms(application=application, topic=topic, version=version, incoming=steps)
    snapshot = Snapshot(transforms=MappingProxyType(entries))
    return TransformsInForce(lambda: snapshot, time.time)


def nothing() -> None:
    """What a publish to a topic without transforms pays."""
    without, beside = in_force(0), in_force(10)
    name = ("app1", "other", "v1")
    taken = seconds(lambda: without.any_topic, 100_000)
    print(f"{'no topic has transforms':32} {taken * 1e6:7.2f} µs a publish")
    taken = seconds(lambda: beside.any_topic and beside.incoming(name), 100_000)
    print(f"{'other topics have transforms':32} {taken * 1e6:7.2f} µs a publish")


def loading() -> None:
    """What all transforms of a large registry take, which are compiled when they are first needed."""
    began = time.thread_time()
    loaded = in_force(TOPICS)
    made = time.thread_time() - began
    began = time.thread_time()
    for entry in loaded._snapshot().transforms.values():
        loaded.incoming(entry.name)
    print(
        f"{TOPICS} topics, each with its own require + mask: {time.thread_time() - began:.2f} s, entries {made:.2f} s"
    )


HOSTILE = [
    "record.json.a[0] == 1",
    "record.json.a",
    "record",
    "record.json.a.all(x, x >= 0 && x + 1 > 0)",
    "record.json.a.map(x, x)",
    "record.json.a.map(x, record.json.a)",
    "record.json.a.map(x, record.value)",
    "record.json.a.all(x, record.json.a.all(y, y >= 0))",
    "record.json.a.filter(x, true).map(x, x).all(x, true)",
    "record.json.a.all(x, x in record.json.a)",
    "record.json.a.map(x, {'a': x, 'b': x})",
    "record.json" + ".a" * 25,
    "+".join(["record.value"] * 20),
    "record.value.matches('(a|b)*a(a|b){20}c')",
    "record.value.matches('[a-z]+z')",
    r"record.value.matches('\\w{10}')",
    r"record.value.matches('\\w{100}')",
    "['aaaaaaaa']" + ".map(x, x + x)" * 3,
    "['aaaaaaaa']" + ".map(x, x + x)" * 20,
    "[1, 2].map(x, " * 12 + "1" + ")" * 12,
    "(" * 500 + "1" + ")" * 500,
]


def values() -> Iterator[bytes]:
    for members in (30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000):
        yield orjson.dumps({"a": [1] * members})
        yield orjson.dumps({"a": ["xyz" * 5] * members})
        yield orjson.dumps({"a": [{}] * members})
        yield orjson.dumps({"a": [[1] * 10] * (members // 10)})
        yield orjson.dumps({str(number): number for number in range(members)})
        yield "".join(random.choice("ab") for _ in range(2 * members)).encode()


def hostile() -> None:
    listed = list(values())
    print(f"{'expression':44} compile  ran: ms, bytes, largest    refused: ms")
    for text in HOSTILE:
        try:
            begun = time.thread_time()
            expression = Expression.compile(text)
        except ExpressionInvalid:
            print(f"{text[:42]:44} {(time.thread_time() - begun) * 1e3:5.1f}    refused")
            continue
        compiling = (time.thread_time() - begun) * 1e3
        slowest, largest, refused = (0.0, 0), 0, 0.0
        for value in listed:
            taken, done = [], True
            for _ in range(ROUNDS):
                view = RecordView.of(Message(value, b"k"))
                start = time.thread_time()
                try:
                    expression.evaluate(view, NOW)
                except TransformFailed as error:
                    done = "too large" not in error.detail
                taken.append((time.thread_time() - start) * 1e3)
            if done:
                slowest, largest = max(slowest, (min(taken), len(value))), max(largest, len(value))
            else:
                refused = max(refused, min(taken))
        ran = f"{slowest[0]:6.1f} {slowest[1]:9} {largest:9}"
        print(f"{text[:42]:44} {compiling:5.1f}    {ran}   {refused:6.1f}", flush=True)


if __name__ == "__main__":
    if "--hostile" in sys.argv:
        hostile()
    else:
        small()
