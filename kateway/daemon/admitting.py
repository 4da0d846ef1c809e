"""Keeps what lets applications in: the rules in force, rate limits, open streams; a reload brings other rules."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from kateway.config.schema import Config
from kateway.core.access.control import AccessControl, OpenAccess, RegistryAccess
from kateway.core.access.failures import build_failures
from kateway.core.access.open_streams import OpenStreams
from kateway.core.access.policy import Access, build_access
from kateway.core.access.rate_limits import CountReaders, MakeNamed, Quotas
from kateway.core.audit.events import Audit
from kateway.core.plugin_watch import Watches
from kateway.core.transforms.in_force import TransformsInForce
from kateway.daemon.assembly import open_mode
from kateway.daemon.counting import Counting
from kateway.daemon.periodic import RegularWork
from kateway.registry.interface import Registry, Snapshot
from kateway.storage.interface import Store
from kateway.web.messages.admission import Admission


class Admitting:
    """One gateway's. ``rates`` makes the rate limits that several processes share, ``readers`` counts the readers."""

    def __init__(
        self,
        settings: Config,
        reactor: Any,
        registry: Registry,
        stores: Mapping[str, Store],
        audit: Audit,
        transforms: TransformsInForce,
        counting: Counting,
        watches: Watches,
        rates: MakeNamed | None,
        readers: CountReaders | None,
    ) -> None:
        self._registry = registry
        self._watches = watches
        self._failures = build_failures(settings.auth, reactor.seconds)
        self.quotas = Quotas(
            seconds=reactor.seconds, max_tracked=settings.quotas.max_tracked, make=rates, readers=readers
        )
        self.control: AccessControl = (
            OpenAccess(stores)
            if open_mode(settings)
            else RegistryAccess(self._access(settings), stores, self.snapshot, reactor.seconds, counting.refused)
        )
        self.open_streams = OpenStreams(self.control, reactor, time.time)
        self.admission = Admission(self.control, self.open_streams, audit, reactor.seconds, transforms, counting.series)
        self.admission.quota_headers = settings.quotas.headers

    def snapshot(self) -> Snapshot:
        """The registry's, of now."""
        return self._registry.snapshot

    def start(self, settings: Config, regular: RegularWork) -> None:
        """Writes down which keys are used, from now on."""
        if isinstance(self.control, RegistryAccess):
            regular.every(settings.auth.note_used_interval_seconds, self._note_used)

    def candidate(self, settings: Config) -> Access | None:
        """Makes the rules that a configuration asks for; ``None`` in open mode. ``ConfigError``."""
        return self._access(settings) if isinstance(self.control, RegistryAccess) else None

    def take(self, access: Access | None) -> None:
        """Puts other rules in force, on open streams too."""
        if access is not None and isinstance(self.control, RegistryAccess):
            access.authentication.put_back(self.control.access.authentication.take_used())
            self.control.access = access
        self.open_streams.recheck()

    def just_used(self) -> Mapping[str, int]:
        """The keys whose use is not written down yet."""
        control = self.control
        return control.access.authentication.just_used() if isinstance(control, RegistryAccess) else {}

    def _access(self, settings: Config) -> Access:
        return build_access(
            settings,
            self.quotas,
            self._failures,
            snapshot=self.snapshot,
            now=time.time,
            watches=self._watches,
        )

    async def _note_used(self) -> None:
        if isinstance(self.control, RegistryAccess):
            used = self.control.access.authentication.take_used()
            if used:
                try:
                    await self._registry.note_used(used)
                except BaseException:
                    self.control.access.authentication.put_back(used)
                    raise
