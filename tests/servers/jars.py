"""Kafka's jars, fetched with Maven once and kept in a cache folder.

The folder is ``.cache`` in the project's root (git ignores it) or ``KATEWAY_CACHE``. Several test runs may fetch at
once: one does, the others wait for it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VERSIONS = ("3.9.2", "4.3.1")

_ATTEMPTS = 3
_ATTEMPT_SECONDS = 300
_PAUSE_SECONDS = 5
# Maven's own patience with a download that stands still is half an hour. The first two are for 3.9, the third for 3.8.
_PATIENCE = (
    "-Daether.connector.connectTimeout=20000",
    "-Daether.connector.requestTimeout=30000",
    "-Dmaven.wagon.rto=30000",
)

POM = """<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>kateway.tests</groupId>
  <artifactId>kafka-jars</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{version}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka-tools</artifactId>
      <version>{version}</version>
    </dependency>
  </dependencies>
</project>
"""


class ServersMissing(Exception):
    """This machine cannot run the servers; the message says what it lacks."""


def cache_folder() -> Path:
    given = os.environ.get("KATEWAY_CACHE")
    return Path(given) if given else Path(__file__).resolve().parents[2] / ".cache"


def java() -> str:
    """The path of the Java command, or ``ServersMissing``."""
    found = shutil.which("java")
    if found is None:
        raise ServersMissing("there is no java command: Kafka and ZooKeeper cannot run")
    return found


_unfetched: dict[str, ServersMissing] = {}
"""What could not be fetched is not tried again by each test."""


def kafka_libs(version: str) -> Path:
    """The folder that holds every jar of a Kafka version, fetched if it is not there yet."""
    if version in _unfetched:
        raise _unfetched[version]
    java()
    home = cache_folder() / "kafka" / version
    libs = home / "libs"
    if libs.is_dir():
        return libs
    maven = shutil.which("mvn")
    if maven is None:
        raise ServersMissing("there is no mvn command: Kafka's jars cannot be fetched")
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not libs.is_dir():
            _fetch(maven, version, home)
    return libs


def _fetch(maven: str, version: str, home: Path) -> None:
    with tempfile.TemporaryDirectory(dir=home) as temporary:
        work = Path(temporary)
        (work / "pom.xml").write_text(POM.format(version=version))
        goal = ("dependency:copy-dependencies", "-DoutputDirectory=libs", "-DincludeScope=runtime")
        for attempt in range(1, _ATTEMPTS + 1):
            said = _said(maven, "-q", "-B", *_PATIENCE, *goal, cwd=work)
            if said is None:
                break
            print(f"Kafka {version}: attempt {attempt} of {_ATTEMPTS} to fetch it failed", flush=True)
            time.sleep(_PAUSE_SECONDS)
        else:
            _unfetched[version] = ServersMissing(f"Maven could not fetch Kafka {version}:\n{said}")
            raise _unfetched[version]
        # a rename is atomic: the folder is there in full or not at all
        (work / "libs").rename(home / "libs")


def _said(*command: str, cwd: Path) -> str | None:
    """Runs it; None when it did what it should, otherwise the end of what it printed."""
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_ATTEMPT_SECONDS,
        )
    except subprocess.TimeoutExpired as late:
        return f"{(late.stdout or b'').decode(errors='replace')[-4000:]}\nnot done in {_ATTEMPT_SECONDS} s"
    return None if done.returncode == 0 else done.stdout.decode(errors="replace")[-4000:]


def main() -> None:
    """Fetches what the tests will need, so that no test waits for it. What this machine lacks is for them to say, but
    where they must have it (``KATEWAY_REQUIRE_KAFKA=1``) they need not begin.
    """
    for version in VERSIONS:
        try:
            print(f"Kafka {version}: {kafka_libs(version)}")
        except ServersMissing as reason:
            if os.environ.get("KATEWAY_REQUIRE_KAFKA") == "1":
                sys.exit(f"Kafka {version}: {reason}")
            print(f"Kafka {version}: {reason}")


if __name__ == "__main__":
    main()
