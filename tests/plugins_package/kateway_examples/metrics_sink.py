"""Figures in a file that Prometheus' node exporter picks up (its textfile collector)."""

import os
from pathlib import Path

import attrs

from kateway.core.metrics_sinks import MetricsSinkContext


class TextFile:
    """Replaces the file each time, whole."""

    @attrs.frozen
    class Options:
        path: str

        def __attrs_post_init__(self) -> None:
            if not self.path.endswith(".prom"):
                raise ValueError(f"path: the collector reads *.prom only, not {self.path!r}")

    def __init__(self, context: MetricsSinkContext, options: Options) -> None:
        self._in_thread = context.in_thread
        self._path = Path(options.path)

    async def write(self, exposition: bytes) -> None:
        await self._in_thread(lambda: self._replace(exposition))

    def _replace(self, exposition: bytes) -> None:
        half = self._path.with_suffix(".half")
        half.write_bytes(exposition)
        os.replace(half, self._path)

    async def close(self) -> None:
        """The last figures stay where they are."""
