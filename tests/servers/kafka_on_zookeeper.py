"""Apache Kafka 3.9, the last that can be run with ZooKeeper: one broker whose place only ZooKeeper knows."""

from __future__ import annotations

from servers.kafka import KafkaCluster
from servers.ports import held_port
from servers.zookeeper import ZooKeeperServer


class KafkaOnZooKeeper(KafkaCluster):
    """Broker 1 of the cluster that ``zookeeper`` keeps under ``/root``."""

    def __init__(self, zookeeper: ZooKeeperServer, root: str) -> None:
        super().__init__("3.9.2")
        self.connect = f"{zookeeper.hosts}/{root}"
        """As Kafka's ``zookeeper.connect``."""

    def move(self) -> None:
        """The broker comes back with its data on other ports."""
        self.stop(1)
        self._ports[1], self._direct_ports[1] = held_port(), held_port()
        self._format(1)
        self._launch(1)
        self.wait()

    def _format(self, node: int) -> None:
        self._write_properties(node)

    def _properties(self, node: int) -> dict[str, str]:
        kept = {
            name: value
            for name, value in super()._properties(node).items()
            if name.startswith(("listeners", "advertised", "inter.", "log.", "auto.", "default.", "offsets.", "group."))
        }
        return kept | {
            "broker.id": str(node),
            "zookeeper.connect": self.connect,
            "zookeeper.session.timeout.ms": "4000",
            "listeners": f"PLAINTEXT://127.0.0.1:{self._ports[node]},DIRECT://127.0.0.1:{self._direct_ports[node]}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,DIRECT:PLAINTEXT",
        }
