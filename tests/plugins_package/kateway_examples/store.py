"""A cluster whose records are gone with the process: an embedded store in a temporary directory."""

import secrets
import shutil
import tempfile
from pathlib import Path

import attrs

from kateway.config.schema import EmbeddedStorageConfig
from kateway.core.plugins import StoreContext
from kateway.storage.embedded import EmbeddedStore


class Scratch(EmbeddedStore):
    """Keeps the contract of ``kateway.storage.interface.Store``, most of it by inheritance."""

    @attrs.frozen
    class Options:
        max_bytes: int = 16777216

    def __init__(self, context: StoreContext, options: Options) -> None:
        # made when it starts: a configuration that is only checked leaves nothing behind
        self._folder = Path(tempfile.gettempdir()) / f"kateway-scratch-{secrets.token_hex(8)}"
        settings = EmbeddedStorageConfig(path=str(self._folder), max_bytes=options.max_bytes)
        super().__init__(settings, context.reactor, context.name, cells=context.cells)

    async def stop(self, grace_seconds: float) -> None:
        await super().stop(grace_seconds)
        shutil.rmtree(self._folder, ignore_errors=True)
