"""Real servers for the tests: Kafka, ZooKeeper, a proxy that breaks connections, and an independent Kafka client."""
