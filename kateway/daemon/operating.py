"""Joins the handlers of the admin API with the parts that they work with."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.threads import deferToThreadPool

from kateway.config.schema import Config
from kateway.core.access.rate_limits import Quotas
from kateway.core.administration import Administration
from kateway.core.gateway import Gateway
from kateway.core.groups.memberships import Memberships
from kateway.core.growths import Growths
from kateway.core.operator.naming import Names
from kateway.core.operator.redrives import Redrives
from kateway.core.plugins import PluginList
from kateway.core.transforms.in_force import TransformsInForce
from kateway.daemon.observing import Observing
from kateway.model import Message, Principal
from kateway.observe.memory import MemoryTracing
from kateway.observe.parts import ALONE, OtherProcesses
from kateway.observe.profile import Profiler
from kateway.web.admin.breakers import BreakerCalls
from kateway.web.admin.elastic import ElasticCalls
from kateway.web.admin.event_streams import EventStreams, OnEnd
from kateway.web.admin.group_rows import GroupRows
from kateway.web.admin.groups import GroupCalls
from kateway.web.admin.live import MOST_ROWS, STATUS, LiveCalls, View
from kateway.web.admin.plugins import PluginCalls
from kateway.web.admin.process import ProcessCalls
from kateway.web.admin.records import RecordCalls
from kateway.web.admin.redrives import RedriveCalls
from kateway.web.admin.resources import Resources
from kateway.web.admin.rows import Row
from kateway.web.admin.tail import TailCalls
from kateway.web.admin.transforms import TransformCalls
from kateway.web.admin.troubles import TroubleCalls
from kateway.web.exchange import Request
from kateway.web.messages.publish_counts import PublishCounts

T = TypeVar("T")
Part = Callable[[Any], Coroutine[Any, Any, Any]]
MOST_OF_A_PART = 5
"""Slow requests, errors and changes that a summary has."""
MOST_THROTTLED = 20
"""Applications that are told of as throttled."""


class Operating:
    """The parts that operators' calls work with. ``settings`` gives those of now, ``status`` the gateway's own;
    ``allowed`` raises where a request may not make a call of this name any more.
    """

    def __init__(
        self,
        settings: Callable[[], Config],
        names: Names,
        gateway: Gateway,
        groups: Memberships,
        administration: Administration,
        reactor: Any,
        transforms: TransformsInForce,
        plugins: PluginList,
        quotas: Quotas,
        observing: Observing | None,
        counts: PublishCounts | None,
        troubles: TroubleCalls,
        allowed: Callable[[Request, str], None],
        growths: Growths,
        on_end: OnEnd,
        status: Callable[[], Row],
        others: OtherProcesses = ALONE,
    ) -> None:
        async def in_thread(work: Callable[[], T]) -> T:
            return await deferToThreadPool(reactor, reactor.getThreadPool(), work)

        def charge(application: str, messages: Sequence[Message]) -> None:
            size = sum(len(message.value or b"") + len(message.key or b"") for message in messages)
            allowance = quotas.of(Principal(application), administration.registry.snapshot)
            allowance.publish(len(messages), size, reactor.seconds())

        self.redrives = Redrives(
            gateway, groups, reactor, administration.now_ms, None if counts is None else counts.by_operator
        )
        self._profiler = Profiler(reactor.callFromThread)
        self._memory = MemoryTracing(in_thread)
        self._settings = settings
        self.configure()
        group_rows = GroupRows(names, groups, reactor, None if observing is None else observing.situations, others)

        async def status_row(_wanted: Sequence[str] | None) -> dict[str, Row]:
            return {STATUS: {"name": STATUS, **status()}}

        async def throttles(_arguments: Any = None) -> dict[str, tuple[float, float]]:
            """How often this process refused an application by a quota: since the start, and within the last minute."""
            if observing is None:
                return {}
            figures = observing.looking.figures
            return {name: (total, figures.refused(name)) for name, (total, _) in figures.throttles().items()}

        async def throttled_anywhere() -> dict[str, tuple[float, float]]:
            found = await throttles()
            for told in (await others.ask("throttles")).all:
                for name, (total, lately) in told.items():
                    before = found.get(name, (0.0, 0.0))
                    found[name] = before[0] + total, before[1] + lately
            return found

        async def throttled() -> dict[str, Row]:
            """Those that were refused by their quotas, most often first."""
            most = sorted((await throttled_anywhere()).items(), key=lambda item: -item[1][0])[:MOST_THROTTLED]
            return {
                f"throttled {name}": {
                    "name": f"throttled {name}",
                    "application": name,
                    "throttled_total": int(total),
                    "last_minute": int(lately),
                }
                for name, (total, lately) in most
            }

        async def applications(wanted: Sequence[str] | None) -> dict[str, Row]:
            """Their last figures, and how often they were refused by a quota: that is true now."""
            assert observing is not None
            rows = dict(await observing.figures.rows("application", wanted, MOST_ROWS))
            for name, (total, _) in (await throttled_anywhere()).items():
                if name in rows or (wanted is not None and name in wanted):
                    rows[name] = {"name": name, **rows.get(name, {}), "throttled_total": int(total)}
            return rows

        async def overview(_wanted: Sequence[str] | None) -> dict[str, Row]:
            return {**await status_row(None), **await group_rows.worst(), **(await throttled())}

        async def summary(_wanted: Sequence[str] | None) -> dict[str, Row]:
            return {**await overview(None), **(await troubles.summary(MOST_OF_A_PART))}

        views: dict[str, View] = {
            "overview": overview,
            "summary": summary,
            "status": status_row,
            "groups": lambda wanted: group_rows.rows(wanted, MOST_ROWS),
            "errors": lambda wanted: troubles.rows(wanted, MOST_ROWS),
        }
        if observing is not None:
            figures = observing.figures
            views |= {
                "gateway": figures.gateway,
                "applications": applications,
                "topics": lambda wanted: figures.rows("topic", wanted, MOST_ROWS),
            }
        self.streams = EventStreams(allowed, on_end, reactor)
        record_calls = RecordCalls(
            names,
            gateway,
            groups,
            administration,
            reactor,
            lambda: settings().admin,
            lambda: settings().http.max_body_bytes,
            transforms,
            charge,
            counts,
            others,
        )
        process_calls = ProcessCalls(self._profiler, self._memory, in_thread, administration, others)
        plugin_calls = PluginCalls(plugins, others)
        self.breakers = BreakerCalls(administration, others)
        self.calls: tuple[object, ...] = (
            record_calls,
            self.breakers,
            Resources(administration, transforms, lambda: settings().admin),
            TransformCalls(names, gateway, administration, transforms, reactor, lambda: settings().admin),
            GroupCalls(names, gateway, groups, administration, reactor, group_rows, others),
            RedriveCalls(names, self.redrives, administration),
            plugin_calls,
            ElasticCalls(growths),
            process_calls,
            troubles,
            LiveCalls(views, self.streams, others),
            TailCalls(names, gateway, administration, lambda: settings().admin, self.streams, reactor),
            *(() if observing is None else (observing.figures, observing.producers, observing.usage)),
        )
        """The handlers, for the admin API."""
        self.parts: dict[str, Part] = {
            "groups": group_rows.part,
            "plugins": plugin_calls.part,
            "throttles": throttles,
            "record_state": record_calls.part,
            "profile": process_calls.profile_part,
            "stacks": process_calls.stacks_part,
            "memory": process_calls.memory_part,
            "breakers": self.breakers.part,
            "set_breaker": self.breakers.set_here,
            **troubles.parts,
        }
        """This process's part of each answer, by what the processes ask each other for."""
        if observing is not None:
            self.parts |= {
                "groups_read": observing.read_part,
                "history": observing.figures.part,
                "producers": observing.producers.part,
                "usage": observing.usage.part,
            }

    def configure(self) -> None:
        """Takes over settings that a reload has changed."""
        self._memory.configure(self._settings().admin.trace_memory_frames)

    def drain(self) -> None:
        """Ends a profile that is being made, and live streams: their clients would hold up the drain."""
        self._profiler.stop()
        self.streams.drain()

    async def stop(self) -> None:
        """Ends redrives under way and the tracing of memory."""
        await self.redrives.stop()
        self._memory.configure(0)
