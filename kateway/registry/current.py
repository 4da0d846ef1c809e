"""The snapshot in force and its watchers: every driver holds one of these."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from kateway.registry.interface import Callback, Snapshot


class Current:
    """The snapshot in force; replaced as a whole."""

    _log = Logger()

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._watchers: dict[object, Callback] = {}
        self.applied: Callable[[float], None] = lambda _noticed: None
        """Called with each snapshot put in force: when its change was noticed."""

    def watch(self, callback: Callback) -> Callable[[], None]:
        token = object()
        self._watchers[token] = callback

        def unwatch() -> None:
            self._watchers.pop(token, None)

        return unwatch

    def replace(self, snapshot: Snapshot, noticed: float | None = None) -> None:
        """Puts a snapshot in force and tells the watchers; one that fails does not keep the news from the others.
        ``noticed``: when it was known that there is a change.
        """
        self.snapshot = snapshot
        for callback in list(self._watchers.values()):
            try:
                callback(snapshot)
            except Exception:
                self._log.failure("A watcher of the registry failed")
        if noticed is not None:
            self.applied(noticed)

    def counts(self) -> dict[str, object]:
        """For ``Health.details``."""
        snapshot = self.snapshot
        return {
            "revision": snapshot.revision,
            "applications": len(snapshot.applications),
            "keys": len(snapshot.keys),
            "topics": len(snapshot.topics),
            "bindings": len(snapshot.bindings),
            "transforms": len(snapshot.transforms),
        }
