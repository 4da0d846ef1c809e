"""A fuzz of expressions that do run: well typed, made of what costs most, on records of all sizes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from random import Random

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kateway.core.transforms.expressions import Expression
from kateway.core.transforms.record_view import RecordView
from kateway.errors import ExpressionInvalid, TransformFailed
from kateway.model import Message

CPU_SECONDS = 0.25
"""Of the thread. A tracer and a busy machine make 50 ms as long; what is not bounded takes seconds."""


class Maker:
    """Makes expressions of a type; ``bound`` is how many variables there are: x0, x1, …"""

    def __init__(self, random: Random) -> None:
        self._random = random

    def _one(self, *ways: Callable[[], str]) -> str:
        return self._random.choice(ways)()

    def numbers(self, depth: int, bound: int) -> str:
        if depth <= 0:
            return self._random.choice(["record.json.a", "record.json.a", "[1, 2, 3]"])
        below = depth - 1
        return self._one(
            lambda: f"({self.numbers(below, bound)} + {self.numbers(below, bound)})",
            lambda: f"{self.numbers(below, bound)}.map(x{bound}, {self.number(below, bound + 1)})",
            lambda: f"{self.numbers(below, bound)}.filter(x{bound}, {self.truth(below, bound + 1)})",
            lambda: f"{self.lists(below, bound)}.map(x{bound}, size(x{bound}))",
            lambda: f"({self.truth(below, bound)} ? {self.numbers(below, bound)} : {self.numbers(below, bound)})",
        )

    def lists(self, depth: int, bound: int) -> str:
        return self._one(
            lambda: f"{self.numbers(depth - 1, bound)}.map(x{bound}, {self.numbers(depth - 1, bound + 1)})",
            lambda: f"[{self.numbers(depth - 1, bound)}, {self.numbers(depth - 1, bound)}]",
        )

    def number(self, depth: int, bound: int) -> str:
        if depth <= 0:
            return f"x{self._random.randrange(bound)}" if bound else "1"
        return self._one(
            lambda: f"({self.number(depth - 1, bound)} + {self.number(depth - 1, bound)})",
            lambda: f"size({self.numbers(depth - 1, bound)})",
            lambda: f"size({self.text(depth - 1, bound)})",
        )

    def text(self, depth: int, bound: int) -> str:
        if depth <= 0:
            return self._random.choice(["record.value", "record.json.s", "'ab'"])
        return self._one(
            lambda: f"({self.text(depth - 1, bound)} + {self.text(depth - 1, bound)})",
            lambda: f"string({self.number(depth - 1, bound)})",
            lambda: f"[{self.text(depth - 1, bound)}].map(x{bound}, x{bound} + x{bound})[0]",
        )

    def truth(self, depth: int, bound: int) -> str:
        if depth <= 0:
            return "true"
        below = depth - 1
        return self._one(
            lambda: f"{self.number(below, bound)} > 0",
            lambda: f"{self.numbers(below, bound)}.all(x{bound}, {self.truth(below, bound + 1)})",
            lambda: f"!{self.numbers(below, bound)}.exists(x{bound}, !{self.truth(below, bound + 1)})",
            lambda: f"{self.number(below, bound)} in {self.numbers(below, bound)}",
            lambda: f"{self.text(below, bound)}.contains({self.text(below, bound)})",
            lambda: f"{self.text(below, bound)}.matches('[a-z]*x+[a-z]*y')",
            lambda: f"{self.numbers(below, bound)} == {self.numbers(below, bound)}",
        )


SIZES = st.tuples(st.sampled_from([3, 30, 100, 200, 400, 1000, 8000]), st.sampled_from([2, 1000, 30_000, 1_000_000]))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.randoms(use_true_random=False), st.integers(1, 5), st.lists(SIZES, min_size=1, max_size=5))
def test_well_typed_expression_ends_in_time(random: Random, depth: int, sizes: list[tuple[int, int]]) -> None:
    maker = Maker(random)
    kind = random.choice([maker.numbers, maker.lists, maker.number, maker.text, maker.truth])
    try:
        expression = Expression.compile(kind(depth, 0))
    except ExpressionInvalid:
        return
    for members, characters in sizes:
        value = orjson.dumps({"a": [1] * members, "s": "x" * characters})
        best = CPU_SECONDS
        for _ in range(3):
            view = RecordView.of(Message(value))
            begun = time.thread_time()
            with suppress(TransformFailed):
                expression.evaluate(view, 1.0)
            best = min(best, time.thread_time() - begun)
            if best < CPU_SECONDS:
                break
        assert best < CPU_SECONDS
