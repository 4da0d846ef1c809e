"""Serves the running process over the admin API: a profile, the stacks of its threads, its memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import orjson
from twisted.internet.defer import Deferred

from kateway import __version__
from kateway.core.administration import Administration
from kateway.errors import InvalidParameter
from kateway.gathering import gathered
from kateway.observe.memory import MemoryTracing
from kateway.observe.parts import ALONE, PART_SECONDS, OtherProcesses, Parts
from kateway.observe.profile import Profile, Profiler, Stack, collapsed, speedscope
from kateway.observe.stacks import Call, ThreadStack, stacks, text
from kateway.web.admin.requests import AdminCall, answer, by, only, page_limit
from kateway.web.exchange import NO_STORE, Response
from kateway.web.messages.negotiate import choose

PROFILE, STACKS, MEMORY = "profile", "stacks", "memory"
"""What the processes ask each other for."""
MEMORY_SECONDS = 30.0
"""A snapshot of a large process takes seconds."""
T = TypeVar("T")
U = TypeVar("U")
DEFAULT_SECONDS = 10.0
MOST_SECONDS = 60.0
TEXT = b"text/plain"
SPEEDSCOPE = b"application/vnd.speedscope+json"
_PROFILES = {TEXT: TEXT, b"application/json": b"application/json", SPEEDSCOPE: SPEEDSCOPE}
_STACKS = {TEXT: TEXT, b"application/json": b"application/json"}
_WILD = {b"*/*": TEXT, b"text/*": TEXT, b"application/*": b"application/json"}

InThread = Callable[[Callable[[], list[ThreadStack]]], Coroutine[Any, Any, list[ThreadStack]]]


class ProcessCalls:
    """Handlers. ``in_thread`` runs a function off the reactor's thread."""

    def __init__(
        self,
        profiler: Profiler,
        memory: MemoryTracing,
        in_thread: InThread,
        administration: Administration,
        others: OtherProcesses = ALONE,
    ) -> None:
        self._others = others
        self._profiler = profiler
        self._memory = memory
        self._in_thread = in_thread
        self._do = administration

    async def profile(self, call: AdminCall) -> Response:
        """Samples the process for some seconds."""
        wanted = _wanted(call, _PROFILES)
        table = call.table()
        only(table, "seconds")
        seconds = table.get("seconds", DEFAULT_SECONDS)
        if (
            isinstance(seconds, bool)
            or not isinstance(seconds, int | float)
            or not math.isfinite(seconds)
            or not 0 < seconds <= MOST_SECONDS
        ):
            raise InvalidParameter(f"seconds must be more than 0, up to {MOST_SECONDS:g}")
        event = f"{seconds:g} s"
        # a client that goes ends it
        profile, parts = await self._do.audited.read(
            self._of_all(seconds), by(call), "profile", event, lambda _profile: (event, "ok")
        )
        if wanted == TEXT:
            return _text(collapsed(profile), parts)
        content = orjson.dumps(speedscope(profile, f"kateway {__version__}, {profile.seconds:.1f} s"))
        return Response(200, ((b"Content-Type", wanted), NO_STORE, *parts.headers), content)

    async def _of_all(self, seconds: float) -> tuple[Profile, Parts]:
        """A profile of every process at the same time."""
        own, parts = await both(
            self._profiler.profile(seconds),
            self._others.ask(PROFILE, seconds, seconds=seconds + PART_SECONDS),
        )
        if self._others.index is None:
            return own, parts
        stacks: dict[Stack, int] = {}
        of_all = [(self._others.index, _table(own)), *parts.by_process.items()]
        for process, table in of_all:
            for (thread, *calls), count in table["stacks"]:
                stacks[f"process {process} {thread}", *calls] = count
        return own._replace(stacks=stacks), parts

    async def profile_part(self, seconds: Any) -> dict[str, Any]:
        """This process's profile, for another that was asked for all."""
        return _table(await self._profiler.profile(seconds))

    async def stacks_part(self, _arguments: Any) -> list[Any]:
        """This process's stacks."""
        return [[each.thread, [list(one) for one in each.calls]] for each in await self._in_thread(stacks)]

    async def memory_part(self, limit: Any) -> dict[str, Any]:
        """This process's memory."""
        memory = await self._memory.top(limit)
        return {**memory._asdict(), "top": [place._asdict() for place in memory.top]}

    async def stacks(self, call: AdminCall) -> Response:
        """Shows the stack of every thread."""
        wanted = _wanted(call, _STACKS)
        parts = await self._others.ask(STACKS)
        found = await self._in_thread(stacks)
        if self._others.index is not None:
            named = [each._replace(thread=f"process {self._others.index} {each.thread}") for each in found]
            for process, others in parts.by_process.items():
                for thread, calls in others:
                    named.append(ThreadStack(f"process {process} {thread}", [Call(*one) for one in calls]))
            found = named
        if wanted == TEXT:
            return _text(text(found), parts)
        threads = [{"thread": each.thread, "calls": [one._asdict() for one in each.calls]} for each in found]
        return answer(200, {"threads": threads, **parts.named})

    async def memory(self, call: AdminCall) -> Response:
        """Shows the lines that hold most memory."""
        limit = page_limit(call.query)
        own = await self.memory_part(limit)
        parts = await self._others.ask(MEMORY, limit, seconds=MEMORY_SECONDS)
        if self._others.index is not None:
            of_all = {self._others.index: own, **parts.by_process}
            places = [{**place, "process": process} for process, each in of_all.items() for place in each["top"]]
            own = {
                "traced_bytes": sum(each["traced_bytes"] for each in of_all.values()),
                "peak_bytes": sum(each["peak_bytes"] for each in of_all.values()),
                "top": sorted(places, key=lambda place: -place["bytes"])[:limit],
            }
        return answer(200, {**own, **parts.named})


def _table(profile: Profile) -> dict[str, Any]:
    return {"stacks": [[list(stack), count] for stack, count in profile.stacks.items()]}


async def both(one: Coroutine[Any, Any, T], other: Coroutine[Any, Any, U]) -> tuple[T, U]:
    """Awaits two at the same time; where one fails the other is given up, and so it is when both are."""
    waiting: list[Deferred[Any]] = [Deferred.fromCoroutine(one), Deferred.fromCoroutine(other)]
    found = await gathered(waiting)
    return found[0], found[1]


def _wanted(call: AdminCall, forms: dict[bytes, bytes]) -> bytes:
    accept = call.request.listed(b"accept")
    return TEXT if not accept else choose(accept, forms, _WILD)


def _text(content: str, parts: Parts) -> Response:
    raw = content.encode()
    etag = hashlib.blake2b(raw, digest_size=12).hexdigest()
    headers = ((b"Content-Type", b"text/plain; charset=utf-8"), NO_STORE, (b"ETag", f'"{etag}"'.encode()))
    return Response(200, (*headers, *parts.headers), raw)
