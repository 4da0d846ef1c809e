"""Reloads configuration, certificates and registry, whole or not at all: tries all that can fail, then replaces."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from kateway.config.schema import Config
from kateway.daemon.assembly import open_transforms
from kateway.daemon.check import read_registry_file
from kateway.daemon.http_parts import HttpParts
from kateway.daemon.parts import Parts
from kateway.daemon.pushing import build_push
from kateway.daemon.reload import cannot_change
from kateway.daemon.spans import build_spans
from kateway.errors import ConfigError, Problems
from kateway.shield import shield

_log = Logger()


class Reloading:
    """One process's. ``reread`` gives the configuration as it is now in its file; ``ConfigError``."""

    def __init__(self, parts: Parts, http: HttpParts, reread: Callable[[], Config]) -> None:
        self.reread = reread
        self._parts = parts
        self._http = http
        self._lock = DeferredLock()

    async def reload(self) -> None:
        """Re-reads configuration, certificates and registry, all or nothing. ``ConfigError`` names every problem;
        ``RegistryUnavailable`` where the registry's server is away. No connection is dropped. One after the other:
        the configuration read last is in force in the end. Where there are several processes, all of them do.
        """
        if self._parts.worker is None:
            await self.reload_here()
        else:
            await self._parts.worker.ask("reload")

    async def reload_here(self, *, only_check: bool = False) -> None:
        """Reloads this process alone; ``only_check`` changes nothing, and raises as that would. One whose caller has
        gone goes on to its end: else its outcome would be said to be a failure without a reason.
        """
        await shield(self._lock.run(lambda: Deferred.fromCoroutine(self._reload(only_check))))

    async def _reload(self, only_check: bool) -> None:
        parts, http = self._parts, self._http
        try:
            problems = Problems()
            settings = problems.take(self.reread) or parts.settings
            problems.found += cannot_change(parts.settings, settings)
            access = problems.take(parts.admitting.candidate, settings)
            guard = problems.take(http.sign_in.candidate, settings)
            transforms = problems.take(open_transforms, settings)
            push = problems.take(build_push, settings, parts.reactor)
            spans = problems.take(build_spans, settings)
            certificates = http.listening.candidates(problems)
            if problems.found:
                await self._read_registry_file(problems)
            problems.refuse()
            if only_check:
                return
            await parts.registry.reload()
        except Exception as error:
            parts.reloads.failed(error)
            parts.counting.changes.note("reload", "configuration", str(error))
            _log.warn("nothing was reloaded: {why}", why=error)
            raise
        # from here on nothing can fail
        parts.settings = settings
        http.listening.configure(settings.http)
        parts.edges.configure(settings.http)
        parts.groups.config = settings.delivery
        parts.admitting.admission.quota_headers = settings.quotas.headers
        parts.audit.configure(settings.audit)
        parts.watches.config = settings.plugins
        parts.configure_transforms(transforms or [])
        http.exposing.configure(push)
        parts.spans.configure(spans, settings.tracing.sample_ratio)
        http.operating.configure()
        if guard is not None:
            http.admin_edge.guard = guard
            http.sign_in.take(guard)
        http.listening.take(certificates)
        parts.admitting.take(access)
        http.listening.reopen_log()
        parts.reloads.succeeded()
        parts.counting.changes.note("reload", "configuration", "ok")
        _log.info("configuration and registry were reloaded: generation {number}", number=parts.reloads.generation)
        try:
            await parts.administration.make_topics()
        except Exception:
            # the reload holds; the regular work tries again within seconds
            _log.failure("registered topics could not be made after the reload")

    async def _read_registry_file(self, problems: Problems) -> None:
        """Adds the registry file's faults to others that were found; its entries must not come into force."""
        reactor = self._parts.reactor
        try:
            await deferToThreadPool(reactor, reactor.getThreadPool(), read_registry_file, self._parts.settings)
        except ConfigError as error:
            problems.found += error.problems
