"""Tries, for an upgrade in place, what only a start would find: ports that are taken, directories that cannot be made.

The code that runs is gone when the new code meets them, so it has to meet them before.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from kateway.config.schema import Config, EmbeddedStorageConfig
from kateway.daemon.assembly import data_directory
from kateway.errors import Problems
from kateway.web.tcp.endpoints import parse_endpoint
from kateway.web.tcp.shared_sockets import listening_sockets


def try_out(present: Config, new: Config) -> None:
    """``ConfigError`` names each endpoint and directory, which ``present`` has not, that cannot be used."""
    problems = Problems()
    taken = set(_endpoints(present))
    with ExitStack() as open_until_the_end:
        for endpoint in _endpoints(new):
            if endpoint in taken:
                continue
            if endpoint.startswith(("tcp:", "tcp6:", "ssl:")):
                for one in problems.take(listening_sockets, endpoint, 1) or ():
                    open_until_the_end.enter_context(one)
            elif endpoint.startswith("unix:"):
                directory = Path(parse_endpoint(endpoint).options.get("address", "")).parent
                why = _unusable(directory) if directory.is_dir() else f"{directory} is no directory"
                problems.found += [f"cannot listen on {endpoint}: {why}"] if why else []
    own = set(_directories(present))
    problems.found += [
        f"{directory}: {why}"
        for directory in _directories(new)
        if directory not in own and (why := _unusable(directory))
    ]
    problems.refuse()


def _endpoints(settings: Config) -> Iterator[str]:
    yield from settings.http.public
    yield from settings.http.admin
    if settings.cluster.endpoint:
        yield settings.cluster.endpoint


def _directories(settings: Config) -> Iterator[Path]:
    yield data_directory(settings)
    for cluster in settings.storage.values():
        if isinstance(cluster, EmbeddedStorageConfig) and cluster.path:
            yield Path(cluster.path)
    if settings.registry.driver == "embedded" and settings.registry.path:
        yield Path(settings.registry.path)


def _unusable(directory: Path) -> str:
    """Why no file can be made in it. It is tried: rights alone say yes to root where the file system says no, as on
    ``/proc``. What was made for it is removed again.
    """
    made: list[Path] = []
    try:
        for place in (*reversed(directory.parents), directory):
            if place.is_dir():
                continue
            if place.exists():
                return f"cannot be made: {place} is no directory"
            place.mkdir()
            made.append(place)
        with tempfile.TemporaryFile(dir=directory):
            return ""
    except OSError as error:
        return f"no file can be made in it: {error.strerror or error}"
    finally:
        for place in reversed(made):
            with suppress(OSError):
                place.rmdir()
