"""Three installed gateways of one Kafka and one registry in ZooKeeper, behind a load balancer, and their traffic."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from servers.balancers import Balancer
from servers.daemon import Daemon
from servers.kafka import KafkaCluster
from servers.zookeeper import ZooKeeperServer

from history.balanced import Traffic
from history.run import wait_until

GATEWAYS = 3
DRAIN_DELAY_SECONDS = 4.0
"""More than the two looks, a second apart, after which HAProxy leaves a gateway out."""


class Fleet:
    """``make`` gives a daemon by its options and its name; the same name again has the same ports."""

    def __init__(
        self,
        kind: str,
        make: Callable[..., Daemon],
        folder: Path,
        cluster: KafkaCluster,
        zookeeper: ZooKeeperServer,
        root: str,
        *,
        topic: str,
        partitions: int = 6,
    ) -> None:
        self._make = make
        self._folder = folder
        self._starts = 0
        self._text = (
            f'[http]\nproxies = ["127.0.0.1"]\ndrain_delay_seconds = {DRAIN_DELAY_SECONDS}\ndrain_seconds = 10\n'
            f'[storage.default]\ndriver = "kafka"\nbrokers = {json.dumps(cluster.addresses)}\n'
            f'[registry]\ndriver = "zookeeper"\nhosts = "{zookeeper.hosts}/{root}"\nsession_timeout_seconds = 4\n'
            f'[delivery]\nsession_timeout_seconds = 6\n[log]\nformat = "json"\n'
        )
        self.gateways = [self._gateway(number) for number in range(GATEWAYS)]
        for gateway in self.gateways:
            gateway.wait_for_ready()
        self.balancer = Balancer(kind, [gateway.public_port for gateway in self.gateways]).start()
        self._admin("PUT", "/applications/app1", {})
        self._admin("PUT", f"/topics/app1/{topic}/v1", {"partitions": partitions})
        shown = {}
        for key in ("Pubkey", "Subkey"):
            made = self._admin("POST", "/applications/app1/keys", {"kind": key[:3].lower()})
            shown[key] = {key: made["key"], "Secret": made["secret"]}
        self.traffic = Traffic(self.balancer.port, topic, (shown["Pubkey"], shown["Subkey"]))
        for gateway in self.gateways:
            wait_until(lambda port=gateway.public_port: self._known(port, topic, shown["Pubkey"]), 30, "the registry")

    def _known(self, port: int, topic: str, shown: dict[str, str]) -> bool:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/topics", headers=shown)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return topic in answer.read().decode()
        except OSError:
            return False

    def start(self, number: int) -> None:
        """Starts a gateway again, at its ports."""
        self.gateways[number] = self._gateway(number, self.gateways[number])
        self.gateways[number].wait_for_ready()

    def kill(self, number: int) -> float:
        """With -9; the time of it."""
        at = time.monotonic()
        self.gateways[number].kill()
        return at

    def log(self, number: int) -> Path:
        return self._folder / f"access-{number}.log"

    def peers(self) -> set[str]:
        """The addresses in all access logs, of requests for the topic's records."""
        lines = [line for number in range(GATEWAYS) for line in self.log(number).read_text().splitlines()]
        return {each["peer"] for each in map(json.loads, lines) if each["path"].startswith(self.traffic.topic)}

    def close(self) -> None:
        self.balancer.close()
        for gateway in self.gateways:
            gateway.close()

    def _gateway(self, number: int, before: Daemon | None = None) -> Daemon:
        config = self._folder / f"gateway-{number}.toml"
        own = f'access_file = "{self.log(number)}"\n'
        config.write_text(f'data_directory = "{self._folder}/data-{number}"\n{self._text}{own}')
        self._starts += 1
        ports = {} if before is None else {"public_port": before.public_port, "admin_port": before.admin_port}
        return self._make("--config", str(config), name=f"gateway-{number}-{self._starts}", **ports).launch()

    def _admin(self, method: str, path: str, body: Any) -> Any:
        url = f"{self.gateways[0].admin}/admin/v1{path}"
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
        return json.loads(content) if content else None
