"""Counts a plugin's failures, and takes it out after so many in a row: each plugin has a breaker of its own.

A call that raises, or lasts longer than it may, is a failure. A synchronous call cannot be interrupted: its time is
measured, and its result holds all the same. A plugin that was taken out is not called; after a pause one call tries it,
and the one that succeeds brings it back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Literal, TypeVar, get_args

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from kateway.config.schema import PluginsConfig
from kateway.core import entry_points
from kateway.errors import PluginFailed

State = Literal["not_loaded", "loaded", "failing", "taken_out"]
STATES: tuple[State, ...] = get_args(State)
T = TypeVar("T")
MAX_ERROR_CHARACTERS = 200

_log = Logger()


class Watch:
    """One plugin's counts and its breaker."""

    def __init__(self, group: str, name: str, watches: Watches) -> None:
        self.group = group
        self.name = name
        self.own = name in entry_points.own(group)
        """One of the gateway's own: counted by the part that calls it, never taken out."""
        self.loaded = False
        self.failures = 0
        """Since the start."""
        self.in_a_row = 0
        self.out = False
        self._last_error = ""
        self._writing_since: float | None = None
        self._watches = watches
        self._next_probe = 0.0

    @property
    def state(self) -> State:
        if self.out:
            return "taken_out"
        if self.in_a_row or self._overdue:
            return "failing"
        return "loaded" if self.loaded else "not_loaded"

    @property
    def last_error(self) -> str:
        if (late := self._overdue) is not None:
            return f"a write has lasted for {late:.0f} s"
        return self._last_error

    @property
    def _overdue(self) -> float | None:
        """How long a write has lasted that should have ended: it may never end, and be counted never."""
        if self._writing_since is None:
            return None
        lasted = self._watches.seconds() - self._writing_since
        return lasted if lasted > self._watches.config.plugin_max_write_seconds else None

    def not_loaded(self, why: str) -> None:
        """Notes why it cannot be loaded."""
        self._last_error = why[:MAX_ERROR_CHARACTERS]

    def admit(self) -> bool:
        """Whether it may be called. While it is out: as the one probe of each pause."""
        if not self.out:
            return True
        now = self._watches.seconds()
        if now < self._next_probe:
            return False
        self._next_probe = now + self._watches.config.plugin_probe_seconds
        return True

    def refusal(self) -> PluginFailed:
        """The error of a call that is not made. Its cause is for the operator, not for every client."""
        wait = max(self._next_probe - self._watches.seconds(), 0.0)
        return PluginFailed(
            f"the plugin {self.name} is taken out after {self.in_a_row} failures in a row",
            retry_after_seconds=wait + 1,
        )

    def failed(self, why: str) -> None:
        """Counts a failure."""
        config = self._watches.config
        self.failures += 1
        self.in_a_row += 1
        self._last_error = why[:MAX_ERROR_CHARACTERS]
        if self.own:
            return
        if self.out or self.in_a_row >= config.plugin_max_failures:
            self._next_probe = self._watches.seconds() + config.plugin_probe_seconds
            if not self.out:
                self.out = True
                _log.warn(
                    "{plugin} is taken out after {count} failures in a row, and tried every {seconds:g} s: {error}",
                    plugin=self,
                    count=self.in_a_row,
                    seconds=config.plugin_probe_seconds,
                    error=self._last_error,
                )
        elif self.in_a_row == 1:
            # once until it is well again: a plugin that fails on each record must not fill the log
            _log.warn("{plugin} fails: {error}", plugin=self, error=self._last_error)

    def ended(self, began: float, max_seconds: float) -> None:
        """Counts a call that came to its end: a success, unless it took too long."""
        took = self._watches.seconds() - began
        if took > max_seconds:
            self.failed(f"a call took {took:.3f} s; {max_seconds:g} s are allowed")
        elif self.in_a_row:
            self.in_a_row = 0
            self.out = False
            if not self.own:
                _log.info("{plugin} is well again", plugin=self)

    def call(self, work: Callable[[], T], *verdicts: type[Exception]) -> T:
        """Calls it. ``verdicts`` are errors that it may well give; any other is a failure, and raised as it is.
        ``PluginFailed`` while it is out.
        """
        if self.out and not self.admit():
            raise self.refusal()
        began = self._watches.seconds()
        try:
            found = work()
        except verdicts:
            self.ended(began, self._watches.config.plugin_max_seconds)
            raise
        # it is called and returns: there is nothing that could be cancelled meanwhile
        except Exception as error:
            self.failed(described(error))
            raise
        self.ended(began, self._watches.config.plugin_max_seconds)
        return found

    def decide(self, work: Callable[[], T], *verdicts: type[Exception]) -> T:
        """As ``call``, for a caller that must not see an error of unknown kind: it is ``PluginFailed``."""
        try:
            return self.call(work, *verdicts)
        except Exception as error:
            if isinstance(error, (PluginFailed, *verdicts)):
                raise
            raise PluginFailed(f"the plugin {self.name} fails") from error

    async def write(self, work: Callable[[], Awaitable[None]]) -> None:
        """Lets a sink write; raises what it raises. To be asked by ``admit`` first, and one call at a time."""
        began = self._writing_since = self._watches.seconds()
        try:
            await work()
        except CancelledError:
            raise
        except Exception as error:
            self.failed(described(error))
            raise
        finally:
            self._writing_since = None
        self.ended(began, self._watches.config.plugin_max_write_seconds)

    def __str__(self) -> str:
        return f"the plugin {self.name} of {self.group}"


def described(error: Exception) -> str:
    """An error as a line for people."""
    return f"{type(error).__name__}: {error}"


class Watches:
    """The plugins that were asked for, by seam and name. ``seconds`` is a clock that only goes on."""

    def __init__(self, config: PluginsConfig, seconds: Callable[[], float]) -> None:
        self.config = config
        """Replaced by a reload."""
        self.seconds = seconds
        self._of: dict[tuple[str, str], Watch] = {}

    def of(self, group: str, name: str) -> Watch:
        """A plugin's watch, made when it is first asked for."""
        return self._of.setdefault((group, name), Watch(group, name, self))

    def loaded(self, group: str, name: str) -> Watch:
        """The watch of a plugin that was just loaded."""
        watch = self.of(group, name)
        watch.loaded = True
        return watch

    def __iter__(self) -> Iterator[Watch]:
        return iter(self._of.values())
