"""Reads what the operating system says of this process: CPU, memory, files, start."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from kateway.observe import families
from kateway.observe.families import Family

PROC = Path("/proc")


def process(proc: Path = PROC) -> Iterator[tuple[Family, tuple[str, ...], float]]:
    """Gives the ``process_`` gauges that can be known here: elsewhere than on Linux CPU time and the files' limit."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    yield families.CPU, (), usage.ru_utime + usage.ru_stime
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most != resource.RLIM_INFINITY:
        yield families.MAX_FILES, (), float(most)
    try:
        # behind the name, which may hold anything: the third field is the first
        stat = (proc / "self/stat").read_text().rpartition(")")[2].split()
        booted = _booted(proc)
        open_files = len(os.listdir(proc / "self/fd"))
    except (OSError, ValueError):
        return
    yield families.RESIDENT, (), float(int(stat[21]) * os.sysconf("SC_PAGE_SIZE"))
    yield families.OPEN_FILES, (), float(open_files)
    if booted is not None:
        yield families.STARTED, (), booted + int(stat[19]) / os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    """CPU time used by this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return round(usage.ru_utime + usage.ru_stime, 3)


def resident_bytes(proc: Path = PROC) -> int:
    """Memory in use; 0 where that cannot be known."""
    try:
        return int((proc / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _booted(proc: Path) -> float | None:
    """Returns when the machine was started, in seconds since the epoch."""
    for line in (proc / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return None
