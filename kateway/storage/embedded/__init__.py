"""The embedded store: a cluster in one SQLite file, durable at 201, for one process."""

from kateway.storage.embedded.store import EmbeddedStore

__all__ = ["EmbeddedStore"]
