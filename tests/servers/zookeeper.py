"""One real ZooKeeper server, from the jars that Kafka 3.9 brings, for tests that freeze and kill it.

Methods block; see ``servers.kafka``.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

from servers.jars import java, kafka_libs
from servers.kafka import JVM, LOG4J_1
from servers.ports import held_port
from servers.process import Process
from servers.proxy import Proxy


class ZooKeeperServer:
    """A standalone server on loopback; ``hosts`` is what a client connects to. ``proxied``: by way of ``proxy``."""

    def __init__(self, *, proxied: bool = False, tick_milliseconds: int = 500) -> None:
        self._libs = kafka_libs("3.9.2")
        self._java = java()
        self._home = Path(tempfile.mkdtemp(prefix="kateway-zookeeper-"))
        self._port = held_port()
        self._process: Process | None = None
        self.proxy = Proxy(self._port) if proxied else None
        # a session may last 2 to 20 ticks
        (self._home / "zoo.cfg").write_text(
            f"tickTime={tick_milliseconds}\ndataDir={self._home}/data\nclientPort={self._port}\n"
            "clientPortAddress=127.0.0.1\nadmin.enableServer=false\nmaxClientCnxns=0\n"
            "4lw.commands.whitelist=*\npreAllocSize=1024\n"
        )
        (self._home / "log4j.properties").write_text(LOG4J_1)

    @property
    def hosts(self) -> str:
        return f"127.0.0.1:{self.proxy.port if self.proxy else self._port}"

    @property
    def direct(self) -> str:
        """The address that no proxy stands before."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> ZooKeeperServer:
        command = [self._java, *JVM, f"-Dlog4j.configuration=file:{self._home}/log4j.properties"]
        command += ["-cp", f"{self._libs}/*", "org.apache.zookeeper.server.quorum.QuorumPeerMain", "zoo.cfg"]
        self._process = Process(command, log=self._home / "zookeeper.log", cwd=self._home)
        self._process.wait_until(self._answers)
        return self

    def _running(self) -> Process:
        if self._process is None:
            raise RuntimeError("ZooKeeper does not run")
        return self._process

    def kill(self) -> None:
        self._running().kill()
        self._process = None

    def stop(self) -> None:
        self._running().stop()
        self._process = None

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers; sessions expire after it thaws."""
        self._running().freeze()

    def thaw(self) -> None:
        self._running().thaw()

    def restart(self) -> None:
        """Starts it again (killing it first if it runs) on the same data and port."""
        if self._process is not None:
            self.kill()
        self.start()

    def command(self, word: str) -> str:
        """The answer to a four-letter command (``ruok``, ``dump``, ``cons``, ``wchc``)."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
            connection.sendall(word.encode())
            answer = b""
            while more := connection.recv(65536):
                answer += more
        return answer.decode()

    def _answers(self) -> bool:
        try:
            # "imok" comes before it serves; srvr says so
            return "Mode: standalone" in self.command("srvr")
        except OSError:
            return False

    def close(self) -> None:
        """Ends it and deletes its data."""
        if self._process is not None:
            self.kill()
        if self.proxy is not None:
            self.proxy.close()
        shutil.rmtree(self._home, ignore_errors=True)
